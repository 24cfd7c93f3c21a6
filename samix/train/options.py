"""Where and how a recipe is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samix.data.replacements import OnBadImage
from samix.runtime.checks import Range, check_choice
from samix.runtime.typed_options import CountOr0, Weight, check_options

LOGS = ("tensorboard", "wandb", "trackio", "mlflow")


@dataclass(frozen=True)
class RunOptions:
    """Where and how a recipe runs. No option here changes the result of a run without errors.

    Args:
        out: folder of all runs.
        run: name of this run's folder; empty is RECIPE-MIXUP-sSEED.
        resume: continue from ``last.pt``, if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        data_root: folder of torchvision's data sets.
        download: download torchvision's data sets that are missing.
        log: trackers, separated by commas: ``tensorboard``, ``wandb``, ``trackio``, ``mlflow``.
        tensorboard: the same as ``log="tensorboard"``.
        pictures: draw curves, mixed images and views.
        quiet: no progress bar.
        keep: number of last checkpoints to keep: ``last.pt``, ``last-1.pt``, ...
        save_every: steps between checkpoints inside an epoch; 0 saves at the end of each epoch only.
        save_minutes: minutes between checkpoints inside an epoch; 0 for none.
        max_skips: largest number of steps with a non-finite loss or gradient to skip; the run then continues as if
            the step did not exist. 0 stops at the first. Above 0, a copy of the run's state is kept on the device.
        on_bad_image: ``stop`` at an image that cannot be read, or ``skip`` it: another one is used, and the image is
            counted and named at the end of each epoch.
    """

    out: str = "runs"
    run: str = ""
    resume: bool = False
    device: str = "auto"
    data_root: str = "data"
    download: bool = False
    log: str = ""
    tensorboard: bool = False
    pictures: bool = True
    quiet: bool = False
    keep: Annotated[int, Range(1, 100)] = 2
    save_every: CountOr0 = 0
    save_minutes: Weight = 0.0
    max_skips: CountOr0 = 0
    on_bad_image: OnBadImage = "stop"

    def __post_init__(self) -> None:
        check_options(self)
        for name in self.trackers:
            check_choice("log", name, LOGS)

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names of the trackers to log to."""
        names = [name.strip() for name in self.log.split(",") if name.strip()]
        return tuple(dict.fromkeys([*names, *["tensorboard"] * self.tensorboard]))


def short_name(mixup: str) -> str:
    """Returns a mixup's name for a folder: without the path in ``mixer:PATH`` and ``package.module:Name``."""
    prefix, _, path = mixup.partition(":")
    parts = [part for part in Path(path).parts if part not in ("mixer", "/", ".", "..")]
    return f"{prefix}-{parts[-1].removesuffix('.safetensors')}" if parts else prefix
