"""Callbacks of a run, which are called around the steps and cannot change them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import ClassVar

import torch

from samix.methods.supervised import Supervised
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.checks import Options, Values
from samix.runtime.console import tell
from samix.runtime.environment import device_name
from samix.train.steps import Training

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}  # name: package
GREY = 0.02  # masks whose standard deviation is smaller look constant
LAG = 1.0  # points by which the exported network may be behind another one without a warning


class Callback:
    """Hooks of a run, called on its first process; those of an epoch after its checkpoint is written.

    A hook that raises is reported once, in one line, and never ends the run. Hooks may draw random numbers: the run
    seeds its own at every step.
    """

    required: ClassVar[bool] = False  # an error in on_fit_end is raised after all other callbacks were called

    def check(self, run: Training) -> None:
        """Called on every process before the first step.

        Raises:
            ValueError: something that this callback needs is missing; the run then does not start.
        """

    def on_fit_start(self, run: Training) -> None:
        """Called before the first step, also of a continued run."""

    def on_sync(self, run: Training) -> None:
        """Called every 20 steps, after the loss was read from the device."""

    def on_epoch_end(self, run: Training, row: Mapping[str, float]) -> None:
        """Called after each epoch with its line of ``metrics.jsonl``."""

    def on_fit_end(self, run: Training, summary: Options) -> None:
        """Called after the last epoch, before ``summary.json`` is written."""


class CallbackList:
    """Calls the callbacks of a run and reports those that fail."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = list(callbacks)
        self.failed: set[tuple[int, str]] = set()

    def call(self, hook: Callable[[Callback], None], name: str) -> Exception | None:
        """Calls a hook of every callback; the first error of a required one is returned."""
        first = None
        for number, callback in enumerate(self.callbacks):
            try:
                hook(callback)
            except Exception as error:
                if callback.required and first is None:
                    first = error
                    continue
                if (number, name) not in self.failed:
                    self.failed.add((number, name))
                    text = " ".join(str(error).split()) or type(error).__name__
                    tell(f"samix: {type(callback).__name__} failed at the {name}: {text}; the run goes on without it")
        return first


class Trackers(Callback):
    """Logs every epoch with accelerate's trackers.

    Args:
        names: of ``tensorboard``, ``wandb``, ``trackio`` and ``mlflow``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))

    def check(self, run: Training) -> None:
        for name in self.names:
            if find_spec(TRACKERS[name]) is None:
                extra = ' or pip install "samix[tensorboard]"' if name == "tensorboard" else ""
                raise ValueError(
                    f"--log {name} needs the package {TRACKERS[name]}: pip install {TRACKERS[name]}{extra}"
                )

    def on_fit_start(self, run: Training) -> None:
        """Starts the trackers; a continued run overwrites what it logged after its checkpoint."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        name, folder = run.folder.name, str(run.folder)
        options: dict[str, Values] = {
            "tensorboard": {"logging_dir": folder, "purge_step": run.step},
            "wandb": {"name": name, "dir": folder, "id": name, "resume": "allow"},
            "mlflow": {"experiment_name": "samix"},
            "trackio": {"name": name, "resume": "allow"},
        }
        projects = {"tensorboard": "tensorboard", "mlflow": name}
        self.trackers = []
        for kind in self.names:
            given = options[kind]
            if kind == "mlflow":
                tracker = LOGGER_TYPE_TO_CLASS[kind](run_name=name, **given)
            else:
                tracker = LOGGER_TYPE_TO_CLASS[kind](projects.get(kind, "samix"), **given)
            tracker.start()
            tracker.store_init_configuration({k: v for k, v in run.recipe.to_dict().items() if plain(v)})
            self.trackers.append(tracker)

    def on_epoch_end(self, run: Training, row: Mapping[str, float]) -> None:
        """Logs the epoch's figures at the number of its last step."""
        for tracker in self.trackers:
            tracker.log(dict(row), step=int(row["step"]))

    def on_fit_end(self, run: Training, summary: Options) -> None:
        for tracker in self.trackers:
            tracker.finish()


