"""`load_data`: from a short text such as `cifar100` or `folder:DIR` to a data set; and the built-in data sets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from samix.data import folders, published
from samix.data.builtin import read_digits, read_torchvision
from samix.data.copies import copied_images
from samix.data.dataset import ImageData
from samix.data.decode import UNREADABLE
from samix.data.images import ArrayImages, FileImages, ImageSet
from samix.data.lists import read_lists
from samix.data.order import stream_seed
from samix.data.shards import ShardImages, read_shards
from samix.data.spec import DATASETS, Channels, DataLocation, DatasetSpec, Splits
from samix.runtime.checks import Values, suggest, suggest_folder

# One pair for both CIFARs, as OpenMixup's configurations have it, which the published tables come from.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)
_OWN = re.compile(r"((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*:[A-Za-z_]\w*)(?::(.*))?")  # package.module:Name[:PLACE]


def _of_folder(name: str, read: Callable[[Path], Splits], **choices: str | int) -> DatasetSpec:
    values: Values = choices
    return DatasetSpec(name, lambda location: read(location.folder()), **values)


_torchvision = partial(DatasetSpec, reader=read_torchvision, downloads=True)
_cifar = partial(_torchvision, mean=CIFAR_MEAN, std=CIFAR_STD, size=32, pretrain_recipe="cifar10-moco")
_FINE: Values = {"augment": "fine-grained"}
_LARGE: Values = {"last_evaluations": 5}

for _spec in (
    DatasetSpec(
        "digits", read_digits, None, size=8, augment="digits", recipe="digits-quick", pretrain_recipe="digits-moco"
    ),
    _cifar("cifar10", augment="crop-flip", recipe="cifar10-r18"),
    _cifar("cifar100", augment="crop-flip-reflect", recipe="cifar100-r18"),
    _torchvision("stl10", size=96, pretrain_recipe="stl10-moco"),
    _torchvision("stl10-unlabeled", size=96, pretrain_recipe="stl10-moco"),
    _torchvision("aircraft", recipe="aircraft-r18", **_FINE),
    _torchvision("cars", **_FINE),
    _of_folder(
        "tiny-imagenet",
        published.read_tiny_imagenet,
        size=64,
        augment="resized-crop-full",
        recipe="tiny-r18",
        pretrain_recipe="tiny-moco",
    ),
    _of_folder("folder", folders.read_folder),
    _of_folder("images", folders.read_images),
    _of_folder("imagenet", published.read_imagenet, recipe="in1k-r50", pretrain_recipe="in1k-moco", **_LARGE),
    _of_folder("cub", published.read_cub, recipe="cub-r18", **_FINE),
    _of_folder("inat2017", partial(published.read_inat, year="2017"), **_LARGE),
    _of_folder("inat2018", partial(published.read_inat, year="2018"), **_LARGE),
    _of_folder("places205", published.read_places205, **_LARGE),
    DatasetSpec("list", read_lists),
    DatasetSpec("wds", read_shards),
):
    DATASETS.register(_spec.name, _spec)


def load_data(
    spec: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    limit: int | None = None,
    seed: int = 0,
    trusted: bool = False,
) -> ImageData:
    """Opens a data set by name; images are decoded later, when a batch needs them.

    | spec | layout |
    |---|---|
    | `digits` | inside scikit-learn: 1,797 scans of 8 x 8, a fixed fifth held out |
    | `cifar10`, `cifar100`, `stl10`, `aircraft`, `cars`, each `[:DIR]` | as torchvision keeps it in DIR (else `root`) |
    | `stl10-unlabeled[:DIR]` | the same files; the 100,000 images without labels, the test split as val |
    | `tiny-imagenet:DIR` | wnids.txt, train/WNID/images/, val/images/, val/val_annotations.txt |
    | `imagenet:DIR` | train/WNID/, val/WNID/; or a flat val/ with val.txt or the devkit |
    | `cub:DIR` | images/ with images.txt, classes.txt, image_class_labels.txt, train_test_split.txt |
    | `inat2017:DIR`, `inat2018:DIR` | images with train20xx.json and val20xx.json |
    | `places205:DIR` | images256/ with train_places205.csv and val_places205.csv |
    | `folder:DIR`, `DIR` | train/CLASS/ and val/CLASS/, or CLASS/ alone, see `samix.data.folders` |
    | `list:TRAIN[,VAL][,DIR[,VALDIR]]` | CSV, or lines of name and label, see `samix.data.lists` |
    | `images:DIR` | images at any depth, without labels |
    | `wds:TRAIN.tar[,VAL.tar]`, `wds:DIR` | tar shards of webdataset's form, see `samix.data.shards.read_shards` |
    | `package.module:Name[:PLACE]` | a `DatasetSpec` of your own, or one registered in `DATASETS` by its name |

    `folder` with images directly in train/ (val is then optional, with classes or without) and `list` with lines of
    names alone have no labels either. Data without labels serve for `samix pretrain`, see `ImageData.require_labels`.

    Args:
        spec: one of the above.
        root: folder of the torchvision sets where the spec names none.
        download: fetch a torchvision set that is missing; without it the network is never touched.
        limit: at most so many training images, the classes as equal as they can be; None keeps all.
        seed: of the choice made by `limit`, of nothing else.
        trusted: whether the user typed `spec`; `package.module:Name` from a file is not imported.

    Raises:
        FileNotFoundError: a folder or file of the layout is missing.
        OSError: a download failed.
        ValueError: unknown name, wrong layout, empty class or split, labels out of range, or a limit too small.
    """
    dataset, place = find_dataset(spec, trusted=trusted)
    if download and not dataset.downloads and dataset.name != "digits":
        raise ValueError(
            f"{dataset.name} cannot be downloaded by samix; fetch it yourself, then give {dataset.name}:DIR"
        )
    splits = dataset.reader(DataLocation(dataset.name, place, Path(root).expanduser(), download))
    mean, std = (dataset.mean, dataset.std) if dataset.mean is not None else _statistics(splits.train)
    size = dataset.size or _common_size(splits.train)
    data = ImageData(dataset.name, *splits[:3], mean, std, size, *splits[3:])
    if dataset.name in ("folder", "list"):  # of the user's own
        data = replace(data, notes=(*data.notes, *_suspicions(data)))
    if limit is None:
        return data
    labels = data.train.labels.clamp(min=0)  # without labels, one class
    return replace(data, train=data.train.subset(balanced_rows(labels, max(1, data.num_classes), limit, seed)))


def _suspicions(data: ImageData) -> tuple[str, ...]:
    """Notes faults of a user's own images: copies in both splits, and class names that differ by a typing error."""
    notes = []
    copied = copied_images(data.train, data.val)
    if copied:
        notes.append(f"{copied} of the {len(data.val)} held-out images are also among those to train on")
    seen: dict[str, str] = {}
    for name in data.class_names:
        alike = seen.setdefault(" ".join(name.casefold().split()), name)
        if alike != name:
            notes.append(f"the classes {alike!r} and {name!r} differ in capitals or spaces only")
    return tuple(notes)


