"""The named recipes without labels.

Published settings: MoCo's CIFAR demo, MoCo v2 (arXiv:2003.04297), MoCo v3 (arXiv:2104.02057), and what SAMix
(arXiv:2111.15454) says of STL-10, Tiny-ImageNet and ImageNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from samix.data import find_dataset
from samix.methods.contrastive.moco import MoCoOptions
from samix.recipes.build_pretraining import LEARNED, METHOD_GROUP, MIXUP_GROUP, method_class, options_class
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.recipes.recipe import with_fields
from samix.recipes.small import SLIM
from samix.recipes.task import Names, Task
from samix.runtime.registry import Registry


def digits_moco(names: Names) -> PretrainRecipe:
    """The scanned digits of scikit-learn without their labels, a slim network: a minute or two on two cores."""
    return PretrainRecipe(
        name="digits-moco",
        data="digits",
        size=16,
        augment="digits",
        model_args=SLIM,
        stem="small",
        feature=2,
        method=names["method"],
        mixup=names["mixup"],
        method_options=queue_only(names, **SHORT_QUEUE, queue=640, groups=2),
        mixup_options=slim_mixer(names),
        views="cifar",
        min_scale=0.5,
        epochs=20,
        batch_size=64,
        lr=0.2,
        mixer_lr=0.1,
        weight_decay=5e-4,
        channels_last=True,
        device_data=True,
        workers=0,
        knn=20,
    )


def queue_only(names: Names, **options: Any) -> dict[str, Any]:
    """Options that only MoCo and the methods derived from it have."""
    return options if issubclass(options_class(method_class(names["method"]).presets), MoCoOptions) else {}


def slim_mixer(names: Names) -> dict[str, Any]:
    """A Mixer's options where a run has some hundred steps: the mask loss is stronger, as in the labelled recipes."""
    return {"mask_weight": 1.0, "mask_schedule": "constant"} if names["mixup"] in LEARNED else {}


# What a run of some hundred steps needs to learn anything (LOG.md): keys that differ from the first step on, by norms
# in the projector and a queue without random vectors, and an EMA encoder that keeps up.
SHORT_QUEUE: dict[str, Any] = {
    "preset": "cifar",
    "dim": 64,
    "projector": "mlp-bn",
    "random_start": False,
    "temperature": 0.2,
    "ema_decay": 0.95,
}


def cifar_slim_moco(names: Names) -> PretrainRecipe:
    """CIFAR-10 images at 32 pixels, a slim ResNet, MoCo's CIFAR settings: minutes on a CPU. No published number."""
    return dataclasses.replace(
        cifar10_moco(names),
        name="cifar-slim-moco",
        limit=5000,
        model_args=SLIM,
        stem="half",
        feature=2,
        method_options=queue_only(names, **SHORT_QUEUE, queue=1024, groups=4),
        mixup_options=slim_mixer(names),
        min_scale=0.2,
        epochs=20,
        batch_size=128,
        lr=0.2,
        mixer_lr=0.1,
        channels_last=True,
        eval_every=5,
    )


def cifar10_moco(names: Names) -> PretrainRecipe:
    """CIFAR-10, ResNet-18 with a 3x3 stem, MoCo's CIFAR demo: batch 512, SGD 0.06, 200 epochs, queue 4096, t 0.1.

    About 82 % kNN is recollected for 200 epochs, 89.11 is published for 1000.
    """
    return PretrainRecipe(
        name="cifar10-moco",
        data="cifar10",
        size=32,
        augment="none",
        stem="small",
        method=names["method"],
        mixup=names["mixup"],
        method_options=queue_only(names, preset="cifar"),
        views="cifar",
        epochs=200,
        batch_size=512,
        lr=0.06,
        mixer_lr=0.02 if names["mixup"] in LEARNED else None,
        weight_decay=5e-4,
        device_data=True,
        workers=0,
        eval_every=5,
    )


def images_moco(names: Names) -> PretrainRecipe:
    """Anyone's images at 224 pixels, ResNet-18, MoCo v2 with a queue of 1024, batch 64, 200 epochs; not published.

    The learning rate is MoCo's 0.03 per 256 images, the EMA decay 0.99, for runs of some ten thousand steps. For images
    of 96 pixels or less take ``stl10-moco`` or ``cifar10-moco``.
    """
    return dataclasses.replace(
        _moco96(names, "images-moco", "images:data/images", 200),
        size=224,
        augment="resized-crop",
        method_options=queue_only(names, queue=1024, random_start=False, ema_decay=0.99),
        batch_size=64,
        lr=0.0075,
        mixer_lr=0.0025 if names["mixup"] in LEARNED else None,
        workers=4,
    )


