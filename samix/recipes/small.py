"""Recipes of minutes on a CPU. None is published; our figures are in ``docs/results``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from samix.recipes.recipe import Recipe

SLIM = '{"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 8}'

# A run of some hundred steps: the momentum copy must keep up, and the masks must form.
QUICK_MOMENTUM = {"ema_decay": 0.95, "ema_decay_end": 0.999}
QUICK_MIXER = {**QUICK_MOMENTUM, "mask_over_batch": False, "mask_weight": 1.0, "mask_variance": 2.0}
SLIM_MOMENTUM = {**QUICK_MOMENTUM, "ema_decay": 0.98}
SLIM_MIXER = {**QUICK_MIXER, "ema_decay": 0.98}


def options_of(name: str, /, **by_mixup: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a recipe gives to this mixup."""
    return dict(by_mixup.get(name, {}))


def digits_quick(mixup: str) -> Recipe:
    """The 1,797 scanned digits inside scikit-learn, at 16 pixels, with a slim ResNet: minutes on two cores.

    No published number; ours is in ``docs/results``. The Mixer gets a larger learning rate than anywhere else, since a
    run has only a few hundred steps in which its masks must form.
    """
    return Recipe(
        name="digits-quick",
        data="digits",
        size=16,
        augment="digits",
        model="resnet18",
        model_args=SLIM,
        stem="small",
        feature=2,
        mixup=mixup,
        mixup_options=options_of(mixup, automix=QUICK_MIXER, samix=QUICK_MIXER, adautomix=QUICK_MOMENTUM),
        epochs=30,
        batch_size=100,
        lr=0.1,
        mixer_lr=0.3,
        mixer_lr_end=0.03,
        weight_decay=5e-4,
        schedule="step",
        channels_last=True,
        device_data=True,
        workers=0,
    )


def cifar_slim(mixup: str) -> Recipe:
    """CIFAR-10 images with a slim ResNet, for comparisons on a CPU: give ``--data`` and ``--limit``. Not published."""
    return dataclasses.replace(
        digits_quick(mixup),
        name="cifar-slim",
        data="cifar10",
        size=32,
        augment="crop-flip",
        stem="half",
        limit=2500,
        eval_every=5,
        epochs=40,
        mixup_options=options_of(mixup, automix=SLIM_MIXER, samix=SLIM_MIXER, adautomix=SLIM_MOMENTUM),
    )


def cifar_few(mixup: str) -> Recipe:
    """A thousand CIFAR-10 images for 100 epochs with a slim ResNet, which overfits without mixup: what mixups are for.

    The quickest of our recipes that tells good mixups from bad ones. Give ``--data``. Not published.
    """
    return dataclasses.replace(cifar_slim(mixup), name="cifar-few", limit=1000, epochs=100, eval_every=10)
