"""``samix mixer``: exports, checks and describes trained Mixers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from samix.cli.options import read
from samix.runtime.checks import IMAGE_SIDE, check_choice, check_fields

MIXER = """samix mixer: share trained Mixers

  samix mixer export runs/NAME/last.pt DIR   write a Mixer's folder from a checkpoint (a run writes runs/NAME/mixer)
  samix mixer check PATH [a.jpg b.jpg ...]   measure how its masks follow lambda, on digits or on your images
  samix mixer card DIR [--licence NAME]      write its card again, and print it

PATH is a folder, a model.safetensors, a hub id owner/name, or default. Use one: samix train --mixup mixer:PATH
"""


@dataclass(frozen=True)
class MixerExport:
    """Writes the folder of a Mixer from a checkpoint.

    Args:
        checkpoint: checkpoint of AutoMix or SAMix: last.pt, best.pt, or a run's folder.
        folder: folder to write.
        licence: licence of the weights, for the card.
    """

    checkpoint: Positional[Path]
    folder: Positional[Path]
    licence: str = ""

    def run(self) -> int:
        """Writes the folder; returns the exit status."""
        from samix.hub.mixer_export import export_mixer

        print(export_mixer(self.checkpoint, self.folder, self.licence))
        return 0


@dataclass(frozen=True)
class MixerCheck:
    """Reads a Mixer and measures its masks over lambda.

    Args:
        path: path or hub id of the Mixer.
        images: image files to mix; empty takes digits.
        size: side of the images in pixels.
        data_root: folder of torchvision's data sets.
    """

    path: Positional[str]
    images: Positional[tuple[Path, ...]] = ()
    size: int = 64
    data_root: str = "data"

    def __post_init__(self) -> None:
        check_fields(self, {"size": IMAGE_SIDE})

    def run(self) -> int:
        """Prints the report; the exit status is 1 for a Mixer with faults."""
        from samix.analysis.mixer_check import check_shared

        report = check_shared(self.path, self.images, self.size, self.data_root)
        print(report.text)
        return 1 if report.faults else 0


@dataclass(frozen=True)
class MixerCard:
    """Writes a Mixer's card again.

    Args:
        folder: folder of the Mixer.
        licence: licence of the weights; empty keeps the one that is there.
    """

    folder: Positional[Path]
    licence: str = ""

    def run(self) -> int:
        """Writes and prints the card; returns the exit status."""
        from samix.hub.mixer_export import write_card

        print(write_card(self.folder, self.licence))
        return 0


ACTIONS: dict[str, type[MixerExport | MixerCheck | MixerCard]] = {
    "export": MixerExport,
    "check": MixerCheck,
    "card": MixerCard,
}


def mixer(arguments: list[str]) -> int:
    """``samix mixer export | check | card``."""
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(MIXER)
        return 0
    check_choice("the action of samix mixer", action, ACTIONS)
    return read(ACTIONS[action], rest, f"samix mixer {action}").run()