def _moco96(names: Names, name: str, data: str, epochs: int) -> PretrainRecipe:
    return PretrainRecipe(
        name=name,
        data=data,
        size=96,
        augment="none",
        method=names["method"],
        mixup=names["mixup"],
        method_options=queue_only(names, queue=16384),
        views="moco-v2",
        epochs=epochs,
        batch_size=256,
        lr=0.03,
        mixer_lr=0.01 if names["mixup"] in LEARNED else None,
        workers=8,
        eval_every=10,
    )


def stl10_moco(names: Names) -> PretrainRecipe:
    """STL-10's unlabelled images at 96 pixels, ResNet-18, MoCo v2, queue 16384, 400 epochs (the authors' SAMix run)."""
    return _moco96(names, "stl10-moco", "stl10-unlabeled", 400)


def tiny_moco(names: Names) -> PretrainRecipe:
    """Tiny-ImageNet at 96 pixels as in SAMix's tables, ResNet-18, MoCo v2, queue 16384; the epochs are ours."""
    return _moco96(names, "tiny-moco", "tiny-imagenet:data/tiny-imagenet-200", 400)


def in1k_moco(names: Names) -> PretrainRecipe:
    """ImageNet-1k, ResNet-50, MoCo v2, batch 256, SGD 0.03, 200 epochs, queue 65536: published linear top-1 67.5."""
    return dataclasses.replace(
        _moco96(names, "in1k-moco", "imagenet:data/imagenet", 200),
        size=224,
        augment="resized-crop",
        model="resnet50",
        method_options=queue_only(names),
    )


def in1k_mocov3_vits(names: Names) -> PretrainRecipe:
    """ImageNet-1k, ViT-S/16, MoCo v3: batch 4096, AdamW 1.5e-4 x B / 256, 300 epochs: published linear top-1 73.2."""
    vit = {"preset": "vit"} if names["method"] == "mocov3" else {}
    return PretrainRecipe(
        name="in1k-mocov3-vits",
        data="imagenet:data/imagenet",
        size=224,
        augment="resized-crop",
        model="vit_small_patch16_224",
        model_args='{"num_heads": 12, "weight_init": "moco"}',
        method=names["method"],
        mixup=names["mixup"],
        method_options=vit,
        views="byol",
        epochs=300,
        batch_size=4096,
        optimizer="adamw",
        lr=1.5e-4 * 16,
        weight_decay=0.1,
        warmup_epochs=40,
        schedule="step",
        workers=16,
        eval_every=10,
    )


@dataclass(frozen=True)
class PretrainEntry:
    """A named recipe without labels, and its method where none is named."""

    build: Callable[[Names], PretrainRecipe]
    method: str = "moco"


PRETRAIN_RECIPES: Registry[PretrainEntry] = Registry(
    "pretrain_recipes",
    {
        "digits-moco": PretrainEntry(digits_moco),
        "cifar-slim-moco": PretrainEntry(cifar_slim_moco),
        "cifar10-moco": PretrainEntry(cifar10_moco),
        "images-moco": PretrainEntry(images_moco),
        "stl10-moco": PretrainEntry(stl10_moco),
        "tiny-moco": PretrainEntry(tiny_moco),
        "in1k-moco": PretrainEntry(in1k_moco),
        "in1k-mocov3-vits": PretrainEntry(in1k_mocov3_vits, method="mocov3"),
    },
)


def usual_pretrain_recipe(data: str) -> str:
    """The name of the recipe that is taken for data; empty is the digits.

    Raises:
        ValueError, FileNotFoundError: no such data set.
    """
    return find_dataset(data or "digits")[0].pretrain_recipe


def pretrain_entry(name: str) -> PretrainEntry:
    """The recipe of that name, or the user's own, named as ``package.module:Name``.

    Raises:
        ValueError: unknown name, or something else than a recipe.
    """
    entry: object = PRETRAIN_RECIPES.resolve(name, trusted=False)
    if isinstance(entry, PretrainEntry):
        return entry
    if isinstance(entry, PretrainRecipe):
        own = entry
        return PretrainEntry(lambda names: with_fields(own, names), entry.method)
    if callable(entry):
        return PretrainEntry(entry)
    raise ValueError(f"{name} must be a samix.recipes.PretrainRecipe, or a function that returns one, got {entry!r}")


def fallback(field: str, recipe: str, names: Names) -> str:
    """The method and the mixup where none is named."""
    if field == "method":
        return pretrain_entry(recipe).method
    return "samix" if names["method"] == "moco" else "vanilla"


PRETRAINING: Task[PretrainRecipe] = Task(
    recipe=PretrainRecipe,
    recipes=PRETRAIN_RECIPES.names,
    build=lambda name, names: pretrain_entry(name).build(names),
    usual=usual_pretrain_recipe,
    groups={"method": METHOD_GROUP, "mixup": MIXUP_GROUP},
    fallback=fallback,
)
