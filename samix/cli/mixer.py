"""``samix mixer``: trains, distils, exports, checks, describes and shares Mixers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from samix.cli.options import UsageError, read
from samix.runtime.checks import check_choice
from samix.runtime.typed_options import AtLeast2, Count, CountOr0, ImageSide, Positive, Seed, check_options

MIXER = """samix mixer: train and share Mixers

  samix mixer train --data DIR ...           train one, as samix train does, with --mixup score unless you name another
  samix mixer distill PATH DIR --data DATA   train a score generator to predict the masks of a Mixer
  samix mixer export SOURCE DIR [--onnx]     write a Mixer's folder from a checkpoint, or an ONNX graph of a Mixer
  samix mixer check PATH [a.jpg b.jpg ...]   measure how its masks follow lambda, on digits or on your images
  samix mixer card DIR [--licence NAME]      write its card again, with measured figures, and print it
  samix mixer push DIR OWNER/NAME            upload it to the Hugging Face hub; --dry-run prints what would be sent

PATH is a folder, a model.safetensors, a hub id owner/name, default or slim. Use one: samix train --mixup mixer:PATH
"""


@dataclass(frozen=True)
class MixerDistill:
    """Trains a score generator to predict the masks of a Mixer, on the same encoder.

    Args:
        path: path or hub id of the teacher.
        folder: folder to write.
        data: images to learn from, see ``samix train``; labels are not used.
        limit: number of images, balanced over the classes; 0 uses all. They are kept in memory.
        size: side of the images in pixels.
        maps: 1 scores an image alike as own and as partner; 2 scores it once for each role.
        width: channels inside the head.
        steps: number of training steps.
        batch_size: images a step.
        lr: largest learning rate.
        seed: seed of images, lam, pairs and first weights.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: folder of torchvision's data sets.
    """

    path: Positional[str]
    folder: Positional[Path]
    data: str
    limit: CountOr0 = 4000
    size: ImageSide = 64
    maps: Literal[1, 2] = 1
    width: Count = 64
    steps: Count = 1000
    batch_size: AtLeast2 = 64
    lr: Positive = 3e-3
    seed: Seed = 0
    device: str = "auto"
    data_root: str = "data"

    def __post_init__(self) -> None:
        check_options(self)

    def run(self) -> int:
        """Trains, writes the folder and prints the agreement with the teacher; returns the exit status."""
        from samix.hub.mixer_distill import distill_mixer

        values = asdict(self)
        print(distill_mixer(values.pop("path"), values.pop("folder"), values.pop("data"), **values))
        return 0


@dataclass(frozen=True)
class MixerExport:
    """Writes the folder of a Mixer from a checkpoint, or an ONNX graph of a Mixer.

    Args:
        source: checkpoint of a learned mixup: last.pt, best.pt, or a run's folder; with ``--onnx`` also a Mixer.
        folder: folder to write.
        onnx: write ``model.onnx`` too: two batches of images and lam to masks, for any batch and size.
        licence: licence of the weights, for the card.
    """

    source: Positional[str]
    folder: Positional[Path]
    onnx: bool = False
    licence: str = ""

    def run(self) -> int:
        """Writes the folder; returns the exit status."""
        from samix.hub.mixer_export import export_mixer

        print(export_mixer(self.source, self.folder, self.licence, onnx=self.onnx))
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
    size: ImageSide = 64
    data_root: str = "data"

    def __post_init__(self) -> None:
        check_options(self)

    def run(self) -> int:
        """Prints the report; the exit status is 1 for a Mixer with faults."""
        from samix.analysis.mixer_check import check_shared

        report = check_shared(self.path, self.images, self.size, self.data_root)
        print(report.text)
        return 1 if report.faults else 0


@dataclass(frozen=True)
class MixerCard:
    """Writes a Mixer's card again, and its figures as ``.eval_results`` of the hub.

    Args:
        folder: folder of the Mixer.
        licence: licence of the weights; empty keeps the one that is there.
        masks: JSON file of ``benchmarks/mixer_quality.py``: what the masks keep of the objects.
        gains: CSV file of ``benchmarks/worth.py``: accuracy with the Mixer, paired by seed with other mixups.
        method: name of the Mixer in these files; empty takes the folder's name.
        picture: PNG of its masks, such as ``samix show mixer:DIR a.jpg b.jpg`` writes; copied.
    """

    folder: Positional[Path]
    licence: str = ""
    masks: Path | None = None
    gains: Path | None = None
    method: str = ""
    picture: Path | None = None

    def run(self) -> int:
        """Writes and prints the card; returns the exit status."""
        from samix.compare.mixer_card import write_card

        print(write_card(**vars(self)))
        return 0


@dataclass(frozen=True)
class MixerPush:
    """Uploads a Mixer's folder to the Hugging Face hub.

    Args:
        folder: folder of the Mixer.
        repo: owner/name on the hub; made if it does not exist.
        private: make it private.
        dry_run: check the folder and print what would be uploaded; needs no network.
    """

    folder: Positional[Path]
    repo: Positional[str]
    private: bool = False
    dry_run: bool = False

    def run(self) -> int:
        """Uploads and prints what was sent; returns the exit status."""
        from samix.hub.mixer_push import push_mixer

        print(push_mixer(**vars(self)))
        return 0


def train_mixer(arguments: list[str]) -> int:
    """Trains a learned mixup, ``score`` where none is named; returns the exit status."""
    from samix.cli.train import execute, parse_train
    from samix.recipes.build import METHODS

    named = {word.partition("=")[0] for word in arguments} & {"--mixup", "--config", "--resume"}
    recipe, options = parse_train(arguments if named else ["--mixup", "score", *arguments])
    if recipe.mixup not in METHODS.names():
        raise UsageError(f"{recipe.mixup} trains no Mixer; choose one of {', '.join(METHODS.names())}")
    return execute(recipe, options)


ACTIONS: dict[str, type[MixerDistill | MixerExport | MixerCheck | MixerCard | MixerPush]] = {
    "distill": MixerDistill,
    "export": MixerExport,
    "check": MixerCheck,
    "card": MixerCard,
    "push": MixerPush,
}


def mixer(arguments: list[str]) -> int:
    """``samix mixer train | distill | export | check | card | push``."""
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(MIXER)
        return 0
    if action == "train":
        return train_mixer(rest)
    check_choice("the action of samix mixer", action, ("train", *ACTIONS))
    return read(ACTIONS[action], rest, f"samix mixer {action}").run()