def plain(value: object) -> bool:
    """Returns whether every tracker takes this value of a configuration."""
    return isinstance(value, int | float | str | bool)


class TimeEstimate(Callback):
    """Says once, after the first steps, how long the run will take and what would shorten it.

    Args:
        least: seconds; shorter runs get no line.
    """

    def __init__(self, least: float = 120.0) -> None:
        self.least, self.said = least, False
        self.first: int | None = None  # step at which the clock was started

    def on_sync(self, run: Training) -> None:
        """Says the time left, from 20 steps after the first ones, which are slow."""
        if self.first is None:
            self.first, self.started = run.step, time.monotonic()
        if self.said or run.step - self.first < 20:
            return
        self.said = True
        left = run.recipe.epochs * run.steps_per_epoch - run.step
        seconds = left * (time.monotonic() - self.started) / (run.step - self.first)
        if seconds >= self.least:
            tell(f"samix: about {duration(seconds)} left for {left} steps on {device_name(run.device)}{advice(run)}")


def duration(seconds: float) -> str:
    """Returns seconds as a reader says them: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    if hours < 36:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def advice(run: Training) -> str:
    """Names options that would make a run shorter, for the end of a line."""
    recipe = run.recipe
    ways = []
    if recipe.mixup in ("samix", "automix", "adautomix", "score") and recipe.mixup_options.get("preset") != "fast":
        ways.append("--mixup.preset fast")
    if recipe.size > 32:
        ways.append(f"a smaller --size than {recipe.size}")
    ways.append(f"fewer --epochs than {recipe.epochs}")
    line = f"; shorter: {', '.join(ways)}"
    if run.device.type == "cpu" and recipe.size >= 160 and not recipe.pretrained:
        line += f". At {recipe.size} px from random weights a CPU is too slow to be of use: take a GPU or --pretrained"
    return line


class Warnings(Callback):
    """Says what a user should know of the data before, and of the result after a run."""

    def on_fit_start(self, run: Training) -> None:
        """Warns of a frozen backbone that a mixup is to train, and of classes that differ in size by 20 times."""
        method = run.method
        trains_layers = not isinstance(method, Supervised) or method.mixup.requirements.inside_network
        if run.recipe.freeze == "backbone" and trains_layers:
            tell(
                f"samix: --freeze backbone trains the classifier only, and {run.recipe.mixup} acts on the layers below "
                "it: its steps cost more and teach little. Take --freeze norms, or a mixup of images such as cutmix"
            )
        labels = run.data.train.labels
        if isinstance(run.recipe, PretrainRecipe) or run.recipe.class_balance != "none" or int(labels.min()) < 0:
            return
        counts = torch.bincount(labels, minlength=run.data.num_classes)
        few, most = int(counts.argmin()), int(counts.argmax())
        if counts[most] >= 20 * max(int(counts[few]), 1):
            names = run.data.class_names
            tell(
                f"samix: classes differ in size: {names[most]} has {int(counts[most])} training images, {names[few]} "
                f"has {int(counts[few])}; --class-balance sampling shows every class equally often, and the accuracy "
                "by class is in summary.json"
            )

    def on_fit_end(self, run: Training, summary: Options) -> None:
        """Warns of almost constant masks, and of an average that lags behind the trained network."""
        row = run.rows[-1]
        spread = row.get("mask_std")
        if spread is not None and spread < GREY:
            tell(
                f"samix: the masks are almost constant (standard deviation {spread:.3f}, below {GREY}): the Mixer "
                "blends whole images as MixUp does, at a higher cost. Train longer, or start from a trained Mixer "
                "(--mixup.init default)"
            )
        others = {k.removeprefix("top1_"): v for k, v in row.items() if k.startswith("top1_") and "mixed" not in k}
        best = max(others, key=others.__getitem__, default="")
        if "top1" in row and best and others[best] > row["top1"] + LAG:
            tell(
                f"samix: the exported network has {row['top1']:.2f} % top-1, the network that was trained ({best}) "
                f"{others[best]:.2f} %: the export is a running average, which lags behind in a run of {run.step} "
                "steps. Train for more epochs"
            )
