"""Copies among files of images: whether images that are held out are also trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from samix.data.images import FileImages, ImageSet

MOST_FILES = 20_000  # that are compared: more would take seconds at every start


def copied_images(train: ImageSet, val: ImageSet) -> int:
    """Counts the images of `val` whose file has the same bytes as one of `train`: a copy, a link, or the same file.

    Files are read only where two have the same length; of large sets the names alone are compared. Files that cannot be
    read do not count as copies.
    """
    if not (isinstance(train, FileImages) and isinstance(val, FileImages)):
        return 0
    if len(train) + len(val) > MOST_FILES:
        return int(np.isin(val.names, train.names).sum()) if train.root == val.root else 0
    held_out = _by_length(val)
    trained = {length: paths for length, paths in _by_length(train).items() if length in held_out}
    count = 0
    for length, paths in trained.items():
        known = {_digest(path) for path in paths} - {None}
        count += sum(_digest(path) in known for path in held_out[length])
    return count


def _by_length(images: FileImages) -> dict[int, list[Path]]:
    files = defaultdict[int, list[Path]](list)
    for row in range(len(images)):
        path = images.path(row)
        try:
            length = path.stat().st_size if path.is_file() else 0
        except (OSError, ValueError):
            continue
        if length:
            files[length].append(path)
    return files


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:
        return None
