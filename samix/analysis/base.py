"""The base of an analysis: its options, its run, and the numbers it writes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from tyro.conf import Positional

from samix.analysis.subject import Subject, load_subject
from samix.data import denormalize
from samix.runtime.atomic_files import write_text
from samix.runtime.typed_options import AtLeast2, CheckedOptions, CountOr0, Seed
from samix.viz.figures import save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAMS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, eq=False)
class Findings:
    """The outcome of an analysis."""

    line: str  # the numbers that matter, for the terminal
    results: Mapping[str, object]  # by name, written as JSON; tensors in them are left out
    figure: Figure  # the picture


@dataclass(frozen=True)
class Analysis(CheckedOptions):
    """An analysis: a subclass declares ``name``, its options as fields, and :meth:`analyse`.

    Args:
        source: a run's folder, a checkpoint (.pt), or an export's folder.
        out: the PNG to write; the numbers go beside it as JSON. Empty is analysis-NAME.png.
        data: data set with the network's classes; empty takes the one it was trained on.
        data_root: where torchvision's data sets lie.
        images: held-out images, of all classes alike; 0 takes all.
        batch_size: images in a pass.
        seed: of images, pairs and draws.
        device: auto, cpu or cuda.
    """

    name: ClassVar[str] = ""

    source: Positional[Path]
    out: str = ""
    data: str = ""
    data_root: str = "data"
    images: CountOr0 = 500
    batch_size: AtLeast2 = 100
    seed: Seed = 0
    device: str = "auto"

    def run(self) -> str:
        """Runs the analysis and returns the line to print."""
        self.check()
        path = Path(self.out or f"analysis-{self.name}.png")
        if path.suffix != ".png":
            raise ValueError(f"--out must end in .png, got {path}")
        subject = load_subject(self)
        path.parent.mkdir(parents=True, exist_ok=True)
        findings = self.analyse(subject)
        save_png(findings.figure, path)
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "out"}
        numbers = {"analysis": self.name, "images": len(subject.images), "options": options, **findings.results}
        write_text(path.with_suffix(".json"), json.dumps(plain(numbers), indent=1, allow_nan=False) + "\n")
        return f"{path}: {findings.line}"

    def check(self) -> None:
        """Raises ValueError for options that are out of range."""

    def analyse(self, subject: Subject) -> Findings:
        """Computes the numbers and draws the picture."""
        raise NotImplementedError


@dataclass(frozen=True)
class MixingAnalysis(Analysis):
    """An analysis of mixed images.

    Args:
        mixup: by which images are mixed, by name or mixer:PATH; empty takes the run's own, or mixup.
    """

    mixup: str = ""


def plain(value: object) -> object:
    """Converts results to JSON: NaN becomes null, paths become text; tensors in dataclasses are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {name: plain(part) for name, part in pairs.items() if not isinstance(part, Tensor)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def nearest_half(values: Sequence[float]) -> int:
    """Returns the index of the value nearest to 0.5."""
    return min(range(len(values)), key=lambda n: abs(values[n] - 0.5))


def evenly(count: int, most: int) -> Tensor:
    """Returns up to ``most`` of ``count`` rows, evenly spaced."""
    import torch

    return torch.linspace(0, count - 1, min(most, count)).long()


def pixels_of(subject: Subject, images: Tensor) -> Tensor:
    """Returns images for a picture: in [0, 1], on the CPU."""
    return denormalize(images, subject.mean, subject.std).cpu()
