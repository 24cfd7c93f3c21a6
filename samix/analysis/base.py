"""What every analysis of ``samix analyse`` shares: its options, its run, and the numbers it writes."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from tyro.conf import Positional

from samix.analysis.subject import Subject, load_subject
from samix.data import denormalize
from samix.runtime.atomic_files import write_text, write_whole
from samix.runtime.checks import COUNT_OR_0, SEED, Range, Ranges, check_fields

LAMS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Analysis:
    """What every analysis is given.

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
    ranges: ClassVar[Ranges] = {}  # of an analysis's own numbers

    source: Positional[Path]
    out: str = ""
    data: str = ""
    data_root: str = "data"
    images: int = 500
    batch_size: int = 100
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, {"images": COUNT_OR_0, "batch_size": Range(2), "seed": SEED, **self.ranges})

    def run(self) -> str:
        """Does the analysis; the line to print.

        Raises:
            FileNotFoundError, ValueError: wrong source, data or options.
        """
        self.check()
        path = Path(self.out or f"analysis-{self.name}.png")
        if path.suffix != ".png":
            raise ValueError(f"--out must end in .png, got {path}")
        subject = load_subject(
            self.source, self.data, self.data_root, self.images, self.batch_size, self.seed, self.device
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        line, results = self.analyse(subject, path)
        options = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "out"}
        told = {"analysis": self.name, "images": len(subject.images), "options": options, **plain(results)}
        write_text(path.with_suffix(".json"), json.dumps(told, indent=1, allow_nan=False) + "\n")
        return f"{path}: {line}"

    def check(self) -> None:
        """Raises ValueError for options that are out of range."""

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Writes the picture; the line, and the results by name."""
        raise NotImplementedError


def plain(value: Any) -> Any:
    """Results as JSON has them: NaN becomes null, paths text; tensors, which are for pictures, are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if not_tensor(value, f.name)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def not_tensor(owner: Any, name: str) -> bool:
    """Whether a field is no tensor."""
    return not isinstance(getattr(owner, name), Tensor)


def pixels_of(subject: Subject, images: Tensor) -> Tensor:
    """Images for a picture: in [0, 1], on the CPU."""
    return denormalize(images, subject.mean, subject.std).cpu()


def paint(path: Path, draw: Any) -> None:
    """Writes a picture, whole or not at all."""
    write_whole(path, draw)
