"""What is analysed: a run's network, its mixup, and held-out images; read from a checkpoint or an export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samix.analysis.passes import Predict, predictor
from samix.analysis.prediction import mixed_in_parts, partners_within
from samix.batch import MixedBatch
from samix.data import EvalBatches, FileImages, ImageData, load_data
from samix.data.names import balanced_rows
from samix.data.spec import Channels
from samix.data.transforms import test_transform
from samix.hub.checkpoints import load_method
from samix.hub.load import load_export
from samix.methods.base import Method
from samix.mixups import MIXUPS
from samix.mixups.handmade import NoMixup
from samix.recipes import Recipe
from samix.recipes.build import METHODS, MIXER, NAMES, build_augment, is_mixup_name
from samix.recipes.pretrain_recipe import without_labels
from samix.runtime.environment import check_device
from samix.train.checkpoint import load_checkpoint
from samix.viz.mixes import named_mixup


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network and what it is tried on.

    Args:
        source: where it was read.
        network: the exported network, in eval mode, on the device: logits, or features of a run without labels.
        method: of a checkpoint; None for an export.
        recipe: it was trained by.
        data: held-out images are of it.
        rows: of these images in ``data.val``.
        images: (N, 3, H, W), normalised as in training, on the device.
        labels: (N,) class ids, as the network counts them.
        mean: by channel.
        std: by channel.
        batch_size: images in a pass.
        class_names: of the labels.
    """

    source: Path
    network: nn.Module
    method: Method | None
    recipe: Recipe
    data: ImageData
    rows: Tensor
    images: Tensor
    labels: Tensor
    mean: Channels
    std: Channels
    batch_size: int
    class_names: tuple[str, ...]

    @property
    def predict(self) -> Predict:
        """The network on any number of images."""
        return predictor(self.network, self.batch_size)

    @property
    def title(self) -> str:
        """What this is, for a picture."""
        return f"{self.recipe.model}, {self.recipe.mixup}, on {self.data.name}"

    def classified(self) -> Subject:
        """This one, if it classifies.

        Raises:
            ValueError: a run without labels.
        """
        if without_labels(self.recipe):
            raise ValueError(
                f"{self.source} was trained without labels and has no classifier; `samix analyse tsne` and `cost` "
                "take it, for the others train a classifier"
            )
        return self

    def partners(self, seed: int) -> Tensor:
        """(N,) a partner for each image, among those of the same pass."""
        generator = torch.Generator().manual_seed(seed)
        return partners_within(len(self.images), self.batch_size, generator).to(self.images.device)

    def mixing(self, mixup: str, index: Tensor, seed: int) -> tuple[Callable[[float], MixedBatch], str]:
        """Lam to all images mixed with their partners, and the mixup's name.

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
        if own:
            return self._joined(self._previewing(seed), index), name
        if name in METHODS or not is_mixup_name(name):
            known = ", ".join(n for n in NAMES if n not in METHODS)
            raise ValueError(
                f"{name!r} cannot be used here: give the run's checkpoint instead of its export, or one of {known}, "
                f"{MIXER}PATH as --mixup"
            )
        policy = named_mixup(name, (self.mean, self.std))

        def mix(images: Tensor, labels: Tensor, lam: float, partner: Tensor) -> MixedBatch:
            policy.generator.manual_seed(seed)
            looks_at = self.network if policy.requirements.model else None
            return policy(images, labels, lam=lam, index=partner, model=looks_at)

        return self._joined(mix, index), name

    def _previewing(self, seed: int) -> Callable[[Tensor, Tensor, float, Tensor], MixedBatch]:
        """The run's own mix, whose further draws are the same each time."""

        def preview(images: Tensor, labels: Tensor, lam: float, index: Tensor) -> MixedBatch:
            assert self.method is not None
            for generator in self.method.generators():
                generator.manual_seed(seed)
            batch = self.method.preview(images, labels, lam, index)
            if batch is None:
                raise ValueError(f"{self.recipe.mixup} mixes no images; name another with --mixup")
            return batch

        return preview

    def _joined(
        self, mix: Callable[[Tensor, Tensor, float, Tensor], MixedBatch], index: Tensor
    ) -> Callable[[float], MixedBatch]:
        return mixed_in_parts(mix, self.images, self.labels, index, self.batch_size)

    def files(self) -> list[Path]:
        """The files of the images.

        Raises:
            ValueError: the images lie in no files.
        """
        if not isinstance(self.data.val, FileImages):
            raise ValueError(f"the images of {self.data.name} are not files of their own, so they have no boxes")
        return [self.data.val.path(int(row)) for row in self.rows]

    @property
    def fit(self) -> tuple[int, int]:
        """Side of the images, and length of their short side before the centre was cut."""
        fit = test_transform(build_augment(self.recipe, self.data), self.recipe.size)
        return fit.size, fit.short


