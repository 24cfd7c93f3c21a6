"""Learning without labels, end to end: what a recipe names, its recipes, and its run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from samix.build import MIXER, build_augment, build_mixup, check_preset, mixup_class
from samix.checkpoint import export_network, writing
from samix.clustering import ClusterOptions
from samix.data import EvalBatches, TrainBatches, denormalize
from samix.data.images import no_labels
from samix.data.views import ViewAugment, ViewKind
from samix.engine import Run, common_options, short_name
from samix.methods.barlow import BARLOW_PRESETS, BarlowTwins
from samix.methods.base import Method
from samix.methods.byol import BYOL, BYOL_PRESETS
from samix.methods.contrastive_mix import MIX_METHODS, MIX_PRESETS
from samix.methods.moco import MOCO_PRESETS, MoCo, MoCoOptions
from samix.methods.moco_v3 import MOCO_V3_PRESETS, MoCoV3
from samix.methods.pseudo_labels import PseudoLabelOptions
from samix.methods.samix_c import SAMIX_C_PRESETS
from samix.methods.samix_i import SAMIX_I_PRESETS
from samix.methods.simclr import SIMCLR_PRESETS, SimCLR
from samix.methods.simsiam import SIMSIAM_PRESETS, SimSiam
from samix.methods.swav import SWAV_PRESETS, SwAV
from samix.mixing import Augmentation
from samix.mixups import MIXUPS
from samix.mixups.inter_intra import InterIntraMix
from samix.mixups.puzzle import PuzzleMix
from samix.networks.create import create_network
from samix.networks.encoder import Encoder
from samix.networks.queue import check_queue
from samix.options import Command, Part
from samix.recipes import SLIM, Recipe

METHODS: dict[str, Any] = {
    "moco": MoCo,
    "simclr": SimCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "mocov3": MoCoV3,
    "swav": SwAV,
    "barlow": BarlowTwins,
    **MIX_METHODS,
}
PRESETS: dict[str, Mapping[str, Any]] = {
    "moco": MOCO_PRESETS,
    "simclr": SIMCLR_PRESETS,
    "byol": BYOL_PRESETS,
    "simsiam": SIMSIAM_PRESETS,
    "mocov3": MOCO_V3_PRESETS,
    "swav": SWAV_PRESETS,
    "barlow": BARLOW_PRESETS,
    **MIX_PRESETS,
}
LEARNED: dict[str, Mapping[str, Any]] = {"samix": SAMIX_I_PRESETS, "samix-c": SAMIX_C_PRESETS}
# Mixups of labelled images that take clusters for classes; their options are their own and those of the clusters.
BY_CLUSTERS: dict[str, type[Augmentation]] = {"interintra": InterIntraMix, "puzzlemix": PuzzleMix}
MIXUP_NAMES = (*MIXUPS, *(name for name in BY_CLUSTERS if name not in MIXUPS), *LEARNED)


@dataclass(frozen=True)
class PretrainRecipe(Recipe):
    """One run of learning without labels: a recipe, whose ``augment`` is that of the evaluation, and further fields.

    Args:
        method: ``moco``, ``mocov3``, ``simclr``, ``byol``, ``simsiam``, ``swav``, ``barlow``; and those that say
            themselves how they mix: ``imix``, ``unmix``, ``mixco``, ``bsim``, ``dacl``, ``sdmp``, and ``mochi``.
        method_options: its options, where they differ from its preset.
        mixup: name of the mixup; ``samix`` trains a Mixer beside MoCo (SAMix-I), ``samix-c`` by clusters;
            ``interintra`` and ``puzzlemix`` take clusters for classes; ``mixer:PATH`` uses a trained Mixer.
        views: kind of the views, see ``samix.data.views.ViewAugment``.
        min_scale: least share of the area that a view's crop takes; None is the kind's.
        strength: factor of the colour jitter.
        small_crops: number of further small views, for ``swav`` views.
        knn: neighbours of the kNN monitor, 0 for none; clipped to the number of training images.
        knn_temperature: of its weights.
    """

    method: str = "moco"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    views: ViewKind = "moco-v2"
    min_scale: float | None = None
    strength: float = 1.0
    small_crops: int | None = None
    knn: int = 200
    knn_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.knn < 0 or not self.knn_temperature > 0:
            raise ValueError(
                f"knn must be at least 0 and its temperature positive, got {self.knn} and {self.knn_temperature}"
            )
        if self.clean_weight:
            raise ValueError(
                f"clean_weight is for learning with labels, got {self.clean_weight}; without them the method's clean "
                "loss is always there, and --method.mixed-weight weighs the mixed one"
            )
        self.view_augment()

    def view_augment(self) -> ViewAugment:
        """How the views are made."""
        return ViewAugment(self.views, self.min_scale, self.strength, self.small_crops)


# ---------------------------------------------------------------------------------------------------------------------
# Names into objects.


def method_defaults(name: str, preset: str | None = None) -> dict[str, Any]:
    """The options of a method as plain values, at its first preset or at the one named.

    Raises:
        ValueError: unknown name or preset; the message lists the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return dataclasses.asdict(check_preset(name, PRESETS[name], preset))


