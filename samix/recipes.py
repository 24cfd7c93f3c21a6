"""Recipes: everything that decides a training run, as one flat value; and the published ones, by name.

A recipe is a function of the mixup's name, because the published settings differ by mixup (the final learning rate of
the
learned ones, the alpha of each). Sources: the benchmark tables and configs of the authors' toolbox OpenMixup (Li et al.
2022, arXiv:2209.04851), AutoMix (arXiv:2103.13027) and SAMix (arXiv:2111.15454); each docstring gives published top-1.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

LEARNED = ("automix", "samix", "adautomix")
LossName = Literal["ce", "bce", "softmax_bce", "decoupled", "decoupled_bce"]


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        name: of the recipe these values come from.
        data: ``digits``, ``cifar10``, ``cifar100``, ``stl10``, ``tiny-imagenet:DIR``, ``folder:DIR``, ``imagenet:DIR``,
            ``cub:DIR``, ``aircraft``, ... ; see ``samix.data.load_data``.
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
            ``samix.losses``.
        bce_threshold: of ``bce``, targets above it become 1 and all others 0; None keeps them soft.
        decoupled_eta: of ``decoupled``, weight of its further term.
        clean_weight: weight of the loss of the images as they are, beside the mixed one, for mixups without losses of
            their own; above 0 it costs a further pass.
        accumulate: backward passes per optimiser step.
        precision: ``no`` is float32; ``bf16``, ``fp16``.
        channels_last: memory layout of images and kernels.
        compile: ``torch.compile`` the passes of the networks: a slow start, then faster steps; rounding differs.
        device_data: keep all images on the device and augment there; for small data.
        workers: loader processes, where ``device_data`` is off.
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


# ---------------------------------------------------------------------------------------------------------------------
# The named recipes.


def options_of(name: str, /, **by_mixup: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a recipe gives to this mixup."""
    return dict(by_mixup.get(name, {}))


SLIM = '{"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 8}'


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


QUICK_MOMENTUM = {"momentum": 0.95, "momentum_end": 0.999}
QUICK_MIXER = {
    **QUICK_MOMENTUM,
    "mask_over_batch": False,
    "mask_weight": 1.0,
    "mask_variance": 2.0,
}


SLIM_MIXER = {**QUICK_MIXER, "momentum": 0.98}
SLIM_MOMENTUM = {**QUICK_MOMENTUM, "momentum": 0.98}


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


def _cifar(mixup: str, name: str, model: str, lam_scale: float) -> Recipe:
    options = options_of(
        mixup,
        mixup={"alpha": 1.0},
        cutmix={"alpha": 0.2},
        manifoldmix={"alpha": 2.0},
        fmix={"alpha": 0.2},
        gridmix={"alpha": 0.2},
        automix={"lam_channel": False},
        samix={"lam_scale": lam_scale},
    )
    cutting = mixup in ("cutmix", "fmix", "resizemix")
    return Recipe(
        name=name,
        data=name.split("-")[0],
        size=32,
        augment="crop-flip" if name.startswith("cifar10-") else "crop-flip-reflect",
        model=model,
        stem="small",
        mixup=mixup,
        mixup_options=options,
        lr_end=0.05 if mixup in LEARNED else 0.0,
        weight_decay=5e-4 if cutting and "resnext" in model else 1e-4,
        device_data=True,
    )


def cifar10_r18(mixup: str) -> Recipe:
    """CIFAR-10, ResNet-18 with a 3x3 stem, 200 epochs, batch 100, SGD 0.1, cosine per epoch.

    Published top-1 (OpenMixup, median of the last 10 epochs): vanilla 94.87, MixUp 95.70, CutMix 96.11, ManifoldMix
    96.04, FMix 96.17, ResizeMix 96.16, AutoMix 96.59, SAMix 96.67. The learned ones end at lr 0.05 and report the
    averaged network.
    """
    return _cifar(mixup, "cifar10-r18", "resnet18", 0.25)


def cifar100_r18(mixup: str) -> Recipe:
    """CIFAR-100, ResNet-18 with a 3x3 stem, 200 epochs, as ``cifar10-r18`` with reflected padding.

    Published top-1 (OpenMixup): vanilla 76.42, MixUp 78.52, CutMix 79.45, ManifoldMix 79.18, FMix 78.91, ResizeMix
    79.56, AutoMix 80.12, SAMix 81.21; at 800 epochs 78.04, 79.12, 78.17, 80.35, 79.69, 80.01, 82.04, 82.30.
    """
    return _cifar(mixup, "cifar100-r18", "resnet18", 0.25)


def cifar100_rx50(mixup: str) -> Recipe:
    """CIFAR-100, ResNeXt-50 (32x4d) with a 3x3 stem, 200 epochs.

    Published top-1 (OpenMixup): vanilla 79.37, MixUp 81.18, CutMix 81.52, ManifoldMix 81.59, FMix 79.87, AutoMix 82.84,
    SAMix 83.81. Methods that cut use weight decay 5e-4.
    """
    return _cifar(mixup, "cifar100-rx50", "resnext50_32x4d", 0.25)


