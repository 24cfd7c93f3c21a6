"""A recipe: everything that decides a training run, as one flat value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

LossName = Literal["ce", "bce", "softmax_bce", "decoupled", "decoupled_bce"]


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        name: of the recipe these values come from.
        data: ``digits``, ``cifar10``, ``cifar100``, ``stl10``, ``tiny-imagenet:DIR``, ``folder:DIR`` or ``DIR``,
            ``imagenet:DIR``, ``cub:DIR``, ``aircraft``, ... ; see ``samix.data.load_data``.
        limit: class-balanced number of training images to use; 0 takes all.
        size: side of the images the network sees, in pixels.
        augment: kind of augmentation, see ``samix.data.Augment``; ``auto`` takes the published one of the data.
        model: name of a timm network.
        model_args: its keyword arguments, as JSON.
        stem: ``small`` gives ResNets a 3x3 stride-1 first convolution without pooling, for images of 32 or 64 pixels;
            ``half`` takes away the pooling only.
        pretrained: start from timm's weights (downloads them).
        feature: stage that guides a learned mixup, as timm counts them; None is the third of four, or a ViT's
            middle block.
        mixup: name of the mixup.
        mixup_options: its options, where they differ from its defaults or its preset.
        epochs: passes over the training images.
        batch_size: images per optimiser step, over all processes and accumulated steps.
        optimizer: name of a timm optimiser; ``momentum`` is SGD with (not Nesterov) momentum, ``adamw``, ``lamb``, ...
        lr: learning rate at the start (after warm-up).
        lr_end: at the end of the cosine.
        mixer_lr: the Mixer's; None takes the network's.
        mixer_lr_end: at the end; None is 0, or the network's where ``mixer_lr`` is None too.
        momentum: of SGD, or beta1.
        mixer_momentum: of SGD for the Mixer; None takes the network's.
        weight_decay: on all parameters, or only on matrices and kernels if ``decay_norms`` is off.
        decay_norms: decay norms and biases too, as the CNN recipes do.
        warmup_epochs: linear warm-up of the learning rate.
        schedule: the learning rate changes once per ``epoch`` or at every ``step``.
        clip: largest gradient norm; 0 switches clipping off.
        smoothing: label smoothing of hand-made mixups, in [0, 1); learned ones have it among their options.
        loss: of mixed images, for mixups without losses of their own: ``ce`` mixed cross-entropy, ``bce`` binary,
            ``softmax_bce`` as ManifoldMix's and PuzzleMix's released code, ``decoupled`` and ``decoupled_bce``; see
            ``samix.losses.supervised``.
        bce_threshold: of ``bce``, targets above it become 1 and all others 0; None keeps them soft.
        decoupled_eta: of ``decoupled``, weight of its further term.
        clean_weight: weight of the loss of the images as they are, beside the mixed one, for mixups without losses of
            their own; above 0 it costs a further pass.
        accumulate: backward passes per optimiser step.
        precision: ``no`` is float32; ``bf16``, ``fp16``.
        channels_last: memory layout of images and kernels.
        compile: ``torch.compile`` the passes of the networks: a slow start, then faster steps; rounding differs.
        device_data: keep all images on the device and augment there; for small data.
        workers: loader processes, where ``device_data`` is off; at most as many as the machine has cores.
        eval_every: epochs between evaluations.
        seed: of weights, data order, augmentation and mixing.
    """

    name: str = "custom"
    data: str = "digits"
    limit: int = 0
    size: int = 32
    augment: str = "auto"
    model: str = "resnet18"
    model_args: str = "{}"
    stem: Literal["default", "small", "half"] = "default"
    pretrained: bool = False
    feature: int | None = None
    mixup: str = "samix"
    mixup_options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 200
    batch_size: int = 100
    optimizer: str = "momentum"
    lr: float = 0.1
    lr_end: float = 0.0
    mixer_lr: float | None = None
    mixer_lr_end: float | None = None
    momentum: float = 0.9
    mixer_momentum: float | None = None
    weight_decay: float = 1e-4
    decay_norms: bool = True
    warmup_epochs: float = 0.0
    schedule: Literal["epoch", "step"] = "epoch"
    clip: float = 0.0
    smoothing: float = 0.0
    loss: LossName = "ce"
    bce_threshold: float | None = None
    decoupled_eta: float = 0.1
    clean_weight: float = 0.0
    accumulate: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = False
    compile: bool = False
    device_data: bool = False
    workers: int = 4
    eval_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "epochs", "batch_size", "accumulate", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("limit", "workers", "weight_decay", "warmup_epochs", "clip", "lr_end"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")
        self._check_loss()

    def _check_loss(self) -> None:
        """Raises ValueError for an unknown loss, or options that it does not have or that are out of range."""
        if self.loss not in get_args(LossName):
            raise ValueError(f"loss must be one of {', '.join(get_args(LossName))}, got {self.loss!r}")
        if self.bce_threshold is not None and (self.loss != "bce" or not 0.0 <= self.bce_threshold < 1.0):
            raise ValueError(f"bce_threshold is for loss bce, and in [0, 1); got {self.bce_threshold} for {self.loss}")
        if not 0.0 <= self.decoupled_eta < float("inf"):
            raise ValueError(f"decoupled_eta must be a number of at least 0, got {self.decoupled_eta}")
        if not 0.0 <= self.clean_weight < float("inf"):
            raise ValueError(f"clean_weight must be a number of at least 0, got {self.clean_weight}")

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """``model_args`` as a dictionary.

        Raises:
            ValueError: not a JSON object.
        """
        try:
            kwargs = json.loads(self.model_args)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"model_args must be a JSON object such as '{{\"depth\": 4}}', got {self.model_args!r}: {error}"
            ) from None
        if not isinstance(kwargs, dict):
            raise ValueError(f"model_args must be a JSON object, got {self.model_args!r}")
        return kwargs

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def with_model(recipe: Recipe, model: str) -> Recipe:
    """The recipe with another network, to which arguments and feature stage of its own network do not apply.

    That holds for the same name, too: ``resnet18`` is timm's ResNet-18, and not a recipe's slim one.
    """
    return dataclasses.replace(recipe, model=model, model_args="{}", feature=None)


def from_dict(values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """A recipe from plain values, over ``base``.

    Raises:
        ValueError: unknown fields; the message lists the known ones.
    """
    base = base or Recipe()
    known = [f.name for f in dataclasses.fields(base)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        names = ", ".join(name if str(name).isprintable() else repr(name) for name in unknown)
        raise ValueError(f"a recipe has no {names}; its fields are {', '.join(known)}")
    return dataclasses.replace(base, **values)


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Fields of a recipe from a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        FileNotFoundError, ValueError: no such file, another ending, not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; --config takes a .json or .yaml file of recipe fields")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        values = json.loads(text)
    elif path.suffix in (".yaml", ".yml"):
        import yaml

        values = yaml.safe_load(text)
    else:
        raise ValueError(f"--config takes a .json or .yaml file, got {path.name}")
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of recipe fields, got {type(values).__name__}")
    return values
