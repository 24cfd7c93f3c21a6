"""The settings and methods that ``worth.py`` runs and ``worth_report.py`` tells of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from samix.recipes import Recipe, named_recipe
from samix.recipes.small import QUICK_MIXER

Kind = Literal["supervised", "averaged", "learned"]


@dataclass(frozen=True)
class Form:
    """How a frozen Mixer is used beside a clean loss.

    Args:
        softness: of a batch, uniform in this range. (0, 0) is the library's use, and (1, 1) its exact control, in which
            every mask is held at lambda.
        until: share of the run after which only the clean loss is left.
        apart: partners are those whose maps overlap least, instead of random ones.
    """

    softness: tuple[float, float] = (0.0, 0.0)
    until: float = 1.0
    apart: bool = False


@dataclass(frozen=True)
class Row:
    """A method of the tables.

    Args:
        mixup: its name.
        kind: ``supervised`` reports the network; ``averaged`` its running average; ``learned`` trains the mixup too.
        clean_weight: of the loss of the images as they are.
        options: of the mixup.
        form: of a frozen Mixer's use; None is the library's.
        once: show each image once, half of the batch clean and half mixed.
    """

    mixup: str
    kind: Kind = "supervised"
    clean_weight: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    form: Form | None = None
    once: bool = False


def mixer_row(form: Form) -> Row:
    """A form of the Mixer of the package, with clean loss and running average."""
    return Row("mixer:default", "averaged", 1.0, form=form)


# Half of the batch is clean and half is mixed: each image is seen once.
ONCE = {"clean_share": 0.5, "mixed_share": 0.5, "generator_share": 0.5, "generator_every": 2}

ROWS = {
    "vanilla": Row("vanilla"),
    "mixup": Row("mixup"),
    "cutmix": Row("cutmix"),
    "guidedmixup": Row("guidedmixup"),
    "mixup-once": Row("mixup", "averaged", 1.0, once=True),
    "mixup-clean-ema": Row("mixup", "averaged", 1.0),
    "cutmix-clean-ema": Row("cutmix", "averaged", 1.0),
    "samix-constant": Row("samix", "learned", options={"constant_masks": True}),
    "automix": Row("automix", "learned"),
    "automix-constant": Row("automix", "learned", options={"constant_masks": True}),
    "samix": Row("samix", "learned"),
    "samix-p-clean": Row("mixer:default", "averaged", 1.0),
    "samix-once": Row("samix", "learned", options=ONCE),
    "samix-once-constant": Row("samix", "learned", options={**ONCE, "constant_masks": True}),
}
FORMS = {  # tried on images held out of the training images
    "mixer-constant": mixer_row(Form((1.0, 1.0))),
    "mixer-soft": mixer_row(Form((0.75, 0.75))),
    "mixer-random": mixer_row(Form((0.0, 1.0))),
    "mixer-random-constant": mixer_row(Form((1.0 - 1e-9, 1.0))),  # the exact control of the one above
    "mixer-until": mixer_row(Form(until=0.8)),
    "mixer-apart": mixer_row(Form(apart=True)),
    "guidedmixup-clean-ema": Row("guidedmixup", "averaged", 1.0),
    "guidedmixup-clean-ema-always": Row("guidedmixup", "averaged", 1.0, {"prob": 1.0}),
}
ROWS |= FORMS
# Rows that another row's run gives too: training is the same, and another of its classifiers is reported.
DERIVED = {
    "vanilla-ema": ("vanilla", "ema_clean"),
    "mixup-clean": ("mixup-clean-ema", "online_clean"),
    "mixup-half": ("mixup-once", "online_clean"),
}
REFERENCES = ("vanilla", "mixup-clean-ema", "samix-constant")  # what differences are taken from
TITLES = {  # for readers
    "vanilla": "none",
    "vanilla-ema": "none, with average",
    "mixup": "MixUp",
    "mixup-half": "MixUp of half of the batch, the other half clean",
    "mixup-clean": "MixUp with clean loss",
    "cutmix": "CutMix",
    "guidedmixup": "GuidedMixup",
    "mixup-clean-ema": "MixUp with clean loss and average",
    "mixup-once": "MixUp of half of the batch, the other half clean, with average",
    "cutmix-clean-ema": "CutMix with clean loss and average",
    "guidedmixup-clean-ema": "GuidedMixup with clean loss and average",
    "guidedmixup-clean-ema-always": "GuidedMixup in every step, with clean loss and average",
    "mixer-constant": "frozen Mixer, masks held at lambda (control)",
    "samix-constant": "SAMix, masks held at lambda (control)",
    "automix": "AutoMix",
    "automix-constant": "AutoMix, masks held at lambda (control)",
    "samix": "SAMix",
    "samix-once": "SAMix, each image once",
    "samix-once-constant": "SAMix, each image once, masks held at lambda (control)",
    "samix-p-clean": "frozen Mixer with clean loss and average",
}
README_ROWS = (
    *("vanilla", "vanilla-ema", "mixup", "cutmix", "guidedmixup", "mixup-half", "mixup-once", "mixup-clean"),
    *("mixup-clean-ema", "cutmix-clean-ema", "mixer-constant", "samix-p-clean", "samix-once-constant", "samix-once"),
    *("samix-constant", "samix", "automix-constant", "automix"),
)
HEADS = ("online_clean", "online_mixed", "online_mean", "ema_clean", "ema_mixed", "ema_mean")


@dataclass(frozen=True)
class Setting:
    """Data, network and length.

    Args:
        title: what it is in words.
        recipe: its name; ``finetune`` is that of this file.
        changes: of the recipe's fields.
        ema: decay of the average at the start and at the end, and the share of the run in which it is held.
        test: number of test images, the same of every class.
        weights: packaged weights to start from, with the head by a logistic regression and frozen statistics.
        mean, std: of each channel.
    """

    title: str
    recipe: str
    changes: Mapping[str, Any]
    ema: tuple[float, float, float] = (0.98, 0.999, 0.1)
    test: int = 10_000
    weights: str = ""
    mean: float | None = None
    std: float | None = None

    def build(self, mixup: str) -> Recipe:
        """The recipe for a mixup."""
        recipe = finetune(mixup) if self.recipe == "finetune" else named_recipe(self.recipe, mixup)
        values = {**recipe.to_dict(), **self.changes}
        return Recipe(**{**values, "eval_every": values["epochs"]})


def finetune(mixup: str) -> Recipe:
    """Fine-tuning of EfficientNet-Lite0 on a thousand images, short: 64 pixels, six epochs."""
    return Recipe(
        name="finetune",
        limit=1000,
        size=64,
        augment="crop-flip",
        model="tf_efficientnet_lite0",
        mixup=mixup,
        mixup_options=QUICK_MIXER if mixup in ("samix", "automix") else {},
        epochs=6,
        batch_size=32,
        optimizer="adamw",
        lr=2e-4,
        mixer_lr=2e-3,
        mixer_lr_end=2e-4,
        weight_decay=0.05,
        decay_norms=False,
        warmup_epochs=0.6,
        schedule="step",
        smoothing=0.1,
        channels_last=True,
        device_data=True,
        workers=0,
    )


SETTINGS = {
    "S": Setting(
        "1,000 CIFAR-10 images, 100 epochs (1,000 steps), slim ResNet from scratch",
        "cifar-few",
        {"limit": 1000, "epochs": 100},
    ),
    "F": Setting(
        "1,000 CIFAR-10 images at 64 px, 6 epochs (186 steps), EfficientNet-Lite0 from ImageNet weights",
        "finetune",
        {},
        ema=(0.95, 0.999, 0.1),
        test=5000,
        weights="lite0",
        mean=0.5,
        std=0.5,
    ),
    "M": Setting(
        "2,500 CIFAR-10 images, 40 epochs (1,000 steps), slim ResNet from scratch",
        "cifar-few",
        {"limit": 2500, "epochs": 40},
    ),
    "K": Setting(
        "5,000 CIFAR-10 images, 60 epochs (3,000 steps), slim ResNet from scratch",
        "cifar-few",
        {"limit": 5000, "epochs": 60},
    ),
    "L": Setting(
        "5,000 CIFAR-10 images, 200 epochs (10,000 steps), slim ResNet from scratch",
        "cifar-few",
        {"limit": 5000, "epochs": 200},
    ),
}