def _tiny(mixup: str, name: str, model: str, lam_scale: float) -> Recipe:
    options = options_of(
        mixup,
        manifoldmix={"alpha": 0.2},
        gridmix={"alpha": 0.2},
        automix={"lam_channel": False},
        samix={"lam_scale": lam_scale},
        adautomix={"beta": 0.4},
    )
    return Recipe(
        name=name,
        data="tiny-imagenet:data/tiny-imagenet-200",
        size=64,
        augment="resized-crop-full",
        model=model,
        stem="small",
        mixup=mixup,
        mixup_options=options,
        epochs=400,
        lr=0.2,
        lr_end=0.05 if mixup in LEARNED else 0.0,
        mixer_lr=0.1,
        mixer_lr_end=1e-3,
    )


def tiny_r18(mixup: str) -> Recipe:
    """Tiny-ImageNet, ResNet-18 with a 3x3 stem at 64 pixels, 400 epochs, SGD 0.2.

    Published top-1 (OpenMixup): vanilla 61.68, MixUp 63.86, CutMix 65.53, ManifoldMix 64.15, FMix 63.47, ResizeMix
    63.74, AutoMix 67.33, SAMix 68.89.
    """
    return _tiny(mixup, "tiny-r18", "resnet18", -1.0)


def tiny_rx50(mixup: str) -> Recipe:
    """Tiny-ImageNet, ResNeXt-50 (32x4d) with a 3x3 stem at 64 pixels, 400 epochs, SGD 0.2.

    Published top-1 (OpenMixup): vanilla 65.04, MixUp 66.36, CutMix 66.47, ManifoldMix 67.30, AutoMix 70.72, SAMix
    72.18.
    """
    return _tiny(mixup, "tiny-rx50", "resnext50_32x4d", 0.25)


LARGE_SCALE = {"momentum_end": 0.99999, "mask_schedule": "warmup"}


def _imagenet(mixup: str, name: str, model: str) -> Recipe:
    options = options_of(
        mixup,
        mixup={"alpha": 0.2},
        manifoldmix={"alpha": 0.2},
        fmix={"alpha": 0.2},
        automix=LARGE_SCALE,
        samix={**LARGE_SCALE, "dropout": 0.1},
        adautomix={"momentum_end": 0.99999, "samples": 2, "beta": 0.1},
    )
    return Recipe(
        name=name,
        data="imagenet:data/imagenet",
        size=224,
        augment="resized-crop",
        model=model,
        mixup=mixup,
        mixup_options=options,
        epochs=100,
        batch_size=256,
        mixer_lr=0.1,
        mixer_lr_end=1e-3,
        workers=8,
    )


def in1k_r18(mixup: str) -> Recipe:
    """ImageNet-1k, ResNet-18, PyTorch-style, 100 epochs, batch 256, SGD 0.1.

    Published top-1 (OpenMixup, median of the last 5 epochs): vanilla 70.04, MixUp 69.98, CutMix 68.95, ManifoldMix
    69.98, AutoMix 70.50, SAMix 70.83.
    """
    return _imagenet(mixup, "in1k-r18", "resnet18")


def in1k_r50(mixup: str) -> Recipe:
    """ImageNet-1k, ResNet-50, PyTorch-style, 100 epochs, batch 256, SGD 0.1.

    Published top-1 (OpenMixup): vanilla 76.83, MixUp 77.12, CutMix 77.17, ManifoldMix 77.01, AutoMix 77.91, SAMix
    78.14.
    """
    return _imagenet(mixup, "in1k-r50", "resnet50")


def _fine_grained(mixup: str, name: str, data: str) -> Recipe:
    learned = {"momentum_end": 0.99999, "mask_schedule": "warmup", "pairing": "cycle"}
    options = options_of(
        mixup,
        mixup={"alpha": 0.2},
        manifoldmix={"alpha": 0.5},
        fmix={"alpha": 0.2},
        automix=learned,
        samix={**learned, "lam_scale": 1.0, "dropout": 0.1},
        adautomix={"momentum_end": 0.99999, "pairing": "cycle"},
    )
    return Recipe(
        name=name,
        data=data,
        size=224,
        augment="fine-grained",
        model="resnet18.tv_in1k",
        pretrained=True,
        mixup=mixup,
        mixup_options=options,
        batch_size=16,
        lr=1e-3,
        mixer_lr=1e-2,
        mixer_lr_end=5e-4,
        weight_decay=5e-4,
    )


def cub_r18(mixup: str) -> Recipe:
    """CUB-200-2011, ResNet-18 from torchvision's ImageNet weights, 200 epochs, batch 16, SGD 0.001.

    Published top-1 (OpenMixup): vanilla 77.68, MixUp 78.39, CutMix 78.40, ManifoldMix 79.76, AutoMix 79.87, SAMix
    81.11.
    """
    return _fine_grained(mixup, "cub-r18", "cub:data/CUB_200_2011")


