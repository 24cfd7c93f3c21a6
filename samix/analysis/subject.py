"""The subject of an analysis: a run's network, its mixup, and held-out images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from samix.analysis.passes import Predict, mixed_in_parts, partners_within, predictor
from samix.batch import MixedBatch
from samix.data import EvalBatches, FileImages, ImageData, load_data
from samix.data.names import balanced_rows
from samix.data.spec import Channels
from samix.data.transforms import test_transform
from samix.hub.load import find_weights, load_trained
from samix.methods.base import Method
from samix.mixups import MIXUPS
from samix.mixups.handmade import NoMixup
from samix.recipes import Recipe
from samix.recipes.build import METHODS, MIXER, NAMES, build_augment, is_mixup_name
from samix.recipes.pretrain_recipe import without_labels
from samix.runtime.environment import pick_device
from samix.train.checkpoint import load_checkpoint
from samix.viz.mixes import named_mixup

if TYPE_CHECKING:
    from samix.analysis.base import Analysis


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network and the images it is tried on."""

    source: Path  # where it was read
    network: nn.Module  # the exported network, in eval mode, on the device: logits, or features of a run without labels
    method: Method | None  # of a checkpoint; None for an export
    recipe: Recipe  # of its training
    data: ImageData  # the data set of the images
    rows: Tensor  # of the images in ``data.val``
    images: Tensor  # (N, 3, H, W), normalised as in training, on the device
    labels: Tensor  # (N,) class ids, as the network counts them
    mean: Channels  # by channel
    std: Channels  # by channel
    batch_size: int  # images in a pass
    class_names: tuple[str, ...]  # of the labels

    @property
    def predict(self) -> Predict:
        """The network on any number of images."""
        return predictor(self.network, self.batch_size)

    @property
    def title(self) -> str:
        """Network, mixup and data, for a picture."""
        return f"{self.recipe.model}, {self.recipe.mixup}, on {self.data.name}"

    def classified(self) -> Subject:
        """Returns this subject.

        Raises:
            ValueError: a run without labels, which has no classifier.
        """
        if without_labels(self.recipe):
            raise ValueError(
                f"{self.source} was trained without labels and has no classifier; `samix analyse tsne` and `cost` "
                "take it, for the others train a classifier"
            )
        return self

    def partners(self, seed: int) -> Tensor:
        """Draws (N,) a partner for each image, among those of the same pass."""
        generator = torch.Generator().manual_seed(seed)
        return partners_within(len(self.images), self.batch_size, generator).to(self.images.device)

    def mixing(self, mixup: str, index: Tensor, seed: int) -> tuple[Callable[[float], MixedBatch], str]:
        """Makes the function from lam to all images mixed with their partners; also returns the mixup's name.

        Args:
            mixup: a name; empty takes the run's own, or mixup where that leaves images as they are.
            index: (N,) partners, see :meth:`partners`.
            seed: of the further draws, which are the same at each lam.

        Raises:
            ValueError: a mixup that has to be trained, of an export, or that makes no mixed images.
        """
        name = mixup or self.recipe.mixup
        own = not mixup and self.method is not None
        if not mixup and _leaves_images(name):
            name, own = "mixup", False
        if not own and (name in METHODS or not is_mixup_name(name)):
            known = ", ".join(n for n in NAMES if n not in METHODS)
            raise ValueError(
                f"{name!r} cannot be used here: give the run's checkpoint instead of its export, or one of {known}, "
                f"{MIXER}PATH as --mixup"
            )
        mix = self._own_mix(seed) if own else self._mix_by(name, seed)
        return mixed_in_parts(mix, self.images, self.labels, index, self.batch_size), name

    def _mix_by(self, name: str, seed: int) -> Callable[[Tensor, Tensor, float, Tensor], MixedBatch]:
        policy = named_mixup(name, (self.mean, self.std))

        def mix(images: Tensor, labels: Tensor, lam: float, partner: Tensor) -> MixedBatch:
            policy.generator.manual_seed(seed)
            model = self.network if policy.requirements.model else None
            return policy(images, labels, lam=lam, index=partner, model=model)

        return mix

    def _own_mix(self, seed: int) -> Callable[[Tensor, Tensor, float, Tensor], MixedBatch]:
        def preview(images: Tensor, labels: Tensor, lam: float, index: Tensor) -> MixedBatch:
            assert self.method is not None
            for generator in self.method.generators():
                generator.manual_seed(seed)
            batch = self.method.preview(images, labels, lam, index)
            if batch is None:
                raise ValueError(f"{self.recipe.mixup} mixes no images; name another with --mixup")
            return batch

        return preview

    def files(self) -> list[Path]:
        """Returns the files of the images."""
        if not isinstance(self.data.val, FileImages):
            raise ValueError(f"the images of {self.data.name} are not files of their own, so they have no boxes")
        return [self.data.val.path(int(row)) for row in self.rows]

    @property
    def fit(self) -> tuple[int, int]:
        """Side of the images, and length of their short side before the centre was cut."""
        fit = test_transform(build_augment(self.recipe, self.data), self.recipe.size)
        return fit.size, fit.short


