"""Images in tar files, as the webdataset package writes them, read one at a time at the offsets of an index.

A shard is a plain tar file. Neighbouring members whose names agree up to the first dot after the folder make a sample:
an image, and the number of its class as text in `.cls`. An index of a shard (where each image begins, how long it is,
label and name) is made once and kept beside it. After that any image is one read of its bytes, so that order, resuming,
workers and ranks are those of images in files: nothing is doubled, lost, or shuffled in a buffer only.

Nothing is ever unpacked onto the disk, so names such as `../../x` and links lead nowhere.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from samix.data.decode import IMAGE_ENDINGS, UnreadableImage, decode_image, one_line, read_header
from samix.data.images import file_names, no_labels, none_of
from samix.data.spec import DataLocation, Splits
from samix.runtime.atomic_files import CannotWrite, write_whole

INDEX_ENDING = ".index.npz"
INDEX_FORMAT = 1
LABEL_ENDING = ".cls"
LABEL_BYTES = 20  # of a class number as text
BLOCK = 1 << 20
MOST_SHARDS = 1_000_000  # of one pattern
NO_LABEL = -1


class Index(NamedTuple):
    """Where the images of a shard are: first byte, number of bytes, class (-1: none), member's name."""

    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    names: npt.NDArray[np.bytes_]


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images in shards. All but the shards' paths lies in arrays, which forked workers share instead of copying."""

    shards: tuple[Path, ...]  # the tar files
    shard: npt.NDArray[np.int32]  # (N,) which of them holds the image
    offsets: npt.NDArray[np.int64]  # (N,) its first byte
    sizes: npt.NDArray[np.int64]  # (N,) its number of bytes
    names: npt.NDArray[np.bytes_]  # (N,) of the members
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        """Returns shard and member of image `index`; control characters are escaped."""
        member = os.fsdecode(bytes(self.names[index]))
        return f"{self.shards[self.shard[index]]}/{one_line(member)}"

    def source(self, index: int) -> io.BytesIO:
        """Reads the bytes of image `index`."""
        path, size = self.shards[self.shard[index]], int(self.sizes[index])
        try:
            with path.open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, int(self.offsets[index]))
        except FileNotFoundError:
            raise FileNotFoundError(f"shard {path} is missing; restore it") from None
        except OSError as error:
            raise UnreadableImage(f"image {self.name(index)} cannot be read ({error})") from None
        if len(content) < size:
            raise UnreadableImage(f"image {self.name(index)} cannot be read: the shard is shorter than it was")
        return io.BytesIO(content)

    def image(self, index: int) -> Image.Image:
        """Decodes image `index` to RGB; the errors are those of `open_image`."""
        return decode_image(self.source(index), self.name(index))

    def header(self, index: int) -> tuple[int, int, bool]:
        """Reads width and height of image `index`, before any rotation, and whether its end is there."""
        return read_header(self.source(index), self.name(index))

    def subset(self, rows: Tensor) -> ShardImages:
        """Selects the images at `rows`."""
        at = rows.numpy()
        parts = (self.shard[at], self.offsets[at], self.sizes[at], self.names[at])
        return ShardImages(self.shards, *parts, self.labels[rows])


