"""From a short text such as `cifar100` or `folder:DIR` to a data set: `load_data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from samix.data import layouts
from samix.data.builtin import TORCHVISION_FOLDERS, read_digits, read_torchvision
from samix.data.images import ArrayImages, FileImages, ImageSet, UnreadableImage
from samix.data.order import stream_seed
from samix.data.shards import ShardImages, read_shards
from samix.data.unlabelled import read_any_folder, read_images

Channels = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# One pair for both CIFARs, as OpenMixup's configurations have it, which the published tables come from.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)

OFFICIAL: dict[str, Callable[[Path], layouts.Splits]] = {
    "tiny-imagenet": layouts.read_tiny_imagenet,
    "folder": read_any_folder,
    "images": read_images,
    "imagenet": layouts.read_imagenet,
    "cub": layouts.read_cub,
    "inat2017": layouts.read_inat2017,
    "inat2018": layouts.read_inat2018,
    "places205": layouts.read_places205,
}
NATIVE_SIZE = {"digits": 8, "cifar10": 32, "cifar100": 32, "tiny-imagenet": 64, "stl10": 96, "stl10-unlabeled": 96}


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set with its two splits.

    Where `train` has no labels (all -1), it serves for training without labels alone; `val` may then be empty.

    Args:
        name: what `load_data` calls it, without the folder.
        train: images to learn from.
        val: images to test on.
        class_names: one per label; none where no split has labels.
        mean: of the three channels, with pixels in [0, 1].
        std: of the three channels, with pixels in [0, 1].
        native_size: side in pixels where all images are squares of one size, else None.
        labelled: further images to learn from, with labels, where `train` has none.

    Raises:
        ValueError: a split is empty, a label is out of range, some images have labels and others none, or a class has
            no training image.
    """

    name: str
    train: ImageSet
    val: ImageSet
    class_names: tuple[str, ...]
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    native_size: int | None = None
    labelled: ImageSet | None = None

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise ValueError(f"{self.name}: the train split has no images")
        if not self.has_labels:
            self._check_unlabelled()
            return
        if self.labelled is not None:
            raise ValueError(f"{self.name}: labelled is for a train split without labels; leave it out")
        if len(self.val) == 0:
            raise ValueError(f"{self.name}: the val split has no images")
        for split, images in (("train", self.train), ("val", self.val)):
            self._check_range(split, images)
        counts = self.train.labels.bincount(minlength=len(self.class_names))
        if int(counts.min()) == 0:
            empty = int(counts.argmin())
            raise ValueError(
                f"{self.name}: class {empty} ({self.class_names[empty]!r}) has no training image; "
                "add some, or number the classes without gaps"
            )

    def _check_range(self, split: str, images: ImageSet) -> None:
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"{self.name}: the labels of {split} must be in 0..{len(self.class_names) - 1}, got {low}..{high}"
            )

    def _check_unlabelled(self) -> None:
        """Labels of the splits beside a train split without labels: of the classes that are named, or none at all."""
        if self.labelled is not None:
            self.with_labels()  # which checks both
        elif len(self.val) > 0 and int(self.val.labels.max()) >= 0:
            self._check_range("val", self.val)

    @property
    def has_labels(self) -> bool:
        """Whether the train split has labels."""
        return int(self.train.labels.max()) >= 0

    @property
    def num_classes(self) -> int:
        """Number of classes that can be learned from the train split; 0 where it has no labels."""
        return len(self.class_names) if self.has_labels else 0

    def require_labels(self) -> None:
        """Refuses a data set that is for training without labels alone.

        Raises:
            ValueError: the train split has no labels.
        """
        if not self.has_labels:
            raise ValueError(
                f"{self.name} has no labels to learn from; use `samix pretrain`, which needs none, "
                "or data with a folder or a label for each class"
            )

    def with_labels(self) -> ImageData | None:
        """The data set to test features on: this one, or its labelled images and val; None without labels to use."""
        if self.has_labels:
            return self
        return None if self.labelled is None else replace(self, train=self.labelled, labelled=None)


