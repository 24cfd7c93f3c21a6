"""Images that cannot be read: each is replaced by another one, and they are counted and named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from samix.data.decode import UNREADABLE, UnreadableImage, one_line
from samix.data.images import FileImages, ImageSet, Picture
from samix.data.order import replacement_of
from samix.data.shards import ShardImages
from samix.runtime.checks import check_choice

OnBadImage = Literal["stop", "skip"]
TRIES = 20  # images that cannot be read, one after the other, before it is the disk that is missing
NAMED = 10  # of a report's names


def read_image(images: ImageSet, seed: int, epoch: int, index: int, skip: bool) -> tuple[Picture, int]:
    """Reads an image, or with ``skip`` the first readable one of its replacements; returns its index too.

    Which ones those are is a function of (seed, epoch, index), so a resumed run, another number of workers and another
    number of ranks see the same.
    """
    if not skip:
        return images.image(index), index
    chosen = index
    for attempt in range(TRIES):
        try:
            return images.image(chosen), chosen
        except UNREADABLE as error:
            last = error
        chosen = replacement_of(len(images), seed, epoch, index, attempt)
    raise UnreadableImage(
        f"{TRIES} images in a row cannot be read; check that the disk of the data is mounted. Last error: {last}"
    )


def with_replacements(order: Tensor, bad: set[int], seed: int, epoch: int) -> Tensor:
    """Replaces each bad row of an epoch's order, by the same choice as ``read_image``."""
    if not bad:
        return order
    table = torch.arange(len(order))
    for row in bad:
        tries = (replacement_of(len(order), seed, epoch, row, attempt) for attempt in range(TRIES - 1))
        replacement = next((other for other in tries if other not in bad), None)
        if replacement is None:
            raise UnreadableImage(f"{TRIES} images in a row cannot be read; {len(bad)} of {len(order)} in all")
        table[row] = replacement
    return table[order]


def name_of(images: ImageSet, index: int) -> str:
    """Returns the file of an image, its shard and member, or its number."""
    if isinstance(images, ShardImages):
        return images.name(index)
    return one_line(str(images.path(index))) if isinstance(images, FileImages) else f"number {index}"


def report(images: ImageSet, bad: list[int], what: str) -> str:
    """Says how many images cannot be read, what became of them, and the first names."""
    names = ", ".join(name_of(images, index) for index in bad[:NAMED])
    more = f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"{len(bad)} of {len(images)} {what}: {names}{more}"


def check_readable(images: ImageSet, on_bad_image: OnBadImage = "stop") -> set[int]:
    """Looks at every image of a set before training: ``stop`` raises for an unreadable one, ``skip`` returns its row.

    A file that lacks the mark of its end, as JPEG and PNG have it, is decoded to decide.

    Returns:
        Rows of the images that cannot be read; empty for images in memory or of a dataset, which are not checked.

    Raises:
        UnreadableImage: some cannot be read; the message names the first ones.
    """
    check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    if not isinstance(images, FileImages | ShardImages):
        return set()
    with ThreadPoolExecutor(8) as pool:  # waits for disks, mostly
        errors = list(pool.map(partial(_error_of, images), range(len(images))))
    bad = [(row, error) for row, error in enumerate(errors) if error is not None]
    if bad and on_bad_image == "stop":
        others = f"; {report(images, [row for row, _ in bad], 'images cannot be read')}" if len(bad) > 1 else ""
        raise UnreadableImage(f"{bad[0][1]}{others}")
    return {row for row, _ in bad}


def _error_of(images: FileImages | ShardImages, row: int) -> str | None:
    """Says why an image cannot be read; None if it can, as far as its header and its end tell."""
    try:
        if not images.header(row)[2]:
            images.image(row)
    except UNREADABLE as error:
        return str(error)
    return None