def _leaves_images(name: str) -> bool:
    """Whether a run's own mixup, by its name, leaves the images as they are."""
    if name not in MIXUPS:
        return False
    mixup = MIXUPS[name](generator=torch.Generator())
    return isinstance(mixup, NoMixup) or mixup.requirements.inside_network


def find_weights(source: Path) -> Path:
    """A checkpoint or an export: of a run's folder its ``last.pt``, or else its ``best.pt``.

    Raises:
        FileNotFoundError: nothing there.
    """
    if source.is_dir() and not (source / "config.json").is_file():
        for name in ("last.pt", "best.pt"):
            if (source / name).is_file():
                return source / name
        raise FileNotFoundError(f"{source} is neither a run's folder (last.pt) nor an export (config.json)")
    if not source.exists():
        raise FileNotFoundError(f"nothing at {source}; give a run's folder, a checkpoint (.pt) or an export's folder")
    return source


def read_source(source: Path) -> tuple[nn.Module, Method | None, Recipe, dict[str, Any]]:
    """Network, method, recipe and data's description of a checkpoint or an export.

    Raises:
        FileNotFoundError, ValueError: nothing there, or damaged.
    """
    place = find_weights(source)
    if place.is_dir():
        network, recipe, described = load_export(place)
        return network, None, recipe, described
    method, recipe, described = load_method(place)
    return method.export(), method, recipe, described


def load_subject(
    source: Path, data: str, data_root: str, count: int, batch_size: int, seed: int, device: str
) -> Subject:
    """Reads a run and held-out images.

    Args:
        source: a run's folder, a checkpoint or an export.
        data: data set; empty takes the one it was trained on.
        data_root: where torchvision's data sets lie.
        count: images, of all classes alike; 0 takes all.
        batch_size: images in a pass.
        seed: of the choice of images.
        device: auto, cpu or cuda.

    Raises:
        FileNotFoundError, ValueError: nothing there, or data without the network's classes.
    """
    check_device(device)
    if count < 0 or batch_size < 2:
        raise ValueError(f"--images must be at least 0 and --batch-size at least 2, got {count} and {batch_size}")
    place = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    network, method, recipe, described = read_source(source)
    found = load_data(data or recipe.data, root=data_root)
    found = found.with_labels() or found
    names = list(found.class_names) if without_labels(recipe) else list(described["classes"])
    labels, rows = known_rows(found, names)
    if count and count < len(rows):
        rows = rows[balanced_rows(labels, len(names), max(count, len(names)), seed)]
    mean, std = tuple(described["mean"]), tuple(described["std"])
    part = dataclasses.replace(found, val=found.val.subset(rows), mean=mean, std=std)
    batches = EvalBatches(part, batch_size=batch_size, size=recipe.size, augment=build_augment(recipe, found))
    images = torch.cat([images for images, _ in batches.batches()]).to(place)
    ids = torch.tensor([names.index(found.class_names[int(label)]) for label in found.val.labels[rows]])
    return Subject(
        source,
        network.to(place).eval(),
        None if method is None else method.to(place).eval(),
        recipe,
        found,
        rows,
        images,
        ids.to(place),
        mean,
        std,
        batch_size,
        tuple(names),
    )


def known_rows(data: ImageData, names: list[str]) -> tuple[Tensor, Tensor]:
    """Labels as a network with these classes counts them, and rows, of the held-out images that are of them.

    Raises:
        ValueError: a class of the network is not in the data.
    """
    missing = [name for name in names if name not in data.class_names]
    if missing:
        raise ValueError(
            f"{data.name} has no images of {len(missing)} of the network's {len(names)} classes, such as "
            f"{missing[0]!r}; give data with the same classes"
        )
    place = torch.full((len(data.class_names),), -1)
    place[[data.class_names.index(name) for name in names]] = torch.arange(len(names))
    labels = place[data.val.labels]
    rows = (labels >= 0).nonzero().flatten()
    return labels[rows], rows


def checkpoints(source: Path) -> list[Path]:
    """The checkpoints of a run's folder in order of training, or the one that is given."""
    if not source.is_dir():
        return [find_weights(source)]
    found = sorted(source.glob("*.pt"))
    if not found:
        raise FileNotFoundError(f"no checkpoint in {source}; a run writes last.pt and best.pt into its folder")
    return sorted(found, key=lambda path: (epoch_of(path), path.name))


def epoch_of(path: Path) -> int:
    """The epoch after which a checkpoint was written."""
    rows = load_checkpoint(path)["rows"]
    return int(rows[-1]["epoch"]) if rows else 0
