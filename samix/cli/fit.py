"""``samix.fit`` and ``samix.pretrain``: what the commands do, on the user's own networks and data sets."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import get_type_hints

from torch import Tensor, nn
from torch.utils.data import DataLoader

from samix.cli.recipe_options import with_weights
from samix.cli.run import build_run
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
from samix.runtime.registry import allow_typed
from samix.train import Callback, RunOptions

SMALL = 64  # pixels; images of at most this side are trained at their own size


def _typed_options(options: Options, recipe: type[Recipe]) -> Values:
    """Returns the options, each of its field's type; numbers of other libraries and paths are converted.

    Raises:
        ValueError: another type; the message names the option.
    """
    hints = {**get_type_hints(recipe), **get_type_hints(RunOptions)}
    return {name: typed(name, hints[name], _plain(value)) for name, value in options.items()}


def _plain(value: object) -> object:
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


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
    return _fit(
        TRAINING, model, mixup, train, val, recipe, {"mixup": preset}, mixup_options, class_names, callbacks, options
    )


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
    given = {**options, "method": method, "method_options": dict(method_options or {})}
    return _fit(
        PRETRAINING, model, mixup, train, val, recipe, {"method": preset}, mixup_options, None, callbacks, given
    )


def _fit(
    task: Task[AnyRecipe],
    model: str | nn.Module | None,
    mixup: str | Augmentation,
    train: object,
    val: object,
    recipe: str,
    presets: Mapping[str, str],
    mixup_options: Options | None,
    class_names: Sequence[str] | None,
    callbacks: Iterable[Callback],
    options: Options,
) -> FitResult:
    fields = {f.name for f in dataclasses.fields(task.recipe)} - {"mixup", "mixup_options", "model", "name"}
    run_fields = {f.name for f in dataclasses.fields(RunOptions)}
    for name in options:
        if name not in fields | run_fields:
            raise TypeError(f"no option {name!r}{suggest(name, fields | run_fields)}; samix train --help-all lists all")
    if not (model is None or isinstance(model, str | nn.Module)):
        raise TypeError(f"model must be the name of a timm network or an nn.Module, got {type(model).__name__}")
    options = _typed_options(options, task.recipe)
    run_options = RunOptions(**{name: value for name, value in options.items() if name in run_fields})
    callbacks = tuple(callbacks)
    _check_objects(model, callbacks)
    mixup_name, own = _named(mixup)
    values = {name: value for name, value in options.items() if name in fields}
    values["mixup_options"] = {**own, **(mixup_options or {})}
    data = _data(train, val, class_names)
    started = bool(values.get("init") or values.get("pretrained"))
    names = {"recipe": recipe, "mixup": mixup_name, "method": str(values.get("method", ""))}
    names["model"] = CUSTOM if isinstance(model, nn.Module) else model or ""
    if data is not None:
        usual = task.usual("folder")
        names["recipe"] = recipe or ("finetune" if started and usual == "images" else usual)
        values = {**_of_objects(data, model, train, started), "data": data.name, "workers": 0, **values}
    elif train is not None:
        names["data"] = str(train)
    allow_typed(recipe, mixup_name, names["method"], ":".join(names.get("data", "").split(":")[:2]))
    names = {name: word for name, word in names.items() if word}
    others = {k: v for k, v in values.items() if k not in (*AFTER_MODEL, "init", "pretrained")}
    made = with_weights(task, names, others, presets, values.get("init"), values.get("pretrained", False))
    changes = {k: v for k, v in values.items() if k in AFTER_MODEL}
    changes["mixup_options"] = task.groups["mixup"].differing(made.mixup, made.mixup_options)
    made = dataclasses.replace(made, **changes)
    return run_recipe(made, run_options, callbacks, data, model if isinstance(model, nn.Module) else None)


def run_recipe(
    recipe: Recipe,
    options: RunOptions,
    callbacks: Iterable[Callback] = (),
    data: ImageData | None = None,
    network: nn.Module | None = None,
) -> FitResult:
    """Trains a recipe, and prints a line about the run before and after, unless it is quiet."""
    run = build_run(recipe, options, callbacks, data, network)
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


def _check_objects(model: object, callbacks: Iterable[object]) -> None:
    """Raises TypeError for a network or a callback of another kind."""
    if model is not None and not isinstance(model, str | nn.Module):
        raise TypeError(f"model must be the name of a timm network or a torch.nn.Module, got {type(model)}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks must be objects derived from samix.train.Callback, got {callback!r}")


def _named(mixup: str | Augmentation) -> tuple[str, Options]:
    """Returns the name of a mixup, and its options where it is an object."""
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
            f"{cls.__qualname__} is defined inside a function or class, so a checkpoint cannot name it; define it at "
            "the top level of its module"
        )
    return f"{cls.__module__}:{cls.__qualname__}", mixup.options()


def _data(train: object, val: object, class_names: Sequence[str] | None) -> ImageData | None:
    """Returns the data set where it is given as objects, or as two folders; None where it has a name."""
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
    return wrap_dataset(train, val, class_names=class_names)


def _of_objects(data: ImageData, model: str | nn.Module | None, train: object, started: bool) -> Values:
    """The fields that follow from objects: the loader's batch size, the size of small images.

    Args:
        data: made of the objects.
        model: as the user gave it.
        train: as the user gave it.
        started: whether the network starts from weights, whose recipe then decides the size.
    """
    fields: Values = {} if started else _small(data, model)
    if isinstance(model, nn.Module) and not hasattr(model, "get_classifier"):
        fields["probe_head"] = False  # of timm's networks only
    if isinstance(train, DataLoader) and train.batch_size:
        fields["batch_size"] = train.batch_size
    return fields


def _small(data: ImageData, model: str | nn.Module | None) -> Values:
    """Returns the size of small images, and the stem that goes with them; nothing for others."""
    image = data.train.image(0)
    side = max(image.shape[1:]) if isinstance(image, Tensor) else max(image.size)
    if side > SMALL:
        return {}
    resnet = model is None or (isinstance(model, str) and model.startswith(SMALL_STEMS))
    return {"size": side, **({"stem": "small"} if resnet else {})}