def aircraft_r18(mixup: str) -> Recipe:
    """FGVC-Aircraft (100 variants), ResNet-18 from torchvision's ImageNet weights, as ``cub-r18``.

    Published top-1 (OpenMixup): vanilla 80.23, MixUp 79.52, CutMix 78.84, ManifoldMix 80.68, AutoMix 81.37, SAMix
    82.15. The released SAMix run ends its momentum at 0.99996.
    """
    recipe = _fine_grained(mixup, "aircraft-r18", "aircraft")
    if mixup != "samix":
        return recipe
    return dataclasses.replace(recipe, mixup_options={**recipe.mixup_options, "momentum_end": 0.99996})


@dataclass(frozen=True)
class Entry:
    """A named recipe with what ``samix recipes`` says of it: published top-1 in percent by mixup, and a rough cost."""

    build: Callable[[str], Recipe]
    published: Mapping[str, float]
    cost: str


RECIPES: dict[str, Entry] = {
    "digits-quick": Entry(digits_quick, {}, "a minute or two, 2 CPU cores"),
    "cifar-slim": Entry(cifar_slim, {}, "some minutes, 2 CPU cores"),
    "cifar-few": Entry(cifar_few, {}, "some minutes, 2 CPU cores"),
    "cifar10-r18": Entry(
        cifar10_r18,
        {
            "vanilla": 94.87,
            "mixup": 95.70,
            "cutmix": 96.11,
            "manifoldmix": 96.04,
            "fmix": 96.17,
            "resizemix": 96.16,
            "automix": 96.59,
            "samix": 96.67,
        },
        "0.3 to 1.5 GPU-hours",
    ),
    "cifar100-r18": Entry(
        cifar100_r18,
        {
            "vanilla": 76.42,
            "mixup": 78.52,
            "cutmix": 79.45,
            "manifoldmix": 79.18,
            "fmix": 78.91,
            "resizemix": 79.56,
            "automix": 80.12,
            "samix": 81.21,
            "adautomix": 81.55,
        },
        "0.3 to 1.5 GPU-hours",
    ),
    "cifar100-rx50": Entry(
        cifar100_rx50,
        {
            "vanilla": 79.37,
            "mixup": 81.18,
            "cutmix": 81.52,
            "manifoldmix": 81.59,
            "fmix": 79.87,
            "automix": 82.84,
            "samix": 83.81,
            "adautomix": 84.40,
        },
        "1 to 5 GPU-hours",
    ),
    "tiny-r18": Entry(
        tiny_r18,
        {
            "vanilla": 61.68,
            "mixup": 63.86,
            "cutmix": 65.53,
            "manifoldmix": 64.15,
            "fmix": 63.47,
            "resizemix": 63.74,
            "automix": 67.33,
            "samix": 68.89,
            "adautomix": 69.19,
        },
        "2 to 6 GPU-hours",
    ),
    "tiny-rx50": Entry(
        tiny_rx50,
        {
            "vanilla": 65.04,
            "mixup": 66.36,
            "cutmix": 66.47,
            "manifoldmix": 67.30,
            "fmix": 65.08,
            "resizemix": 65.87,
            "automix": 70.72,
            "samix": 72.18,
            "adautomix": 72.89,
        },
        "10 to 40 GPU-hours",
    ),
    "in1k-r18": Entry(
        in1k_r18,
        {
            "vanilla": 70.04,
            "mixup": 69.98,
            "cutmix": 68.95,
            "manifoldmix": 69.98,
            "automix": 70.50,
            "samix": 70.83,
            "adautomix": 70.86,
        },
        "20 to 80 GPU-hours",
    ),
    "in1k-r50": Entry(
        in1k_r50,
        {
            "vanilla": 76.83,
            "mixup": 77.12,
            "cutmix": 77.17,
            "manifoldmix": 77.01,
            "automix": 77.91,
            "samix": 78.14,
            "adautomix": 78.04,
        },
        "60 to 200 GPU-hours",
    ),
    "cub-r18": Entry(
        cub_r18,
        {
            "vanilla": 77.68,
            "mixup": 78.39,
            "cutmix": 78.40,
            "manifoldmix": 79.76,
            "fmix": 77.28,
            "resizemix": 78.50,
            "automix": 79.87,
            "samix": 81.11,
            "adautomix": 80.88,
        },
        "0.5 to 1.5 GPU-hours",
    ),
    "aircraft-r18": Entry(
        aircraft_r18,
        {
            "vanilla": 80.23,
            "mixup": 79.52,
            "cutmix": 78.84,
            "manifoldmix": 80.68,
            "fmix": 79.36,
            "resizemix": 78.10,
            "automix": 81.37,
            "samix": 82.15,
            "adautomix": 81.73,
        },
        "0.5 to 1.5 GPU-hours",
    ),
}


def named_recipe(name: str, mixup: str = "samix") -> Recipe:
    """The recipe of that name for that mixup.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name].build(mixup)
