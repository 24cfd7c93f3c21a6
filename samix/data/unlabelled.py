"""Readers of folders of images that have no labels, for training without labels."""

from __future__ import annotations

import os
from pathlib import Path

from samix.data.images import IMAGE_ENDINGS, FileImages, file_names, no_labels
from samix.data.layouts import Splits, class_folders, held_out_folder, image_files, read_classes, read_folder


def read_images(folder: Path) -> Splits:
    """`images:DIR`: every image in DIR and below, without labels; nothing is held out.

    Raises:
        ValueError: there is none.
    """
    return Splits(_images(folder), _none(folder), ())


def read_any_folder(folder: Path) -> Splits:
    """`folder:DIR`: with classes, see `read_folder`; or images directly in DIR/train, which then have no labels.

    In the second case DIR/val, or DIR/test, may be missing; its images may have class folders or lie there directly.
    """
    if not ((folder / "train").is_dir() and _is_flat(folder / "train")):
        return read_folder(folder)
    train, held_out = _images(folder / "train"), held_out_folder(folder)
    if held_out is None:
        return Splits(train, _none(folder), ())
    if _is_flat(held_out):
        return Splits(train, _images(held_out), ())
    classes = class_folders(held_out)
    return Splits(train, read_classes(held_out, classes), tuple(classes))


def _images(folder: Path) -> FileImages:
    names = list(image_files(folder))
    if not names:
        raise ValueError(
            f"no image in {folder} or below (endings: {', '.join(IMAGE_ENDINGS)}); check the path or add images"
        )
    return FileImages(folder, file_names(names), no_labels(len(names)))


def _none(folder: Path) -> FileImages:
    return FileImages(folder, file_names([]), no_labels(0))


def _is_flat(folder: Path) -> bool:
    """Whether a folder holds images and no class folder."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    return not any(e.is_dir() for e in found) and any(e.name.lower().endswith(IMAGE_ENDINGS) for e in found)
