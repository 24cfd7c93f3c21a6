"""`DatasetSpec`: everything samix knows of a data set by its name; and `DATASETS`, the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from samix.data.images import ImageSet
from samix.runtime.registry import Registry

Channels = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Splits(NamedTuple):
    """The result of a reader.

    Args:
        train: images to learn from.
        val: images to test on.
        class_names: `class_names[k]` belongs to label k.
        labelled: images with labels, where train has none.
        left_out: number of files that were not taken, by reason.
        notes: further facts for the user, as short phrases.
    """

    train: ImageSet
    val: ImageSet
    class_names: tuple[str, ...]
    labelled: ImageSet | None = None
    left_out: Mapping[str, int] = {}
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataLocation:
    """Where a reader finds its data set: the parts of `NAME:PLACE`, and the options of `load_data`.

    Args:
        name: of the data set.
        place: what the user wrote after the colon; may be empty.
        root: folder of the torchvision sets where place is empty.
        download: whether the network may be used.
    """

    name: str
    place: str = ""
    root: Path = field(default_factory=lambda: Path("data"))
    download: bool = False

    def folder(self) -> Path:
        """Returns the place as a folder that exists."""
        if not self.place:
            raise ValueError(f"{self.name} needs the folder of its files: {self.name}:DIR")
        folder = Path(self.place).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no such folder: {folder}, of data set {self.name!r}; check the path in {self.name}:DIR"
            )
        return folder


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: how it is read, and the choices that its published tables made.

    Register one to use it by name in every command and in `load_data`.

    Args:
        name: what users write before the colon.
        reader: location to splits.
        mean: of the three channels, with pixels in [0, 1]; None measures mean and std on the training images, which
            must be in memory.
        std: of the three channels, with pixels in [0, 1].
        size: side in pixels where all images are squares of one size; None looks at 16 of them.
        augment: kind of the usual training augmentation, see `Augment`; None takes shifts for images of up to 40 pixels
            and resized crops for others.
        recipe: name of the recipe that `samix train` takes where none is named.
        pretrain_recipe: the same of `samix pretrain`.
        last_evaluations: evaluations at the end of a run over which tables take the median.
        downloads: whether the reader can fetch the data.

    Example:
        >>> from samix.data import DATASETS, DatasetSpec, read_folder
        >>> birds = DatasetSpec("birds", lambda location: read_folder(location.folder()), augment="fine-grained")
        >>> DATASETS.register("birds", birds)  # load_data("birds:DIR"), samix train --data birds:DIR
    """

    name: str
    reader: Callable[[DataLocation], Splits]
    mean: Channels | None = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    size: int | None = None
    augment: str | None = None
    recipe: str = "images"
    pretrain_recipe: str = "images-moco"
    last_evaluations: int = 10
    downloads: bool = False


DATASETS: Registry[DatasetSpec] = Registry("datasets")