def view_mixup_defaults(name: str, preset: str | None = None) -> dict[str, Any]:
    """The options of a mixup without labels as plain values.

    Raises:
        ValueError: unknown name or preset; the message lists the known ones.
    """
    if name in LEARNED:
        return dataclasses.asdict(check_preset(name, LEARNED[name], preset))
    if name not in MIXUP_NAMES and not name.startswith(MIXER):
        raise ValueError(f"unknown mixup {name!r} without labels; choose one of {', '.join(MIXUP_NAMES)}, {MIXER}PATH")
    if preset is not None:
        raise ValueError(f"{name} has no presets; {', '.join(LEARNED)} has: {', '.join(SAMIX_I_PRESETS)}")
    kind = BY_CLUSTERS[name] if name in BY_CLUSTERS else mixup_class(name)
    options = kind(generator=torch.Generator()).options()  # no draw of the global generator
    return {**options, **dataclasses.asdict(PseudoLabelOptions())} if name in BY_CLUSTERS else options


def view_mixup_owner(name: str) -> type[Any]:
    """The class whose fields are the options of a mixup without labels."""
    if name in LEARNED:
        return _first(LEARNED[name])
    if name in BY_CLUSTERS:
        return type(name, (BY_CLUSTERS[name], PseudoLabelOptions), {})  # for types and help; none is ever made
    return mixup_class(name)


def _first(presets: Mapping[str, Any]) -> type[Any]:
    return type(next(iter(presets.values())))


METHOD_PART = Part(
    help=f"one of {', '.join(METHODS)}; its options are --method.NAME",
    defaults=method_defaults,
    owner=lambda name: _first(PRESETS[name]),
)
MIXUP_PART = Part(
    help=f"one of {', '.join(MIXUP_NAMES)}, or mixer:PATH, a trained one; its options are --mixup.NAME",
    defaults=view_mixup_defaults,
    owner=view_mixup_owner,
)


def build_pretraining(recipe: PretrainRecipe, images: int, normalization: tuple[Any, Any] | None = None) -> Method:
    """The method of a recipe, with a new network.

    Args:
        recipe: the run.
        images: number of training images.
        normalization: mean and std by channel, for mixups that look at pixels.

    Raises:
        ValueError: whatever is wrong with the recipe's network, method, mixup or options.
    """
    method = METHOD_PART.chosen(recipe.method, recipe.method_options, recipe.method_options.get("preset"))
    mixing = MIXUP_PART.chosen(recipe.mixup, recipe.mixup_options, recipe.mixup_options.get("preset"))
    network = create_network(
        recipe.model, 0, recipe.model_kwargs, size=recipe.size, stem=recipe.stem, pretrained=recipe.pretrained
    )
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    options = _first(PRESETS[recipe.method])(**method)
    if isinstance(options, MoCoOptions):
        check_queue(options.queue, images)
    given = what_mixes(recipe, mixing, network, images)
    if normalization is not None and isinstance(given.get("mixup"), Augmentation):
        given["mixup"].set_normalization(*normalization)
    built: Method = METHODS[recipe.method](network, options, **given)
    return built


def what_mixes(recipe: PretrainRecipe, options: dict[str, Any], network: nn.Module, images: int) -> dict[str, Any]:
    """What a method is given for its mixup: the mixup, and what it needs to be trained or to have clusters.

    Args:
        recipe: names mixup and method.
        options: all of the mixup's.
        network: that is to be trained.
        images: number of training images.

    Raises:
        ValueError: a mixup that needs MoCo beside another method, or options out of range or without effect.
    """
    name = recipe.mixup
    if name == "vanilla":
        return {}
    if name in LEARNED:
        check_beside_moco(recipe, "is trained")
        chosen = _first(LEARNED[name])(**options)
        dim = Encoder(network, _no_projector, recipe.feature).dim
        given = {"mixup": chosen.build_mixer(dim), "mixing": chosen, "feature": recipe.feature}
        return {**given, "images": images} if isinstance(chosen, ClusterOptions) else given
    if name not in BY_CLUSTERS:
        return {"mixup": build_mixup(name, options)}
    of_clusters = dataclasses.asdict(PseudoLabelOptions())
    mixup = BY_CLUSTERS[name](**{key: value for key, value in options.items() if key not in of_clusters})
    chosen = PseudoLabelOptions(**{key: options[key] for key in of_clusters})
    if getattr(mixup, "saliency", "gradient") == "spectral":  # read off the pixels: nobody asks for classes
        changed = [key for key, value in of_clusters.items() if options[key] != value]
        if changed:
            raise ValueError(f"{name} with saliency spectral has no clusters, so {', '.join(changed)} would do nothing")
        return {"mixup": mixup}
    check_beside_moco(recipe, "takes its clusters from keys and runs")
    return {"mixup": mixup, "mixing": chosen, "images": images}


