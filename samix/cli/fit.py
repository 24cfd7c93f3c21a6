"""``samix.fit`` and ``samix.pretrain``: what the commands do, on the user's own networks and data sets."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import get_type_hints

from torch import Tensor, nn
from torch.utils.data import DataLoader

from samix.cli.recipe_options import Choice, with_weights
from samix.compare.run import build_run, default_callbacks
from samix.data import ImageData, load_labelled_folder, wrap_dataset
from samix.hub.network_config import CUSTOM
from samix.mixups import MIXUPS
from samix.mixups.base import Augmentation
from samix.recipes.files import typed
from samix.recipes.named import TRAINING
from samix.recipes.pretrain_named import PRETRAINING
from samix.recipes.recipe import SMALL_STEMS, AnyRecipe, Recipe
from samix.recipes.task import Task
from samix.runtime.checks import Options, Values, suggest
from samix.runtime.console import say
from samix.train import Callback, RunOptions

SMALL = 64  # pixels; images of at most this side are trained at their own size


AFTER_MODEL = ("model_args", "feature", "stem")  # fields that a named network resets, unless they are given too


@dataclass(frozen=True)
class FitResult:
    """The result of :func:`samix.fit` and :func:`samix.pretrain`.

    Args:
        model: the exported network in eval mode, on the CPU: of learned mixups the averaged one.
        history: a row of metrics for each epoch, as in ``metrics.jsonl``.
        summary: final metrics, times, versions and recipe, as in ``summary.json``.
        folder: of the run: checkpoints, pictures, export.

    Example:
        >>> options = {"train": "digits", "limit": 100, "epochs": 1, "size": 8, "device": "cpu", "quiet": True}
        >>> result = samix.fit(mixup="mixup", run="fit-result", **options)
        top-1 ...
        >>> type(result.model).__name__, len(result.history), (result.folder / "last.pt").exists()
        ('ResNet', 1, True)
    """

    model: nn.Module
    history: list[dict[str, float]]
    summary: Values
    folder: Path


def fit(
    model: str | nn.Module | None = None,
    mixup: str | Augmentation = "samix",
    *,
    train: object = None,
    val: object = None,
    recipe: str = "",
    preset: str = "",
    mixup_options: Options | None = None,
    class_names: Sequence[str] | None = None,
    callbacks: Iterable[Callback] = (),
    **options: object,
) -> FitResult:
    """Trains a network with any mixup: ``samix train`` for objects from Python.

    Under ``accelerate launch`` or ``torchrun`` it runs on several processes, as the command does.

    Args:
        model: name of a timm network, or your own (B, 3, H, W) -> (B, K), which is trained in place; None is the
            recipe's.
        mixup: name of a mixup, or one such as ``samix.CutMix(alpha=1.0)``.
        train: a folder of class folders or another data set by name, see ``samix.data.load_data``; a torch ``Dataset``
            or a Hugging Face one; a ``DataLoader``, whose dataset and batch size are taken; an ``ImageData``. None is
            the recipe's. Datasets give images without random transforms and normalisation: samix does both.
        val: held-out images: a folder or dataset; None takes those of ``train``, or holds out a fifth of each class.
        recipe: named recipe; empty takes that of the data, ``images`` for your own.
        preset: preset of a learned mixup: ``reference``, ``paper``, ``fast``.
        mixup_options: options of the mixup.
        class_names: names of the classes of a dataset that has none.
        callbacks: called after samix's own, see :class:`samix.train.Callback`.
        options: fields of the recipe (``epochs``, ``batch_size``, ``lr``, ``size``, ``init``, ``seed``, ...) and of the
            run (``out``, ``run``, ``resume``, ``device``, ``quiet``, ``log``, ...), as ``samix train --help-all`` lists
            them.

    Returns:
        The exported network, the metrics of each epoch, the summary and the run's folder.

    Raises:
        ValueError, TypeError, FileNotFoundError: unknown names or options, or data that cannot be used.
        samix.train.Interrupted: SIGTERM or Ctrl-C, after the state was saved; ``resume=True`` continues.

    Example:
        >>> import samix
        >>> result = samix.fit(mixup="cutmix", train="digits", limit=100, epochs=1, size=8, device="cpu", quiet=True)
        top-1 ...
        >>> result.summary["top1"] >= 0, len(result.history)
        (True, 1)
    """
    objects = _Objects(model, mixup, train, val, tuple(callbacks), class_names)
    options["mixup_options"] = mixup_options or {}
    return _fit(TRAINING, objects, {"recipe": recipe, "mixup_preset": preset}, options)


def pretrain(
    model: str | nn.Module | None = None,
    method: str = "moco",
    mixup: str | Augmentation = "",
    *,
    train: object = None,
    val: object = None,
    recipe: str = "",
    preset: str = "",
    method_options: Options | None = None,
    mixup_options: Options | None = None,
    callbacks: Iterable[Callback] = (),
    **options: object,
) -> FitResult:
    """Learns features without labels: ``samix pretrain`` for objects from Python.

    Args:
        model: name of a timm network, or your own; None is the recipe's.
        method: ``moco``, ``simclr``, ``byol``, ...
        mixup: as for :func:`fit`; empty is ``samix`` beside MoCo, and none beside others.
        train: as for :func:`fit`; labels are used by the kNN monitor only.
        val: as for :func:`fit`.
        recipe: named recipe; empty takes that of the data, ``images-moco`` for your own.
        preset: preset of the method.
        method_options: options of the method.
        mixup_options: options of the mixup.
        callbacks: called after samix's own.
        options: fields of the recipe and of the run, as ``samix pretrain --help-all`` lists them.

    Returns:
        The encoder's network, the metrics of each epoch, the summary and the run's folder.

    Raises:
        ValueError, TypeError, FileNotFoundError: unknown names or options, or data that cannot be used.

    Example:
        >>> options = {"train": "digits", "limit": 80, "epochs": 1, "device": "cpu", "quiet": True}
        >>> result = samix.pretrain(method="simclr", run="pretrain", **options)
        kNN ...
        >>> result.model.num_classes  # an encoder, without a classifier
        0
    """
    objects = _Objects(model, mixup, train, val, tuple(callbacks))
    options |= {"method_options": method_options or {}, "mixup_options": mixup_options or {}}
    names = {"recipe": recipe, "method": method, "method_preset": preset}
    return _fit(PRETRAINING, objects, names, options)


@dataclass(frozen=True)
class _Objects:
    """Names, and the objects that may stand in their place; arguments as of :func:`fit`."""

    model: str | nn.Module | None
    mixup: str | Augmentation
    train: object
    val: object
    callbacks: tuple[Callback, ...]
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not (self.model is None or isinstance(self.model, str | nn.Module)):
            raise TypeError(
                f"model must be the name of a timm network or an nn.Module, got {type(self.model).__name__}"
            )
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be objects derived from samix.train.Callback, got {callback!r}")

    @property
    def network(self) -> nn.Module | None:
        """The user's own network; None where it has a name."""
        return self.model if isinstance(self.model, nn.Module) else None

    def named_mixup(self) -> tuple[str, Options]:
        """Returns the name of the mixup, and its options where it is an object."""
        mixup = self.mixup
        if isinstance(mixup, str):
            return mixup, {}
        if not isinstance(mixup, Augmentation):
            raise TypeError(
                "mixup must be the name of a mixup, such as 'samix', or a mixup, such as samix.CutMix(alpha=1.0), got "
                f"{mixup if isinstance(mixup, type) else type(mixup)}"
            )
        cls = type(mixup)
        if cls.name in MIXUPS and MIXUPS[cls.name] is cls:
            return cls.name, mixup.options()
        if getattr(sys.modules[cls.__module__], cls.__qualname__, None) is not cls:
            raise ValueError(
                f"{cls.__qualname__} is defined inside a function or class, so a checkpoint cannot name it; define it "
                "at the top level of its module"
            )
        return f"{cls.__module__}:{cls.__qualname__}", mixup.options()

    def data(self) -> ImageData | None:
        """Returns the data set where it is given as objects, or as two folders; None where it has a name."""
        train, val = self.train, self.val
        if isinstance(train, ImageData):
            return train
        if train is None or (isinstance(train, str | Path) and val is None):
            if val is not None:
                raise TypeError("val is given without train; give both or neither")
            return None
        if isinstance(train, str | Path):
            if not isinstance(val, str | Path):
                raise TypeError("train is a folder and val is not; give both as folders, or both as datasets")
            if not Path(train).is_dir():
                raise FileNotFoundError(f"no such folder: {train}; with val, train is a folder of class folders")
            names = tuple(sorted(p.name for p in Path(train).iterdir() if p.is_dir() and not p.name.startswith(".")))
            held_out = load_labelled_folder(val, names).val
            return ImageData("folder", load_labelled_folder(train, names).val, held_out, names)
        if isinstance(val, str | Path):
            raise TypeError("val is a folder and train is not; give both as folders, or both as datasets")
        return wrap_dataset(train, val, class_names=self.class_names)

    def fields(self, data: ImageData, started: bool) -> Values:
        """Returns the fields of the recipe that follow: the loader's batch size, the size and stem of small images.

        Args:
            data: made of the objects.
            started: whether the network starts from weights, whose recipe then decides the size.
        """
        fields: Values = {"data": data.name, "workers": 0}
        image = data.train.image(0)
        side = max(image.shape[1:]) if isinstance(image, Tensor) else max(image.size)
        if side <= SMALL and not started:
            fields["size"] = side
            if self.model is None or (isinstance(self.model, str) and self.model.startswith(SMALL_STEMS)):
                fields["stem"] = "small"
        if self.network is not None and not hasattr(self.network, "get_classifier"):
            fields["probe_head"] = False  # of timm's networks only
        if isinstance(self.train, DataLoader) and self.train.batch_size:
            fields["batch_size"] = self.train.batch_size
        return fields