def _leaves_images(name: str) -> bool:
    if name not in MIXUPS:
        return False
    mixup = MIXUPS[name](generator=torch.Generator())
    return isinstance(mixup, NoMixup) or mixup.requirements.inside_network


def load_subject(options: Analysis) -> Subject:
    """Loads the run and the held-out images that the options of an analysis name.

    Raises:
        FileNotFoundError, ValueError: nothing there, or data without the network's classes.
    """
    source, count, device = options.source, options.images, pick_device(options.device)
    trained = load_trained(find_weights(source))
    recipe, method = trained.recipe, trained.method
    if recipe is None:
        raise ValueError(f"{source} was not exported by samix: it names no recipe")
    whole = load_data(options.data or recipe.data, root=options.data_root)
    whole = whole.with_labels() or whole
    names = whole.class_names if without_labels(recipe) else trained.config.class_names
    labels, rows = known_rows(whole, names)
    if count and count < len(rows):
        chosen = balanced_rows(labels, len(names), max(count, len(names)), options.seed)
        labels, rows = labels[chosen], rows[chosen]
    mean, std = trained.config.normalization()
    part = dataclasses.replace(whole, val=whole.val.subset(rows), mean=mean, std=std)
    batches = EvalBatches(part, batch_size=options.batch_size, size=recipe.size, augment=build_augment(recipe, whole))
    return Subject(
        source=source,
        network=trained.network.to(device).eval(),
        method=None if method is None else method.to(device).eval(),
        recipe=recipe,
        data=whole,
        rows=rows,
        images=torch.cat([images for images, _ in batches.batches()]).to(device),
        labels=labels.to(device),
        mean=mean,
        std=std,
        batch_size=options.batch_size,
        class_names=tuple(names),
    )


def known_rows(data: ImageData, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Returns labels, as a network with these classes counts them, and rows of the held-out images of these classes.

    Raises:
        ValueError: a class of the network is not in the data.
    """
    missing = [name for name in names if name not in data.class_names]
    if missing:
        raise ValueError(
            f"{data.name} has no images of {len(missing)} of the network's {len(names)} classes, such as "
            f"{missing[0]!r}; give data with the same classes"
        )
    numbers = torch.full((len(data.class_names),), -1)
    numbers[[data.class_names.index(name) for name in names]] = torch.arange(len(names))
    labels = numbers[data.val.labels]
    rows = (labels >= 0).nonzero().flatten()
    return labels[rows], rows


def checkpoints(source: Path) -> list[Path]:
    """Returns the checkpoints of a run's folder in order of training, or the one that is given."""
    if not source.is_dir():
        return [find_weights(source)]
    paths = sorted(source.glob("*.pt"))
    if not paths:
        raise FileNotFoundError(f"no checkpoint in {source}; a run writes last.pt and best.pt into its folder")
    return sorted(paths, key=lambda path: (epoch_of(path), path.name))


def epoch_of(path: Path) -> int:
    """Returns the epoch after which a checkpoint was written."""
    rows = load_checkpoint(path)["rows"]
    return int(rows[-1]["epoch"]) if rows else 0