def check_beside_moco(recipe: PretrainRecipe, what: str) -> None:
    """Raises ValueError unless the method is MoCo, beside which this mixup ``what``."""
    if recipe.method != "moco":
        raise ValueError(f"{recipe.mixup} without labels {what} beside moco, not {recipe.method}")


def _no_projector(width: int) -> nn.Module:
    return nn.Identity()


# ---------------------------------------------------------------------------------------------------------------------
# The run.


VIEWED = 8  # images in views.png


def numbered(batches: EvalBatches) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images, and the rows (B,) of the split that they are."""
    rows = iter(batches.rows)
    for images, _ in batches.batches():
        readable = (row for row in rows if row not in batches.bad)
        yield images, torch.tensor(list(islice(readable, len(images))))


def counted(batches: Iterable[tuple[Tensor, Tensor]], bar: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Passes batches on, and counts them on a bar."""
    for batch in batches:
        yield batch
        bar.update(1)


class PretrainRun(Run):
    """A run without labels: two views for a batch, a kNN monitor for an evaluation."""

    score: ClassVar[str] = "knn"
    headline: ClassVar[tuple[str, ...]] = ("knn", "loss")
    recipe: PretrainRecipe

    def check_data(self) -> None:
        """Any images will do, if there are at least two."""
        if len(self.data.train) < 2:
            raise ValueError(f"{self.data.name} has one image only; learning without labels compares images")

    def default_name(self) -> str:
        """The run's folder where no name is given; MoCo is the method of the recipes' names."""
        method = "" if self.recipe.method == "moco" else f"-{self.recipe.method}"
        return f"{self.recipe.name}{method}-{short_name(self.recipe.mixup)}-s{self.recipe.seed}"

    def make_batches(self) -> tuple[TrainBatches, EvalBatches]:
        """Two views of training images, and held-out images."""
        recipe, on_bad = self.recipe, self.options.on_bad_image
        common = common_options(recipe, self.device, self.rank, self.world_size, on_bad)
        parts = self.world_size * recipe.accumulate
        if recipe.batch_size % parts:
            raise ValueError(f"batch_size {recipe.batch_size} must be divisible by {parts}, processes x accumulate")
        train = TrainBatches(
            self.data,
            batch_size=recipe.batch_size // parts,
            seed=recipe.seed,
            views=recipe.view_augment(),
            **common,
        )
        augment = build_augment(recipe, self.data)
        return train, EvalBatches(self.data, batch_size=200, augment=augment, **common)

    def start(self) -> None:
        """Also paints the views, and makes the first clusters where no warm-up is to bring them."""
        super().start()
        if self.accelerator.is_main_process:
            with writing(self.folder / "views.png"):
                self.draw_views()
        self.make_first_clusters()

    def make_first_clusters(self) -> None:
        """One pass over the training images, each process over its share; nothing for a run that has its clusters."""
        method: Any = self.method
        clusters = getattr(getattr(method, "mixing", None), "clusters", None)
        if clusters is None or clusters.options.warmup_epochs or bool(clusters.started):
            return
        common = common_options(self.recipe, self.device, self.rank, self.world_size, self.options.on_bad_image)
        augment = build_augment(self.recipe, self.data)
        batches = EvalBatches(self.data, split="train", batch_size=200, augment=augment, **common)
        with self.accelerator.autocast(), self.bar(len(batches), "features for the first clusters", "batch") as bar:
            clusters.initialise_from(method.momentum, counted(numbered(batches), bar))

    def draw_views(self) -> None:
        """Paints two views of some training images, once."""
        if (self.folder / "views.png").exists():
            return
        from samix.visualize import view_grid

        rows = torch.linspace(0, len(self.data.train) - 1, min(len(self.data.train), VIEWED)).long()
        chosen: Any = self.data.train.subset(rows)
        chosen = dataclasses.replace(chosen, labels=no_labels(len(rows)))  # some classes may have none of these
        some = dataclasses.replace(self.data, train=chosen, labelled=None)
        common = common_options(self.recipe, self.device, on_bad_image=self.options.on_bad_image) | {"workers": 0}
        views = TrainBatches(
            some, batch_size=len(rows), seed=self.recipe.seed, views=self.recipe.view_augment(), **common
        )
        view_q, view_k, ids, *_ = next(views.epoch(0))
        as_they_are = EvalBatches(
            some, split="train", batch_size=len(rows), augment=build_augment(self.recipe, self.data), **common
        )
        originals = torch.cat([images for images, _ in as_they_are.batches()])

        def pixels(images: Tensor) -> Tensor:
            return denormalize(images, self.data.mean, self.data.std)

        unread = bool(as_they_are.bad)  # others stand in for such images: there is nothing to paint above them
        view_grid(self.folder / "views.png", view_q, view_k, pixels, None if unread else pixels(originals[ids]))

    def make_method(self) -> Method:
        """The method, with a new network."""
        return build_pretraining(self.recipe, len(self.data.train), (self.data.mean, self.data.std))

    def evaluate(self) -> dict[str, float]:
        """Top-1 of the nearest neighbours among the training images, by the features; nothing without labels."""
        data = self.data.with_labels() if self.recipe.knn else None
        if data is None or data.num_classes < 2:
            return {}
        from samix.networks.modes import evaluating
        from samix.probing.knn import knn_monitor

        self.share_buffers()
        common = common_options(self.recipe, self.device, on_bad_image=self.options.on_bad_image)
        augment = build_augment(self.recipe, data)
        bank = EvalBatches(data, split="train", batch_size=200, augment=augment, **common)
        held_out = EvalBatches(data, batch_size=200, augment=augment, **common)
        method: Any = self.method
        with evaluating(self.method), self.accelerator.autocast():
            return knn_monitor(
                method.features,
                bank.batches(),
                held_out.batches(),
                data.num_classes,
                k=self.recipe.knn,
                temperature=self.recipe.knn_temperature,
            )

    def describe(self) -> str:
        """What this run is, for the terminal."""
        recipe = self.recipe
        mixed = "" if recipe.mixup == "vanilla" else f" + {recipe.mixup}"
        return (
            f"{recipe.method}{mixed} on {recipe.data}, without labels: {recipe.model} at {recipe.size} px, "
            f"{recipe.epochs} epochs of {self.steps_per_epoch} steps, on {self.device} -> {self.folder}"
        )

    def conclude(self, summary: dict[str, Any]) -> str:
        """What came of it."""
        knn = f"kNN {summary['knn']:.2f} %   " if "knn" in summary else ""
        return (
            f"{knn}loss {summary['loss']:.4f} nats   {summary['seconds']:.0f} s, "
            f"{summary['images_per_second']:.0f} images/s"
        )

    def write_export(self, final: dict[str, float]) -> None:
        """Writes the backbone, and the Mixer where one was trained."""
        export_network(self.folder / "export", self.method.export(), self.recipe, self.data, final.get("knn"))