def _fit(task: Task[AnyRecipe], objects: _Objects, names: Options, options: Options) -> FitResult:
    """Trains by the fields of :class:`Choice` in ``names``, and the fields of recipe and run in ``options``."""
    run_fields = {f.name for f in dataclasses.fields(RunOptions)}
    known = run_fields | {f.name for f in dataclasses.fields(task.recipe)} - {"mixup", "model", "name"}
    for name in options:
        if name not in known:
            raise TypeError(f"no option {name!r}{suggest(name, known)}; samix train --help-all lists all")
    hints = {**get_type_hints(task.recipe), **get_type_hints(RunOptions)}
    values: Values = {name: typed(name, hints[name], _plain(value)) for name, value in options.items()}
    run_options = RunOptions(**{name: values.pop(name) for name in run_fields & values.keys()})
    mixup, own = objects.named_mixup()
    values["mixup_options"] = {**own, **values["mixup_options"]}
    weights = {"init": values.pop("init", ""), "pretrained": values.pop("pretrained", False)}
    names = {**names, **weights, "mixup": mixup, "model": objects.model if objects.network is None else CUSTOM}
    data = objects.data()
    if data is not None:
        started = any(weights.values())
        usual = task.usual("folder")
        names["recipe"] = names["recipe"] or ("finetune" if started and usual == "images" else usual)
        values = {**objects.fields(data, started), **values}
    elif objects.train is not None:
        names["data"] = str(objects.train)
    changes = {name: values.pop(name) for name in AFTER_MODEL if name in values}
    made = with_weights(task, Choice(**{name: value for name, value in names.items() if value}), values)
    changes["mixup_options"] = task.groups["mixup"].differing(made.mixup, made.mixup_options)
    return run_recipe(dataclasses.replace(made, **changes), run_options, objects.callbacks, data, objects.network)


def _plain(value: object) -> object:
    """Converts numbers of other libraries, and paths."""
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def run_recipe(
    recipe: Recipe,
    options: RunOptions,
    callbacks: Iterable[Callback] = (),
    data: ImageData | None = None,
    network: nn.Module | None = None,
) -> FitResult:
    """Trains a recipe, and prints a line about the run before and after, unless it is quiet."""
    run = build_run(recipe, options, [*default_callbacks(options), *callbacks], data, network)
    first = run.accelerator.is_main_process
    if first and not options.quiet:
        say(run.describe())
    summary = run.fit()
    if first:
        say(run.conclude(summary))
        say(f"pictures, checkpoints, export and summary: {run.folder}")
        if not options.quiet:
            say(f"next: {run.next_command()}")
    return FitResult(run.method.export().cpu().eval(), list(run.rows), summary, run.folder)
