"""Data sets that a dependency reads: torchvision's classes, which can download, and scikit-learn's digits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from samix.data.images import ArrayImages, FileImages, file_names, no_labels
from samix.data.spec import DataLocation, Splits

# Name of the data set -> the folder that torchvision looks for.
TORCHVISION_FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "stl10": "stl10_binary",
    "stl10-unlabeled": "stl10_binary",
    "aircraft": "fgvc-aircraft-2013b",
    "cars": "stanford_cars",
}


def read_torchvision(location: DataLocation) -> Splits:
    """Reads one of `TORCHVISION_FOLDERS`; touches the network only if `location.download`."""
    name, download = location.name, location.download
    root = Path(location.place).expanduser() if location.place else location.root
    readers: dict[str, Callable[[Path, bool], Splits]] = {
        "cifar10": lambda root, download: _cifar(datasets.CIFAR10, root, download),
        "cifar100": lambda root, download: _cifar(datasets.CIFAR100, root, download),
        "stl10": _stl10,
        "stl10-unlabeled": _stl10_unlabelled,
        "aircraft": _aircraft,
        "cars": _cars,
    }
    files = root / TORCHVISION_FOLDERS[name]
    if download and name == "cars":
        raise ValueError(f"cars cannot be downloaded, its official address is gone; put the files into {files}")
    try:
        return readers[name](root, download)
    except (RuntimeError, OSError) as error:
        if download:
            raise OSError(f"{name}: download into {root} failed ({error}); fetch it by hand to {files}") from error
        remedy = "" if name == "cars" else "add --download to fetch it, or "
        raise FileNotFoundError(
            f"{name}: no complete {files}; {remedy}give the folder that holds {files.name}: {name}:DIR"
        ) from error


def _cifar(cls: Callable[..., datasets.CIFAR10], root: Path, download: bool) -> Splits:
    with warnings.catch_warnings():
        # The official pickles were written by an old NumPy; reading them is deprecated, not wrong.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        train, val = cls(root, train=True, download=download), cls(root, train=False)
    return Splits(_arrays(train.data, train.targets), _arrays(val.data, val.targets), tuple(train.classes))


def _arrays(images: np.ndarray, labels: Sequence[int]) -> ArrayImages:
    """Makes an image set of a uint8 array (N, H, W, 3) and labels."""
    return ArrayImages(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


def _stl10(root: Path, download: bool) -> Splits:
    def split(name: str, download: bool) -> tuple[ArrayImages, tuple[str, ...]]:
        data = datasets.STL10(root, split=name, download=download)
        images = torch.from_numpy(np.ascontiguousarray(data.data))
        return ArrayImages(images, torch.from_numpy(data.labels).long()), tuple(data.classes)

    (train, names), (val, _) = split("train", download), split("test", False)
    return Splits(train, val, names)


class _CheckedSTL10(datasets.STL10):  # type: ignore[misc]  # torchvision is seen as Any
    """STL-10 after another split was opened: opening that one has compared the checksums of all files."""

    def _check_integrity(self) -> bool:
        return True


def _stl10_unlabelled(root: Path, download: bool) -> Splits:
    """Reads the 100,000 images without labels as train, and the 5,000 with labels as `labelled`; takes 2.8 GB."""
    # Transposed, as the files hold columns; not made contiguous, which would take the memory twice.
    images = torch.from_numpy(datasets.STL10(root, split="unlabeled", download=download).data)
    train, test = (_CheckedSTL10(root, split=split) for split in ("train", "test"))
    labelled, val = (ArrayImages(torch.from_numpy(s.data), torch.from_numpy(s.labels).long()) for s in (train, test))
    return Splits(ArrayImages(images, no_labels(len(images))), val, tuple(train.classes), labelled)


def _aircraft(root: Path, download: bool) -> Splits:
    """Reads trainval as train and test as val, variant level, as the benchmarks do."""
    sets = [
        datasets.FGVCAircraft(root, split=split, annotation_level="variant", download=download and split == "trainval")
        for split in ("trainval", "test")
    ]
    train, val = (_file_images(root, data._image_files, data._labels) for data in sets)
    return Splits(train, val, tuple(sets[0].classes))


def _cars(root: Path, download: bool) -> Splits:
    sets = [datasets.StanfordCars(root, split=split, download=download) for split in ("train", "test")]
    train, val = (_file_images(root, *zip(*data._samples, strict=True)) for data in sets)
    return Splits(train, val, tuple(sets[0].classes))


def _file_images(root: Path, files: Iterable[str], labels: Iterable[int]) -> FileImages:
    names = file_names([str(Path(file).relative_to(root)) for file in files])
    return FileImages(root, names, torch.tensor([int(label) for label in labels]), exif_rotation=False)


def read_digits(location: DataLocation) -> Splits:
    """Reads scikit-learn's 1,797 scans of 8 x 8 pixels, 0..16 scaled to 0..255 and repeated to three channels.

    A fifth of every class is held out. The split is fixed, so that runs with different seeds can be compared.
    """
    if location.place:
        raise ValueError(f"digits is part of scikit-learn and takes no folder, got digits:{location.place}")
    from sklearn.datasets import load_digits

    scans = load_digits()
    grey = torch.from_numpy(scans.images).mul(255 / 16).round().to(torch.uint8)  # (N, 8, 8)
    images, labels = grey[:, None].repeat(1, 3, 1, 1), torch.from_numpy(scans.target).long()
    held_out = _held_out(labels)
    names = tuple(str(digit) for digit in range(10))
    return Splits(
        ArrayImages(images[~held_out], labels[~held_out]), ArrayImages(images[held_out], labels[held_out]), names
    )


def _held_out(labels: Tensor) -> Tensor:
    """Chooses a fifth of each class, (N,) bool; the generator's seed is part of the data set's definition."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        chosen[rows[: round(len(rows) / 5)]] = True
    return chosen
