"""Readers of users' own folders: a folder of images per class, divided into splits or not, or images without labels.

Nothing is moved or decoded. Files that are left out are counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from samix.data.dataset import ImageData
from samix.data.decode import IMAGE_ENDINGS, one_line
from samix.data.images import FileImages, ImageSet, file_names, no_labels, none_of
from samix.data.order import stream_seed
from samix.data.spec import Splits
from samix.data.walk import class_folders, image_files, is_flat, split_folders

FIFTH = "without a folder of held-out images, a fifth of each class is held out by file name"


# Classes --------------------------------------------------------------------------------------------------------------


def read_classes(folder: Path, classes: Sequence[str], inner: str = "", *, exif_rotation: bool = True) -> FileImages:
    """Reads the images of folder/CLASS/inner for each class; labels follow the order of `classes`."""
    files: dict[str, list[str]] = {}
    for name in classes:
        inside = folder / name / inner
        if not inside.is_dir():
            raise FileNotFoundError(f"{inside} is missing; class {name!r} needs this folder of images")
        files[name] = [f"{name}/{inner}/{file}" if inner else f"{name}/{file}" for file in image_files(inside)]
    return _labelled(folder, files, exif_rotation)


def _labelled(
    folder: Path, files: Mapping[str, Sequence[str]], exif_rotation: bool = True, also: str = ""
) -> FileImages:
    """Labels the images of all classes in the order of `files`; `also` names a second folder in advice."""
    for name, inside in files.items():
        if not inside:
            others = Counter[str]()
            list(image_files(folder / name, others))
            holds = ", ".join(f"{count} {reason}" for reason, count in sorted(others.items()))
            raise ValueError(
                f"class {name!r} is empty: no image in {folder / name}{f' (it has {holds})' if holds else ''}; add "
                f"images or remove the folder{also}"
            )
    names = [file for inside in files.values() for file in inside]
    labels = [label for label, inside in enumerate(files.values()) for _ in inside]
    return FileImages(folder, file_names(names), torch.tensor(labels, dtype=torch.int64), exif_rotation)


def _files_of_classes(folder: Path, left_out: Counter[str], *, divided: bool = True) -> dict[str, list[str]]:
    """Lists the images of each class folder.

    A class folder of a split may hold folders of images beside its own images; where nothing is divided, a class
    folder holds images alone, so that a folder such as `validation` does not become a class.
    """
    names = class_folders(folder, left_out)
    files = {name: [f"{name}/{file}" for file in image_files(folder / name, left_out)] for name in names}
    for name, inside in files.items():
        deeper = [file for file in inside if file.count("/") > 1]
        inner = sorted({file.split("/")[1] for file in deeper})
        if inner and not divided:
            remedy = f"give {folder / name}, or expected " if len(files) == 1 else "expected "
            raise ValueError(
                f"{folder / name} holds folders ({_some(inner)}), so it is not a class; {remedy}"
                f"{folder}/CLASS/ with images, or {folder}/train/CLASS/ and {folder}/val/CLASS/"
            )
        if len(inner) > 1 and len(deeper) == len(inside):
            raise ValueError(
                f"{folder / name} holds no images but the folders {_some(inner)}; if these are the classes, move them "
                f"to {folder}/CLASS/; if {name} is the class, move their images into it"
            )
    return files


def read_folder(folder: Path) -> Splits:
    """Reads `folder:DIR`: DIR/train/CLASS/ and DIR/val/CLASS/, or DIR/CLASS/ alone; see `split_folders` for the names.

    Where nothing is held out, `hold_out` chooses a fifth of each class. With images directly in DIR/train there are no
    labels; DIR/val may then be missing, and have class folders or not.
    """
    train, held_out, others = split_folders(folder)
    left_out: Counter[str] = Counter()
    if train is not None and is_flat(train):
        return _read_flat(train, held_out, others, left_out)
    if train is None and (held_out is None or (others and is_flat(held_out))):  # a class may be named `test`
        files = _files_of_classes(folder, left_out, divided=False)
        return _divide(_labelled(folder, files), files, left_out)
    if train is None:
        raise FileNotFoundError(
            f"{folder} holds {held_out.name if held_out else ''} and no folder train; add DIR/train/CLASS/ with "
            f"images, or, to evaluate a trained network, give {held_out}"
        )
    notes = (f"{_some(others)} is not used" if len(others) == 1 else f"{_some(others)} are not used",) if others else ()
    files = _files_of_classes(train, left_out)
    if held_out is None:
        return _divide(_labelled(train, files), files, left_out, notes)
    if is_flat(held_out):
        raise ValueError(
            f"{held_out} holds images and no class folders; sort them into {held_out}/CLASS/, or move the folder away: "
            f"then a fifth of {train} is held out"
        )
    held = {name: inside for name, inside in _files_of_classes(held_out, left_out).items() if inside}
    images = _labelled(train, files, also=f", here and in {held_out}")
    _check_same_classes(train, held_out, list(files), list(held))
    val = _labelled(held_out, {name: held[name] for name in files})
    return Splits(images, val, tuple(files), left_out=left_out, notes=notes)


def _check_same_classes(train: Path, held_out: Path, classes: list[str], held: list[str]) -> None:
    missing, unknown = sorted({*classes} - {*held}), sorted({*held} - {*classes})
    if not missing and not unknown:
        return
    what = f"the classes of {train} and {held_out} differ: "
    by_lower = {name.lower(): name for name in missing}
    pairs = [f"{by_lower[name.lower()]} and {name}" for name in unknown if name.lower() in by_lower]
    if pairs:
        raise ValueError(f"{what}{_some(pairs)} differ in capitals only; rename one of the folders")
    parts = []
    if missing:
        parts.append(
            f"no image of {_some(missing)} in {held_out.name}; move some of the images in {train}/CLASS/ to "
            f"{held_out}/CLASS/, or remove the class from both to train without it"
        )
    if unknown:
        parts.append(
            f"no folder {_some(unknown)} in {train.name}; add it with images, or remove it from {held_out.name}"
        )
    raise ValueError(what + "; ".join(parts))


def _some(names: Sequence[str]) -> str:
    return one_line(", ".join(names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# Folders without splits -----------------------------------------------------------------------------------------------


def _divide(images: FileImages, classes: Iterable[str], left_out: Counter[str], notes: tuple[str, ...] = ()) -> Splits:
    names = [images.path(row).name for row in range(len(images))]
    return divide(images, names, tuple(classes), images.root, (FIFTH, *notes), left_out)


def divide(
    images: ImageSet,
    names: Sequence[str],
    classes: Sequence[str],
    where: object,
    notes: tuple[str, ...],
    left_out: Mapping[str, int] | None = None,
) -> Splits:
    """Holds out a fifth of each class, see `hold_out`; the notes tell the user so."""
    train, val = hold_out(names, images.labels, classes, where)
    return Splits(images.subset(train), images.subset(val), tuple(classes), left_out=left_out or {}, notes=notes)


def hold_out(names: Sequence[str], labels: Tensor, classes: Sequence[str], where: object) -> tuple[Tensor, Tensor]:
    """Chooses a fifth of each class, at least one image, to test on.

    The choice is a function of the names alone, so that images that come or go leave almost all others where they are.

    Args:
        names: of N images.
        labels: (N,) int64.
        classes: names of the labels.
        where: the place of the images, for the error.

    Returns:
        Rows to train on and rows to test on, int64, in rising order.

    Raises:
        ValueError: a class has fewer than two images.
    """
    train, val = list[int](), list[int]()
    for label, name in enumerate(classes):
        rows = (labels == label).nonzero().flatten().tolist()
        if len(rows) < 2:
            raise ValueError(
                f"class {name!r} has {'one image' if rows else 'no image'} in {where}; it needs two at least, as one "
                "is held out to test on"
            )
        rows.sort(key=lambda row: (stream_seed(names[row]), names[row], row))
        count = max(1, round(len(rows) / 5))
        val += rows[:count]
        train += rows[count:]
    return torch.tensor(sorted(train)), torch.tensor(sorted(val))


# Without labels, and to evaluate --------------------------------------------------------------------------------------


def read_images(folder: Path) -> Splits:
    """Reads `images:DIR`: every image in DIR and below, without labels; nothing is held out."""
    left_out: Counter[str] = Counter()
    return Splits(_unlabelled(folder, left_out), _unlabelled(folder, left_out, none=True), (), left_out=left_out)


def _read_flat(train: Path, held_out: Path | None, others: list[str], left_out: Counter[str]) -> Splits:
    if held_out is None and others:
        raise ValueError(
            f"{train} holds images directly, and there are the folders {_some(others)} beside it; if all are classes, "
            f"rename {train.name}, which stands for a split; to train on it without labels, give images:{train}"
        )
    images = _unlabelled(train, left_out)
    if held_out is None or is_flat(held_out):
        val = _unlabelled(held_out or train, left_out, none=held_out is None)
        return Splits(images, val, (), left_out=left_out)
    files = _files_of_classes(held_out, left_out)
    return Splits(images, _labelled(held_out, files), tuple(files), left_out=left_out)


def _unlabelled(folder: Path, left_out: Counter[str], *, none: bool = False) -> FileImages:
    names = [] if none else list(image_files(folder, left_out))
    if not names and not none:
        raise ValueError(
            f"no image in {folder} or below (endings: {', '.join(IMAGE_ENDINGS)}); check the path or add images"
        )
    return FileImages(folder, file_names(names), no_labels(len(names)))


def load_labelled_folder(path: str | Path, class_names: Sequence[str]) -> ImageData:
    """Reads a folder to evaluate a trained network on: all images of PATH/CLASS/, or of the held-out folder in PATH.

    Classes are matched by name; PATH may hold some of them only.

    Args:
        path: folder of class folders; or of splits, of which the held-out one is taken, as `read_folder` does.
        class_names: that the network was trained on, in the order of its outputs.

    Returns:
        All images as `val`, with the network's labels; `train` is empty.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, no image, or a class that the network does not know.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}; check the path")
    splits = split_folders(folder)[1::-1]  # the held-out one first
    folder = next((split for split in splits if split is not None and split.name not in class_names), folder)
    left_out: Counter[str] = Counter()
    files = {name: inside for name, inside in _files_of_classes(folder, left_out).items() if inside}
    unknown = sorted({*files} - {*class_names})
    if unknown or not files:
        raise ValueError(
            f"{folder} has the classes {_some(unknown)}, which the network was not trained on; its classes are "
            f"{_some(list(class_names))}; rename or move these folders"
            if unknown
            else f"no image in the class folders of {folder}; check the path or add images"
        )
    names = [file for inside in files.values() for file in inside]
    labels = torch.tensor([class_names.index(name) for name, inside in files.items() for _ in inside])
    images = FileImages(folder, file_names(names), labels)
    missing = len({*class_names} - {*files})
    notes = (f"no image of {missing} of the network's {len(class_names)} classes",) if missing else ()
    return ImageData(
        "folder", none_of(images), images, tuple(class_names), left_out=left_out, notes=notes, evaluation_only=True
    )
