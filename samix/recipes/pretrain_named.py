"""The named recipes without labels, and the command that takes them.

Published settings: MoCo's CIFAR demo, MoCo v2 (arXiv:2003.04297), MoCo v3 (arXiv:2104.02057), and what SAMix
(arXiv:2111.15454) says of STL-10, Tiny-ImageNet and ImageNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from samix.cli.options import Command
from samix.data import find_dataset
from samix.methods.contrastive.moco import MoCoOptions
from samix.recipes.build_pretraining import LEARNED, METHOD_PART, MIXUP_PART, method_class, options_class
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.recipes.small import SLIM

Called = Mapping[str, str]  # what method and mixup are called


def digits_moco(called: Called) -> PretrainRecipe:
    """The scanned digits of scikit-learn without their labels, a slim network: a minute or two on two cores."""
    return PretrainRecipe(
        name="digits-moco",
        data="digits",
        size=16,
        augment="digits",
        model_args=SLIM,
        stem="small",
        feature=2,
        method=called["method"],
        mixup=called["mixup"],
        method_options=queue_only(called, **SHORT_QUEUE, queue=640, groups=2),
        mixup_options=slim_mixer(called),
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


def queue_only(called: Called, **options: Any) -> dict[str, Any]:
    """Options that only MoCo and the methods derived from it have."""
    return options if issubclass(options_class(method_class(called["method"]).presets), MoCoOptions) else {}


def slim_mixer(called: Called) -> dict[str, Any]:
    """A Mixer's options where a run has some hundred steps: the mask loss is stronger, as in the labelled recipes."""
    return {"mask_weight": 1.0, "mask_schedule": "constant"} if called["mixup"] in LEARNED else {}


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


def cifar_slim_moco(called: Called) -> PretrainRecipe:
    """CIFAR-10 images at 32 pixels, a slim ResNet, MoCo's CIFAR settings: minutes on a CPU. No published number."""
    return dataclasses.replace(
        cifar10_moco(called),
        name="cifar-slim-moco",
        limit=5000,
        model_args=SLIM,
        stem="half",
        feature=2,
        method_options=queue_only(called, **SHORT_QUEUE, queue=1024, groups=4),
        mixup_options=slim_mixer(called),
        min_scale=0.2,
        epochs=20,
        batch_size=128,
        lr=0.2,
        mixer_lr=0.1,
        channels_last=True,
        eval_every=5,
    )


def cifar10_moco(called: Called) -> PretrainRecipe:
    """CIFAR-10, ResNet-18 with a 3x3 stem, MoCo's CIFAR demo: batch 512, SGD 0.06, 200 epochs, queue 4096, t 0.1.

    About 82 % kNN is recollected for 200 epochs, 89.11 is published for 1000.
    """
    return PretrainRecipe(
        name="cifar10-moco",
        data="cifar10",
        size=32,
        augment="none",
        stem="small",
        method=called["method"],
        mixup=called["mixup"],
        method_options=queue_only(called, preset="cifar"),
        views="cifar",
        epochs=200,
        batch_size=512,
        lr=0.06,
        mixer_lr=0.02 if called["mixup"] in LEARNED else None,
        weight_decay=5e-4,
        device_data=True,
        workers=0,
        eval_every=5,
    )


def images_moco(called: Called) -> PretrainRecipe:
    """Anyone's images at 224 pixels, ResNet-18, MoCo v2 with a queue of 1024, batch 64, 200 epochs; not published.

    The learning rate is MoCo's 0.03 per 256 images, the EMA decay 0.99, for runs of some ten thousand steps. For images
    of 96 pixels or less take ``stl10-moco`` or ``cifar10-moco``.
    """
    return dataclasses.replace(
        _moco96(called, "images-moco", "images:data/images", 200),
        size=224,
        augment="resized-crop",
        method_options=queue_only(called, queue=1024, random_start=False, ema_decay=0.99),
        batch_size=64,
        lr=0.0075,
        mixer_lr=0.0025 if called["mixup"] in LEARNED else None,
        workers=4,
    )


def _moco96(called: Called, name: str, data: str, epochs: int) -> PretrainRecipe:
    return PretrainRecipe(
        name=name,
        data=data,
        size=96,
        augment="none",
        method=called["method"],
        mixup=called["mixup"],
        method_options=queue_only(called, queue=16384),
        views="moco-v2",
        epochs=epochs,
        batch_size=256,
        lr=0.03,
        mixer_lr=0.01 if called["mixup"] in LEARNED else None,
        workers=8,
        eval_every=10,
    )


def stl10_moco(called: Called) -> PretrainRecipe:
    """STL-10's unlabelled images at 96 pixels, ResNet-18, MoCo v2, queue 16384, 400 epochs (the authors' SAMix run)."""
    return _moco96(called, "stl10-moco", "stl10-unlabeled", 400)


def tiny_moco(called: Called) -> PretrainRecipe:
    """Tiny-ImageNet at 96 pixels as in SAMix's tables, ResNet-18, MoCo v2, queue 16384; the epochs are ours."""
    return _moco96(called, "tiny-moco", "tiny-imagenet:data/tiny-imagenet-200", 400)


def in1k_moco(called: Called) -> PretrainRecipe:
    """ImageNet-1k, ResNet-50, MoCo v2, batch 256, SGD 0.03, 200 epochs, queue 65536: published linear top-1 67.5."""
    return dataclasses.replace(
        _moco96(called, "in1k-moco", "imagenet:data/imagenet", 200),
        size=224,
        augment="resized-crop",
        model="resnet50",
        method_options=queue_only(called),
    )


def in1k_mocov3_vits(called: Called) -> PretrainRecipe:
    """ImageNet-1k, ViT-S/16, MoCo v3: batch 4096, AdamW 1.5e-4 x B / 256, 300 epochs: published linear top-1 73.2."""
    vit = {"preset": "vit"} if called["method"] == "mocov3" else {}
    return PretrainRecipe(
        name="in1k-mocov3-vits",
        data="imagenet:data/imagenet",
        size=224,
        augment="resized-crop",
        model="vit_small_patch16_224",
        model_args='{"num_heads": 12, "weight_init": "moco"}',
        method=called["method"],
        mixup=called["mixup"],
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


PRETRAIN_RECIPES: dict[str, Callable[[Called], PretrainRecipe]] = {
    "digits-moco": digits_moco,
    "cifar-slim-moco": cifar_slim_moco,
    "cifar10-moco": cifar10_moco,
    "images-moco": images_moco,
    "stl10-moco": stl10_moco,
    "tiny-moco": tiny_moco,
    "in1k-moco": in1k_moco,
    "in1k-mocov3-vits": in1k_mocov3_vits,
}


def usual_pretrain_recipe(data: str | None) -> str:
    """The name of the recipe that is taken for data; None is the digits.

    Raises:
        ValueError, FileNotFoundError: no such data set.
    """
    return find_dataset(data or "digits")[0].pretrain_recipe


PRETRAIN_COMMAND = Command(
    prog="samix pretrain",
    description="Learns features without labels, with any mixup. The recipe gives the values that are not given here. "
    "Where none is named, it is that of the data, for your own images `images-moco`. "
    "Without an option: MoCo with SAMix-I on scanned digits.",
    recipes=PRETRAIN_RECIPES,
    usual=usual_pretrain_recipe,
    kind=PretrainRecipe,
    parts={"method": METHOD_PART, "mixup": MIXUP_PART},
    fallback={
        "method": lambda called: "mocov3" if "mocov3" in called["recipe"] else "moco",
        "mixup": lambda called: "samix" if called["method"] == "moco" else "vanilla",
    },
)