def read_shards(location: DataLocation) -> Splits:
    """Reads `wds:TRAIN[,VAL]`: two patterns of shards; or `wds:DIR`, which means DIR/train*.tar and DIR/val*.tar.

    A pattern holds ranges such as `{0000..0146}`, and `*`, `?`, `[abc]`. The classes are 0 .. the largest label of the
    training shards. Without any label the data are for training without labels; only then may VAL be missing.

    Raises:
        FileNotFoundError: no file for a pattern, or a file of a range is missing.
        ValueError: not a pattern, or a shard that is damaged or compressed, or samples without an image or label.
    """
    place = location.place
    parts = place.split(",")
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise ValueError(
            f"wds needs wds:TRAIN.tar[,VAL.tar] with patterns such as train-{{000..146}}.tar, got {place!r}"
        )
    folder = Path(parts[0]).expanduser()
    if len(parts) == 1 and folder.is_dir():
        inside = glob.escape(str(folder))
        parts = [f"{inside}/train*.tar", *([f"{inside}/val*.tar"] if any(folder.glob("val*.tar")) else [])]
    train = _open(find_shards(parts[0]))
    if len(parts) == 1:
        if int(train.labels.max()) >= 0:
            raise ValueError(f"the shards {parts[0]} have labels, and none are held out; give wds:{parts[0]},VAL.tar")
        return Splits(train, none_of(train), ())
    val = _open(find_shards(parts[1]))
    count = int(train.labels.max()) + 1 or int(val.labels.max()) + 1
    if count > len(train) + len(val):
        raise ValueError(
            f"the shards {place} have label {count - 1}, but {len(train) + len(val)} images; number the classes from 0 "
            "without gaps"
        )
    if int(val.labels.max()) >= count:
        raise ValueError(f"{parts[1]} has label {int(val.labels.max())}, outside 0..{count - 1} of {parts[0]}")
    return Splits(train, val, tuple(str(label) for label in range(count)))


def find_shards(pattern: str) -> tuple[Path, ...]:
    """Finds the files of a pattern, in order."""
    shards: list[Path] = []
    for plain in expand_ranges(pattern):
        text = str(Path(plain).expanduser())
        if glob.has_magic(text):
            shards += map(Path, sorted(glob.glob(text)))  # noqa: PTH207  # Path.glob takes no absolute pattern
        elif Path(text).is_file():
            shards.append(Path(text))
        else:
            raise FileNotFoundError(f"shard {text} is missing; check the pattern {pattern}")
    if not shards:
        raise FileNotFoundError(f"no shard fits {pattern}; check the pattern")
    if len(set(shards)) < len(shards):
        raise ValueError(f"the pattern {pattern} names a shard twice; its images would count double")
    return tuple(shards)


