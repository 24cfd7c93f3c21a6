"""Published recipes.

Sources: the benchmark tables and configs of the authors' toolbox OpenMixup (Li et al. 2022, arXiv:2209.04851), AutoMix
(arXiv:2103.13027), SAMix (arXiv:2111.15454) and AdAutoMix (arXiv:2312.11954).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from samix.recipes.recipe import Recipe
from samix.recipes.task import NamedRecipe
from samix.runtime.checks import Options

# Top-1 in percent, of OpenMixup the median of the last 10 epochs (ImageNet: 5). None: not published.
COLUMNS = ("vanilla", "mixup", "cutmix", "manifoldmix", "fmix", "resizemix", "automix", "samix", "adautomix")
TOP1: dict[str, tuple[float | None, ...]] = {
    "cifar10-r18": (94.87, 95.70, 96.11, 96.04, 96.17, 96.16, 96.59, 96.67, None),
    "cifar100-r18": (76.42, 78.52, 79.45, 79.18, 78.91, 79.56, 80.12, 81.21, 81.55),
    "cifar100-rx50": (79.37, 81.18, 81.52, 81.59, 79.87, None, 82.84, 83.81, 84.40),
    "tiny-r18": (61.68, 63.86, 65.53, 64.15, 63.47, 63.74, 67.33, 68.89, 69.19),
    "tiny-rx50": (65.04, 66.36, 66.47, 67.30, 65.08, 65.87, 70.72, 72.18, 72.89),
    "in1k-r18": (70.04, 69.98, 68.95, 69.98, None, None, 70.50, 70.83, 70.86),
    "in1k-r50": (76.83, 77.12, 77.17, 77.01, None, None, 77.91, 78.14, 78.04),
    "cub-r18": (77.68, 78.39, 78.40, 79.76, 77.28, 78.50, 79.87, 81.11, 80.88),
    "aircraft-r18": (80.23, 79.52, 78.84, 80.68, 79.36, 78.10, 81.37, 82.15, 81.73),
}

# Options and other fields by mixup.
LEARNED_END = {mixup: {"lr_end": 0.05} for mixup in ("automix", "samix", "adautomix", "score")}
CUTTING_DECAY = {m: {"weight_decay": 5e-4} for m in ("cutmix", "attentivemix", "saliencymix", "fmix", "resizemix")}
LARGE = {"ema_decay_end": 0.99999, "mask_schedule": "warmup"}
FINE = {**LARGE, "pairing": "cycle"}
# The papers' values where they differ from the preset, and values that only the released configs have.
PAPER_LARGE = {("samix", "paper"): {"eta": 0.1, "dropout": 0.0}}
PAPER_FINE = {("samix", "paper"): {"dropout": 0.0}}


def alphas(**by_mixup: float) -> dict[str, Options]:
    """Returns the option alpha of mixups."""
    return {mixup: {"alpha": alpha} for mixup, alpha in by_mixup.items()}


CIFAR = {
    **alphas(mixup=1.0, cutmix=0.2, manifoldmix=2.0, fmix=0.2, gridmix=0.2, smoothmix=0.2, saliencymix=0.2),
    "automix": {"lam_channel": False},
    "samix": {"lam_scale": 0.25},
}
TINY = {
    **alphas(manifoldmix=0.2, smoothmix=0.2, gridmix=0.2),
    "automix": {"lam_channel": False},
    "samix": {"lam_scale": -1.0},
    "adautomix": {"beta": 0.4},
}
IMAGENET_R50 = {
    **alphas(mixup=0.2, manifoldmix=0.2, gridmix=0.2, cutmix=1.0, saliencymix=1.0, fmix=1.0, resizemix=1.0),
    "automix": LARGE,
    "samix": {**LARGE, "dropout": 0.1},
    "adautomix": {"ema_decay_end": 0.99999, "samples": 2, "beta": 0.1},
}
# ResNet-18 under-fits at alpha 1.
IMAGENET_R18 = {**IMAGENET_R50, **alphas(cutmix=0.2, saliencymix=0.2, fmix=0.2, resizemix=0.2)}
FINE_GRAINED = {
    **alphas(mixup=0.2, manifoldmix=0.5, saliencymix=0.2, fmix=0.2),
    "automix": FINE,
    "samix": {**FINE, "lam_scale": 1.0, "dropout": 0.1},
    "adautomix": {"ema_decay_end": 0.99999, "pairing": "cycle"},
}

cifar = Recipe(
    name="cifar100-r18", data="cifar100", size=32, augment="crop-flip-reflect", stem="small", device_data=True
)
tiny = Recipe(
    name="tiny-r18",
    data="tiny-imagenet:data/tiny-imagenet-200",
    size=64,
    augment="resized-crop-full",
    stem="small",
    epochs=400,
    lr=0.2,
    mixer_lr=0.1,
    mixer_lr_end=1e-3,
)
imagenet = Recipe(
    name="in1k-r18",
    data="imagenet:data/imagenet",
    size=224,
    augment="resized-crop",
    epochs=100,
    batch_size=256,
    mixer_lr=0.1,
    mixer_lr_end=1e-3,
    workers=8,
)
fine_grained = Recipe(
    name="cub-r18",
    data="cub:data/CUB_200_2011",
    size=224,
    augment="fine-grained",
    model="resnet18.tv_in1k",
    pretrained=True,
    batch_size=16,
    lr=1e-3,
    mixer_lr=1e-2,
    mixer_lr_end=5e-4,
    weight_decay=5e-4,
)


def _row(
    text: str,
    recipe: Recipe,
    mixup_options: Mapping[str, Options],
    cost: str,
    changes: Mapping[str, Options] | None = None,
    presets: Mapping[tuple[str, str], Options] | None = None,
) -> NamedRecipe[Recipe]:
    published = {mixup: top1 for mixup, top1 in zip(COLUMNS, TOP1[recipe.name], strict=True) if top1 is not None}
    return NamedRecipe(text, recipe, mixup_options, changes or {}, presets or {}, published, f"{cost} GPU-hours")


def _as(recipe: Recipe, name: str, **values: str) -> Recipe:
    return dataclasses.replace(recipe, name=name, **values)  # type: ignore[arg-type]  # fields of text alone


RX50 = "resnext50_32x4d"
PUBLISHED = (
    _row(
        """CIFAR-10, ResNet-18 with a 3x3 stem, 200 epochs, batch 100, SGD 0.1, cosine per epoch.

