"""Where and how a recipe is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from samix.data.replacements import OnBadImage, check_on_bad_image


@dataclass(frozen=True)
class RunOptions:
    """Where and how a recipe is run; nothing here changes the result of a run on which all goes well.

    Args:
        out: folder of all runs.
        run: name of this run's folder; empty is RECIPE-MIXUP-sSEED.
        resume: continue from ``last.pt``, if it is there.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: where torchvision's data sets lie.
        download: fetch those that are missing.
        tensorboard: also write TensorBoard logs.
        quiet: no progress bar.
        keep: number of last checkpoints to keep: ``last.pt``, ``last-1.pt``, ...
        save_every: steps between checkpoints inside an epoch; 0 saves at the end of each epoch only.
        save_minutes: minutes between checkpoints inside an epoch; 0 for none.
        max_skips: number of steps with a loss or gradient that is not finite which may be left out, each as if it had
            never been; 0 stops at the first. A copy of the run's state is then kept on the device.
        on_bad_image: what to do about an image that cannot be read: ``stop``, or ``skip``: another one stands in, and
            it is counted and named at the end of each epoch.

    Raises:
        ValueError: a number out of range.
    """

    out: str = "runs"
    run: str = ""
    resume: bool = False
    device: str = "auto"
    data_root: str = "data"
    download: bool = False
    tensorboard: bool = False
    quiet: bool = False
    keep: int = 2
    save_every: int = 0
    save_minutes: float = 0.0
    max_skips: int = 0
    on_bad_image: OnBadImage = "stop"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")
        for name in ("save_every", "save_minutes", "max_skips"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0, got {value}")
        check_on_bad_image(self.on_bad_image)


def short_name(mixup: str) -> str:
    """A mixup's name for a folder: of ``mixer:PATH`` what is not a path."""
    kind, _, path = mixup.partition(":")
    parts = [part for part in Path(path).parts if part not in ("mixer", "/", ".", "..")]
    return f"{kind}-{parts[-1].removesuffix('.safetensors')}" if parts else kind