def expand_ranges(pattern: str) -> Iterator[str]:
    """Yields the pattern for each number of each `{000..146}` in it; leading zeros stay."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise ValueError(f"{pattern}: only ranges such as {{000..146}} may stand in braces")
        yield pattern
        return
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST_SHARDS:
        raise ValueError(f"{pattern}: the range {match[0]} must rise, by less than {MOST_SHARDS}")
    for number in range(first, last + 1):
        rest = pattern[match.end() :]
        yield from expand_ranges(f"{pattern[: match.start()]}{number:0{len(match[1])}}{rest}")


def _open(shards: tuple[Path, ...]) -> ShardImages:
    """Opens all shards; their images keep their order."""
    with ThreadPoolExecutor(8) as pool:
        indices = list(pool.map(index_of, shards))
    counts = [len(index.offsets) for index in indices]
    if not sum(counts):
        raise ValueError(f"no image in {shards[0]}{' and the others' if len(shards) > 1 else ''}; check the pattern")
    labels = torch.from_numpy(np.concatenate([index.labels for index in indices]))
    if (bad := (labels < 0).nonzero()).numel() and int(labels.max()) >= 0:
        where = np.repeat(np.arange(len(shards)), counts)[int(bad[0])]
        raise ValueError(
            f"some samples of {shards[where]} have a label ({LABEL_ENDING}) and others none; correct the shards"
        )
    return ShardImages(
        shards,
        np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        np.concatenate([index.offsets for index in indices]),
        np.concatenate([index.sizes for index in indices]),
        np.concatenate([index.names for index in indices]),
        labels if int(labels.max()) >= 0 else no_labels(sum(counts)),
    )


# The index of a shard -------------------------------------------------------------------------------------------------


def index_of(path: Path) -> Index:
    """Reads the index of a shard where one fits; else makes it, and keeps it where the folder allows."""
    status, index_path = path.stat(), path.with_name(path.name + INDEX_ENDING)
    stamp = np.array([INDEX_FORMAT, status.st_size, status.st_mtime_ns])
    index = _kept(index_path, stamp)
    if index is None:
        index = make_index(path)
        _keep(index_path, stamp, index)
    return index


def make_index(path: Path) -> Index:
    """Goes through the headers of a shard, whose data are skipped, and checks that it is whole."""
    rows: list[tuple[int, int, int, str]] = []
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for sample in _samples(tar):
                    rows.append(_row(path, sample, file))
                end = tar.offset
        except (tarfile.TarError, EOFError, OverflowError) as error:
            raise ValueError(
                f"{path} is not a plain tar file, or is cut short ({error}); decompress or download it again"
            ) from None
        _check_end(path, file, end)
    offsets, sizes, labels = (np.array([row[k] for row in rows], dtype=np.int64) for k in range(3))
    return Index(offsets, sizes, labels, file_names([row[3] for row in rows]))


def _samples(tar: tarfile.TarFile) -> Iterator[list[tuple[str, str, tarfile.TarInfo]]]:
    """Yields the members of each sample, as (key, ending, member); skips folders, links and devices."""
    sample: list[tuple[str, str, tarfile.TarInfo]] = []
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        match = re.fullmatch(r"((?:.*/)?[^./]+)(\.[^/]*)", member.name, re.DOTALL)
        if match is None or not member.isreg() or member.issparse() or re.match(r"__[^/]*__($|/)", member.name):
            continue
        if sample and sample[0][0] != match[1]:
            yield sample
            sample = []
        sample.append((match[1], match[2].lower(), member))
    if sample:
        yield sample


def _row(path: Path, sample: list[tuple[str, str, tarfile.TarInfo]], file: BinaryIO) -> tuple[int, int, int, str]:
    """Returns (offset, size, label, name) of a sample."""
    images = [member for _, ending, member in sample if ending in IMAGE_ENDINGS]
    if len(images) != 1:
        raise ValueError(
            f"{path}: sample {sample[0][0]!r} has {len(images)} images, expected one ({', '.join(IMAGE_ENDINGS)}) "
            f"among {', '.join(ending for _, ending, _ in sample)}"
        )
    label = NO_LABEL
    for key, ending, member in sample:
        if ending != LABEL_ENDING:
            continue
        position = file.tell()
        file.seek(member.offset_data)
        text = file.read(min(member.size, LABEL_BYTES)).strip()
        file.seek(position)
        if not re.fullmatch(rb"[0-9]{1,9}", text):
            raise ValueError(f"{path}: {key}{LABEL_ENDING} must hold the number of a class from 0, got {text!r}")
        label = int(text)
    return images[0].offset_data, images[0].size, label, images[0].name


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """Checks that the file ends with zeros: Python's reader takes a damaged header, or a cut, for the end."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise ValueError(f"{path} is cut short after {end} bytes; download it again")
    while block:
        if block.count(0) < len(block):
            raise ValueError(f"{path} is damaged at byte {end}, and what follows cannot be found; download it again")
        block = file.read(BLOCK)


def _kept(path: Path, stamp: npt.NDArray[np.int64]) -> Index | None:
    """Reads an index that was kept; None where there is none, or one that does not fit the shard."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            plain = all(part.compress_type == zipfile.ZIP_STORED for part in stored.zip.infolist())  # no bombs
            if not plain or not np.array_equal(stored["stamp"], stamp):
                return None
            index = Index(stored["offsets"], stored["sizes"], stored["labels"], stored["names"])
    except Exception:  # damaged, in any of many ways: it is made again
        return None
    numbers = (index.offsets, index.sizes, index.labels)
    right = all(values.dtype == np.int64 and values.shape == index.names.shape for values in numbers)
    if not right or index.names.ndim != 1 or index.names.dtype.kind != "S":
        return None
    inside = (index.offsets >= 0) & (index.sizes >= 0) & (index.sizes <= stamp[1] - index.offsets)
    return index if bool(inside.all()) and bool((index.labels >= NO_LABEL).all()) else None


def _keep(path: Path, stamp: npt.NDArray[np.int64], index: Index) -> None:
    """Writes the index whole or not at all; in a folder to read from only it is made each time."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # to a path NumPy would add its own ending
            np.savez(file, stamp=stamp, **index._asdict())

    with suppress(CannotWrite):
        write_whole(path, write)