# ---------------------------------------------------------------------------------------------------------------------
# The named recipes. Published settings: MoCo's CIFAR demo, MoCo v2 (arXiv:2003.04297), MoCo v3 (arXiv:2104.02057), and
# what SAMix (arXiv:2111.15454) says of STL-10, Tiny-ImageNet and ImageNet.

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
    presets = PRESETS.get(called["method"])  # an unknown name is refused later, with words
    return options if presets is not None and issubclass(_first(presets), MoCoOptions) else {}


def slim_mixer(called: Called) -> dict[str, Any]:
    """A Mixer's options where a run has some hundred steps: the mask loss is stronger, as in the labelled recipes."""
    return {"mask_weight": 1.0, "mask_schedule": "constant"} if called["mixup"] in LEARNED else {}


# What a run of some hundred steps needs to learn anything (LOG.md): keys that differ from the first step on, by norms
# in the projector and a queue without random vectors, and a momentum encoder that keeps up.
SHORT_QUEUE: dict[str, Any] = {
    "preset": "cifar",
    "dim": 64,
    "projector": "mlp-bn",
    "random_start": False,
    "temperature": 0.2,
    "momentum": 0.95,
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
    "stl10-moco": stl10_moco,
    "tiny-moco": tiny_moco,
    "in1k-moco": in1k_moco,
    "in1k-mocov3-vits": in1k_mocov3_vits,
}

PRETRAIN_COMMAND = Command(
    prog="samix pretrain",
    description="Learns features without labels, with any mixup. The recipe gives the values that are not given here. "
    "Without an option: MoCo with SAMix-I on scanned digits.",
    recipes=PRETRAIN_RECIPES,
    kind=PretrainRecipe,
    parts={"method": METHOD_PART, "mixup": MIXUP_PART},
    fallback={
        "method": lambda called: "mocov3" if "mocov3" in called["recipe"] else "moco",
        "mixup": lambda called: "samix" if called["method"] == "moco" else "vanilla",
    },
)