The learned mixups end at lr 0.05 and report the averaged network.""",
        _as(cifar, "cifar10-r18", data="cifar10", augment="crop-flip"),
        {**CIFAR, **alphas(smoothmix=0.5)},
        "0.3 to 1.5",
        LEARNED_END,
    ),
    _row(
        """CIFAR-100, ResNet-18 with a 3x3 stem, 200 epochs, as ``cifar10-r18`` with reflected padding.

At 800 epochs, vanilla to SAMix: 78.04, 79.12, 78.17, 80.35, 79.69, 80.01, 82.04, 82.30.""",
        cifar,
        CIFAR,
        "0.3 to 1.5",
        LEARNED_END,
    ),
    _row(
        """CIFAR-100, ResNeXt-50 (32x4d) with a 3x3 stem, 200 epochs. Mixups that cut use weight decay 5e-4.""",
        _as(cifar, "cifar100-rx50", model=RX50),
        CIFAR,
        "1 to 5",
        LEARNED_END | CUTTING_DECAY,
    ),
    _row(
        """Tiny-ImageNet, ResNet-18 with a 3x3 stem at 64 pixels, 400 epochs, SGD 0.2.""",
        tiny,
        TINY,
        "2 to 6",
        LEARNED_END,
    ),
    _row(
        """Tiny-ImageNet, ResNeXt-50 (32x4d) with a 3x3 stem at 64 pixels, 400 epochs, SGD 0.2.""",
        _as(tiny, "tiny-rx50", model=RX50),
        {**TINY, "samix": {"lam_scale": 0.25}},
        "10 to 40",
        LEARNED_END,
    ),
    _row(
        """ImageNet-1k, ResNet-18, PyTorch-style, 100 epochs, batch 256, SGD 0.1.""",
        imagenet,
        IMAGENET_R18,
        "20 to 80",
        presets=PAPER_LARGE,
    ),
    _row(
        """ImageNet-1k, ResNet-50, PyTorch-style, 100 epochs, batch 256, SGD 0.1.""",
        _as(imagenet, "in1k-r50", model="resnet50"),
        IMAGENET_R50,
        "60 to 200",
        presets=PAPER_LARGE,
    ),
    _row(
        """CUB-200-2011, ResNet-18 from torchvision's ImageNet weights, 200 epochs, batch 16, SGD 0.001.""",
        fine_grained,
        FINE_GRAINED,
        "0.5 to 1.5",
        presets=PAPER_FINE,
    ),
    _row(
        """FGVC-Aircraft (100 variants), ResNet-18 from torchvision's ImageNet weights, as ``cub-r18``.

The released SAMix run ends its EMA decay at 0.99996.""",
        _as(fine_grained, "aircraft-r18", data="aircraft"),
        {**FINE_GRAINED, "samix": {**FINE_GRAINED["samix"], "ema_decay_end": 0.99996}},
        "0.5 to 1.5",
        presets=PAPER_FINE,
    ),
)