def load_data(
    spec: str, *, root: str | Path = "data", download: bool = False, limit: int | None = None, seed: int = 0
) -> ImageData:
    """Opens a data set by name; images are decoded later, when a batch needs them.

    | spec | layout |
    |---|---|
    | `digits` | inside scikit-learn: 1,797 scans of 8 x 8, a fixed fifth held out |
    | `cifar10`, `cifar100`, `stl10`, `aircraft`, `cars`, each `[:DIR]` | as torchvision keeps it in DIR (else `root`) |
    | `stl10-unlabeled[:DIR]` | the same files; the 100,000 images without labels to train on, the test split as val |
    | `tiny-imagenet:DIR` | wnids.txt, train/WNID/images/, val/images/, val/val_annotations.txt |
    | `imagenet:DIR` | train/WNID/, val/WNID/; or a flat val/ with val.txt or the devkit |
    | `cub:DIR` | images/ with images.txt, classes.txt, image_class_labels.txt, train_test_split.txt |
    | `inat2017:DIR`, `inat2018:DIR` | images with train20xx.json and val20xx.json |
    | `places205:DIR` | images256/ with train_places205.csv and val_places205.csv |
    | `folder:DIR`, `DIR` | train/CLASS/ and val/CLASS/ or test/CLASS/; or CLASS/ alone: a fifth of each is held out |
    | `list:TRAIN.txt,VAL.txt[,DIR[,VALDIR]]` | lines of name and label, parted by space, comma or semicolon |
    | `images:DIR` | images at any depth, without labels |
    | `wds:TRAIN.tar[,VAL.tar]`, `wds:DIR` | tar shards of webdataset's form, see `samix.data.shards.read_shards` |

    `folder` with images directly in train/ (val is then optional, with classes or without) and `list` with lines of
    names alone have no labels either. Data without labels serve for `samix pretrain`, see `ImageData.require_labels`.

    Args:
        spec: one of the above.
        root: folder of the torchvision sets where the spec names none.
        download: fetch a torchvision set that is missing; without it the network is never touched.
        limit: at most so many training images, the classes as equal as they can be; None keeps all.
        seed: of the choice made by `limit`, of nothing else.

    Raises:
        FileNotFoundError: a folder or file of the layout is missing.
        OSError: a download failed.
        ValueError: unknown name, wrong layout, empty class or split, labels out of range, or a limit too small.
    """
    name, place = name_and_place(spec)
    splits = _read(name, place, Path(root).expanduser(), download)
    if name == "digits":
        mean, std = _statistics(splits.train)
    else:
        mean, std = (CIFAR_MEAN, CIFAR_STD) if name.startswith("cifar") else (IMAGENET_MEAN, IMAGENET_STD)
    native_size = NATIVE_SIZE.get(name) or _common_size(splits.train)
    data = ImageData(name, *splits[:3], mean, std, native_size, splits.labelled)
    if limit is None:
        return data
    labels = data.train.labels.clamp(min=0)  # without labels, one class
    return replace(data, train=data.train.subset(balanced_rows(labels, max(1, data.num_classes), limit, seed)))


def name_and_place(spec: str) -> tuple[str, str]:
    """The two parts of `NAME:PLACE`; the path of a folder alone is `folder:PLACE`."""
    name, _, place = spec.partition(":")
    if not _is_known(name) and Path(spec).expanduser().is_dir():
        return "folder", spec
    return name, place


def _is_known(name: str) -> bool:
    return name in ("digits", "list", "wds", *TORCHVISION_FOLDERS, *OFFICIAL)


def _read(name: str, place: str, root: Path, download: bool) -> layouts.Splits:
    if not _is_known(name):
        known = ", ".join(["digits", *TORCHVISION_FOLDERS, *OFFICIAL, "list", "wds"])
        raise ValueError(f"unknown data set {name!r}; known: {known}, or the path of a folder that is there")
    if name == "digits":
        if place:
            raise ValueError(f"digits lies inside scikit-learn and takes no folder, got digits:{place}")
        return read_digits()
    if name in TORCHVISION_FOLDERS:
        return read_torchvision(name, Path(place).expanduser() if place else root, download)
    if download:
        raise ValueError(f"{name} cannot be downloaded by samix; fetch it yourself, then give {name}:DIR")
    if name in ("list", "wds"):
        return layouts.read_lists(place) if name == "list" else read_shards(place)
    if not place:
        raise ValueError(f"{name} needs the folder of its files: {name}:DIR")
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} of data set {name!r} is missing; check the path in {name}:DIR")
    return OFFICIAL[name](folder)


def balanced_rows(labels: Tensor, num_classes: int, limit: int, seed: int) -> Tensor:
    """Seeded choice of at most `limit` rows, class counts as equal as the classes' sizes allow; in rising order.

    Args:
        labels: (N,) int64 in 0..num_classes - 1.
        num_classes: number of classes.
        limit: number of rows wanted, at least one for each class.
        seed: of the choice.

    Returns:
        (min(limit, N),) int64.

    Raises:
        ValueError: limit < num_classes.
    """
    if limit < num_classes:
        raise ValueError(f"limit must be at least {num_classes}, one image for each class, got {limit}")
    generator = torch.Generator().manual_seed(stream_seed("limit", seed))
    rows = torch.randperm(len(labels), generator=generator)
    rows = rows[labels[rows].argsort(stable=True)]  # by class, in random order inside each
    counts = labels.bincount(minlength=num_classes)
    first = counts.cumsum(0) - counts  # where each class begins
    rank = torch.arange(len(rows)) - first[labels[rows]]  # place of a row inside its class
    turn = torch.randperm(num_classes, generator=generator)[labels[rows]]  # which classes get one more
    return rows[(rank * num_classes + turn).argsort()[:limit]].sort().values


def _statistics(images: ImageSet) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel, pixels in [0, 1]."""
    assert isinstance(images, ArrayImages)
    pixels = images.images.double().div(255).transpose(0, 1).flatten(1)  # (3, N * H * W)
    red, green, blue = pixels.mean(1).tolist()
    red_std, green_std, blue_std = pixels.std(1).tolist()
    return (red, green, blue), (red_std, green_std, blue_std)


def _common_size(images: ImageSet) -> int | None:
    """Side in pixels if 16 images spread over the set are squares of one size; only headers are read."""
    if not isinstance(images, FileImages | ShardImages) or len(images) == 0:
        return None
    sizes = set()
    for index in torch.linspace(0, len(images) - 1, min(16, len(images))).long().tolist():
        try:
            source = images.path(index) if isinstance(images, FileImages) else images.source(index)
            with Image.open(source) as image:
                sizes.add(image.size)
        except (OSError, UnreadableImage, Image.DecompressionBombError):
            return None  # reading that image will say what is wrong with it
    width, height = next(iter(sizes))
    return int(width) if len(sizes) == 1 and width == height else None
