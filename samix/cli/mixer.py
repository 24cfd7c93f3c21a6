"""``samix mixer``: exports, checks and describes trained Mixers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from samix.cli.options import read
from samix.runtime.checks import IMAGE_SIDE, check_fields

MIXER = """samix mixer: trained Mixers as things to share

  samix mixer export runs/NAME/last.pt DIR   a Mixer's folder out of a checkpoint (a run leaves one in runs/NAME/mixer)
  samix mixer check PATH [a.jpg b.jpg ...]   how its masks follow lambda, on digits or on your images
  samix mixer card DIR [--licence NAME]      write its card anew, and print it

PATH is a folder, a model.safetensors, a hub id owner/name, or default. Use one: samix train --mixup mixer:PATH
"""


@dataclasses.dataclass(frozen=True)
class MixerExport:
    """Makes the folder of a Mixer out of a checkpoint.

    Args:
        checkpoint: of AutoMix or SAMix: last.pt, best.pt, or a run's folder.
        folder: where to write it.
        licence: of the weights, for the card.
    """

    checkpoint: Positional[Path]
    folder: Positional[Path]
    licence: str = ""


@dataclasses.dataclass(frozen=True)
class MixerCheck:
    """Reads a Mixer and measures its masks over lambda.

    Args:
        path: of the Mixer.
        images: image files to mix; empty takes digits.
        size: side of the images in pixels.
        data_root: where torchvision's data sets lie.
    """

    path: Positional[str]
    images: Positional[tuple[Path, ...]] = ()
    size: int = 64
    data_root: str = "data"

    def __post_init__(self) -> None:
        check_fields(self, {"size": IMAGE_SIDE})


@dataclasses.dataclass(frozen=True)
class MixerCard:
    """Writes a Mixer's card anew.

    Args:
        folder: of the Mixer.
        licence: of the weights; empty keeps what is there.
    """

    folder: Positional[Path]
    licence: str = ""


def mixer(arguments: list[str]) -> int:
    """``samix mixer export | check | card``."""
    action, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if action in ("-h", "--help"):
        print(MIXER)
        return 0
    if action not in ("export", "check", "card"):
        raise ValueError(f"samix mixer has export, check and card, got {action!r}")
    if action == "export":
        export: MixerExport = read(MixerExport, rest, "samix mixer export")
        from samix.hub.mixer_folder import export_mixer

        print(export_mixer(export.checkpoint, export.folder, export.licence))
        return 0
    if action == "card":
        card: MixerCard = read(MixerCard, rest, "samix mixer card")
        from samix.hub.mixer_folder import write_card

        print(write_card(card.folder, card.licence))
        return 0
    check: MixerCheck = read(MixerCheck, rest, "samix mixer check")
    from samix.analysis.mixer_check import check_shared

    report = check_shared(check.path, check.images, check.size, check.data_root)
    print(report.text)
    return 1 if report.faults else 0