def find_dataset(spec: str, *, trusted: bool = False) -> tuple[DatasetSpec, str]:
    """Finds the data set of `NAME:PLACE`, and returns the place too; the path of a folder alone is `folder:PLACE`.

    A `DatasetSpec` that is imported as `package.module:Name` is registered by its own name, too.
    """
    name, _, place = spec.partition(":")
    if name in DATASETS.names():
        return DATASETS.resolve(name, trusted=trusted), place
    path = Path(spec).expanduser()
    if path.is_dir():
        return DATASETS["folder"], spec
    if path.is_file():
        raise ValueError(f"{spec} is a file; for a list of images give list:{spec}, for a tar shard wds:{spec}")
    if own := _OWN.fullmatch(spec):
        dataset = DATASETS.resolve(own[1], trusted=trusted)
        if not isinstance(dataset, DatasetSpec):
            raise ValueError(f"{own[1]} must be a samix.data.DatasetSpec, got {type(dataset).__name__}")
        DATASETS.register(dataset.name, dataset)
        return dataset, own[2] or ""
    if "/" in spec or "\\" in spec:
        raise FileNotFoundError(f"no such folder: {spec}{suggest_folder(path) or '; check the path'}")
    raise ValueError(
        f"no such folder, and no data set: {name!r}; data sets are {', '.join(DATASETS.names())}, the path of a "
        f"folder, or your own as package.module:Name{suggest_folder(path) or suggest(name, DATASETS.names())}"
    )


def balanced_rows(labels: Tensor, num_classes: int, limit: int, seed: int) -> Tensor:
    """Chooses at most `limit` rows, class counts as equal as the classes' sizes allow; in rising order.

    Args:
        labels: (N,) int64 in 0..num_classes - 1.
        num_classes: number of classes.
        limit: number of rows wanted, at least one for each class.
        seed: of the choice.

    Returns:
        (min(limit, N),) int64.
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
    """Measures mean and standard deviation of each channel, pixels in [0, 1]."""
    assert isinstance(images, ArrayImages)
    pixels = images.images.double().div(255).transpose(0, 1).flatten(1)  # (3, N * H * W)
    red, green, blue = pixels.mean(1).tolist()
    red_std, green_std, blue_std = pixels.std(1).tolist()
    return (red, green, blue), (red_std, green_std, blue_std)


def _common_size(images: ImageSet) -> int | None:
    """Returns the side in pixels if 16 images spread over the set are squares of one size; reads headers only."""
    if not isinstance(images, FileImages | ShardImages) or len(images) == 0:
        return None
    sizes = set()
    for index in torch.linspace(0, len(images) - 1, min(16, len(images))).long().tolist():
        try:
            sizes.add(images.header(index)[:2])
        except UNREADABLE:
            return None  # reading that image will say what is wrong with it
    width, height = next(iter(sizes))
    return width if len(sizes) == 1 and width == height else None
