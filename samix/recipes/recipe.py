"""A recipe: everything that decides a training run, as one flat value in groups of fields."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from samix.runtime.checks import Options, Values, check_number, suggest
from samix.runtime.typed_options import (
    Count,
    CountOr0,
    ImageSide,
    Positive,
    PositiveShare,
    Seed,
    ShareBelow1,
    Weight,
    Workers,
    check_options,
)

LossName = Literal["ce", "bce", "softmax_bce", "decoupled", "decoupled_bce"]
SMALL_STEMS = ("resnet", "resnext", "wide_resnet", "seresnet", "ecaresnet")  # networks that have the small stems


@dataclass(frozen=True)
class DataFields:
    """The images.

    Args:
        data: a folder of images in class folders, or ``digits``, ``cifar10``, ``cifar100``, ``stl10``, ``aircraft``,
            ``tiny-imagenet:DIR``, ``imagenet:DIR``, ``cub:DIR``, ``list:FILE``, ...; see ``samix.data.load_data``.
        limit: number of training images to use, balanced over the classes; 0 uses all.
        size: side of the images that the network sees, in pixels.
        augment: augmentation: ``auto`` (the published one of the data set), ``none``, ``crop-flip``,
            ``resized-crop``, ...; see ``samix.data.Augment``.
        device_data: keep all images on the device and augment them there; for small data sets.
        workers: loader processes, unless ``device_data`` is on.
    """

    data: str = "digits"
    limit: CountOr0 = 0
    size: ImageSide = 32
    augment: str = "auto"
    device_data: bool = False
    workers: Workers = 4


@dataclass(frozen=True)
class NetworkFields:
    """The network.

    Args:
        model: name of a timm network.
        model_args: its keyword arguments, as a JSON object.
        stem: first layers: ``default``; ``small``, a 3x3 convolution of stride 1 without pooling, for images of 32 or
            64 pixels (ResNets only); ``half``, the default without its pooling.
        pretrained: start from timm's weights (downloads them).
        init: start from these weights: a run, checkpoint or export of samix, a file of weights, timm:NAME,
            hf-hub:OWNER/NAME, ...; see ``samix.load_init``.
        freeze: ``norms`` freezes the BatchNorm statistics; ``backbone`` also freezes all layers but the classifier.
        probe_head: start the classifier from a logistic regression on the features of the training images.
        feature: stage whose feature map guides a learned mixup, counted as timm does; None is the third of four
            stages, or the middle block of a ViT.
        channels_last: store images and kernels in channels-last memory format.
        compile: compile the networks with ``torch.compile``: a slower start, faster steps, different rounding.
    """

    model: str = "resnet18"
    model_args: str = "{}"
    stem: Literal["default", "small", "half"] = "default"
    pretrained: bool = False
    init: str = ""
    freeze: Literal["none", "norms", "backbone"] = "none"
    probe_head: bool = False
    feature: CountOr0 | None = None
    channels_last: bool = False
    compile: bool = False


@dataclass(frozen=True)
class LossFields:
    """The loss of mixed images, for mixups without a loss of their own.

    Args:
        smoothing: label smoothing, in [0, 1).
        loss: ``ce`` is mixed cross-entropy; ``bce`` binary cross-entropy; ``softmax_bce`` that of the released
            ManifoldMix and PuzzleMix code; ``decoupled`` and ``decoupled_bce`` those of DecoupledMix.
        bce_threshold: for ``bce``: targets above it become 1, all others 0; None keeps soft targets.
        decoupled_eta: for ``decoupled``: weight of the decoupled term.
        decoupled_mode: for ``decoupled``: which of an image's two classes have the term: ``both``, or that with the
            smaller (``less``) or the larger (``more``) share.
        clean_weight: weight of the loss of the unmixed images; above 0 it costs one more pass.
        clean_share: share of a batch that the clean loss sees, while the rest is mixed: each image is shown once, at
            the cost of a plain step; 0 shows all images both ways. Needs ``clean_weight``.
        ema_decay: decay of a running average of the network, which is then evaluated and exported; 0 keeps none.
    """

    smoothing: ShareBelow1 = 0.0
    loss: LossName = "ce"
    bce_threshold: ShareBelow1 | None = None
    decoupled_eta: Weight = 0.1
    decoupled_mode: Literal["both", "less", "more"] = "both"
    clean_weight: Weight = 0.0
    clean_share: ShareBelow1 = 0.0
    ema_decay: ShareBelow1 = 0.0


@dataclass(frozen=True)
class OptimiserFields:
    """The optimiser and its schedule.

    Args:
        epochs: passes over the training images.
        batch_size: images per optimiser step, over all processes and accumulated passes.
        optimizer: name of a timm optimiser: ``momentum`` (SGD with momentum, not Nesterov), ``adamw``, ``lamb``, ...
        lr: learning rate after warm-up.
        lr_end: learning rate at the end of the cosine.
        layer_decay: factor of the learning rate from each layer of a timm network to the one below; 1 for none.
        mixer_lr: learning rate of the Mixer; None uses that of the network.
        mixer_lr_end: the Mixer's at the end; None is 0, or the network's if ``mixer_lr`` is None too.
        momentum: momentum of SGD, or beta1 of Adam.
        mixer_momentum: momentum of the Mixer's SGD; None uses that of the network.
        weight_decay: decay of all parameters, or of matrices and kernels only if ``decay_norms`` is off.
        decay_norms: also decay norms and biases, as the CNN recipes do.
        warmup_epochs: epochs of linear warm-up of the learning rate.
        schedule: change the learning rate once per ``epoch`` or at every ``step``.
        clip: maximum gradient norm; 0 switches clipping off.
        accumulate: backward passes per optimiser step.
        precision: ``no`` is float32; ``bf16``; ``fp16`` (GPU only).
        eval_every: epochs between evaluations.
        patience: stop once this many evaluations in a row were no better than the best before; 0 never stops early.
        class_balance: for classes of different size: ``sampling`` shows every class equally often, ``weights`` weighs
            their losses (mixups trained by cross-entropy only), ``none`` takes images and losses as they are.
        seed: seed of weights, data order, augmentation and mixing.
    """

    epochs: Count = 200
    batch_size: Count = 100
    optimizer: str = "momentum"
    lr: Positive = 0.1
    lr_end: Weight = 0.0
    layer_decay: PositiveShare = 1.0
    mixer_lr: Weight | None = None
    mixer_lr_end: Weight | None = None
    momentum: ShareBelow1 = 0.9
    mixer_momentum: ShareBelow1 | None = None
    weight_decay: Weight = 1e-4
    decay_norms: bool = True
    warmup_epochs: float = 0.0
    schedule: Literal["epoch", "step"] = "epoch"
    clip: Weight = 0.0
    accumulate: Count = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    eval_every: Count = 1
    patience: CountOr0 = 0
    class_balance: Literal["none", "weights", "sampling"] = "none"
    seed: Seed = 0


@dataclass(frozen=True)
class Recipe(OptimiserFields, LossFields, NetworkFields, DataFields):  # fields in the order data, ..., optimiser
    """One training run: the fields of its four groups, the name of the recipe they come from, and the mixup.

    Args:
        name: name of the recipe these values come from.
        mixup: name of the mixup.
        mixup_options: its options that differ from its defaults, or from its preset.

    Raises:
        ValueError: a value outside its range; the message names the field and the range.
    """

    name: str = "custom"
    mixup: str = "samix"
    mixup_options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)
        check_number("warmup_epochs", self.warmup_epochs, 0, self.epochs)
        if self.bce_threshold is not None and self.loss != "bce":
            raise ValueError(f"bce_threshold is an option of loss bce; set --loss bce, or leave it out ({self.loss})")

    @property
    def model_kwargs(self) -> Values:
        """``model_args`` as a dictionary."""
        try:
            kwargs = json.loads(self.model_args, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"model_args must be a JSON object such as '{{\"depth\": 4}}', got {self.model_args!r}: {error}"
            ) from None
        if not isinstance(kwargs, dict):
            raise ValueError(f"model_args must be a JSON object, got {self.model_args!r}")
        if kwargs.get("in_chans", 3) != 3:
            raise ValueError(
                f"model_args sets in_chans to {kwargs['in_chans']!r}, but images are read in 3 channels, grey ones "
                "too; leave in_chans out, or train in a loop of your own"
            )
        return kwargs

    def to_dict(self) -> Values:
        """Returns plain values, for JSON."""
        return dataclasses.asdict(self)


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def with_model(recipe: AnyRecipe, model: str) -> AnyRecipe:
    """Returns the recipe with another network, without the arguments, feature stage and stem that belong to its own.

    That holds for the same name, too: ``resnet18`` is timm's ResNet-18, and not a recipe's slim one. ResNets keep the
    recipe's stem.
    """
    stem = recipe.stem if model.startswith(SMALL_STEMS) else "default"
    return dataclasses.replace(recipe, model=model, model_args="{}", feature=None, stem=stem)


def from_dict(values: Options, base: AnyRecipe) -> AnyRecipe:
    """Returns the recipe ``base`` with these values.

    Raises:
        ValueError: unknown fields; the message lists the known ones.
    """
    known = [f.name for f in dataclasses.fields(base)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        names = ", ".join(name if str(name).isprintable() else repr(name) for name in unknown)
        raise ValueError(f"a recipe has no {names}; its fields are {', '.join(known)}{suggest(str(unknown[0]), known)}")
    return with_fields(base, values)


def with_fields(recipe: AnyRecipe, values: Options) -> AnyRecipe:
    """Returns the recipe with these values. A run shortened below its warm-up keeps the warm-up's share of the run."""
    epochs, warmup = values.get("epochs", recipe.epochs), recipe.warmup_epochs
    if warmup and isinstance(epochs, int) and values.get("warmup_epochs", warmup) == warmup and epochs < warmup:
        values = {**values, "warmup_epochs": warmup * epochs / recipe.epochs}
    return dataclasses.replace(recipe, **values)


def unique_keys(pairs: Iterable[tuple[str, object]]) -> Values:
    """Returns a JSON object without duplicate keys."""
    values: Values = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} appears twice; keep one")
        values[key] = value
    return values
