"""Checkpoints that are whole or absent, and checked when they are read."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from samix.runtime.atomic_files import make_temporary, sync_folder, writing

FORMAT = 1
PARTS = {"recipe", "method", "optimizer", "step", "best", "rows", "sums", "seconds", "data"}  # of every checkpoint
LAST = "last.pt"  # the newest checkpoint of a run; the ones before are last-1.pt, last-2.pt, ...

# A checkpoint is a zip archive, which ends with a record whose last field is the length of a comment, and the comment.
ZIP_END, ZIP_END_BYTES = b"PK\x05\x06", 22
HASH_BYTES, HASH_TAG = 32, b"samix blake2b "
SEAL_BYTES = len(HASH_TAG) + 2 * HASH_BYTES
BLOCK = 1 << 20


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint: cut, or with other bytes than were written."""


def save_checkpoint(path: Path, state: dict[str, Any], keep: int = 1) -> None:
    """Writes a checkpoint, whole or not at all, with a hash of its bytes at its end.

    Args:
        path: final place.
        state: what to keep.
        keep: number of files; with 3, the file that was at ``path`` becomes ``NAME-1.pt``, and that one ``NAME-2.pt``.
            At every moment there is a file at ``path``.

    Raises:
        CannotWrite: the disk refuses; the files that were there stay.
    """
    with writing(path):
        temporary = make_temporary(path, lambda place: write_sealed(place, {"format": FORMAT, **state}))
        push_back(path, keep)
        temporary.replace(path)
        sync_folder(path.parent)


def kept_files(path: Path, keep: int = 100) -> list[Path]:
    """``last.pt``, ``last-1.pt``, ...: the newest first, whether they are there or not."""
    return [path, *(path.with_name(f"{path.stem}-{age}{path.suffix}") for age in range(1, keep))]


def push_back(path: Path, keep: int) -> None:
    """Each kept file takes the name of the one before it; the oldest goes. The newest keeps its name, too."""
    files = kept_files(path, keep)
    for older, newer in reversed(list(zip(files[1:], files, strict=False))):
        if not newer.is_file():
            continue
        if newer != path:
            newer.replace(older)
            continue
        link = path.with_name(f".{path.name}.link")
        link.unlink(missing_ok=True)
        try:
            os.link(path, link)
        except OSError:  # a file system without links: for a moment there is no file of the newest name
            path.replace(older)
        else:
            link.replace(older)


class WatchedFile:
    """A file to write to that remembers what the disk refused: torch hides that behind an error of its own.

    Args:
        file: to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Passes it on."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Passes it on."""
        self.file.flush()


def write_sealed(path: Path, state: dict[str, Any]) -> None:
    """A file of torch with a seal: a comment at its end with the hash of all that stands before the comment.

    Raises:
        OSError: the disk refuses.
    """
    with path.open("wb") as file:
        watched = WatchedFile(file)
        try:
            torch.save(state, watched)  # type: ignore[arg-type]  # it needs no more than write and flush
        except RuntimeError:
            if watched.error is None:
                raise
            raise watched.error from None
    with path.open("rb+") as file:
        file.seek(-ZIP_END_BYTES, os.SEEK_END)
        end = file.read()
        assert end.startswith(ZIP_END)
        assert end.endswith(b"\0\0"), "an archive with a comment"
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", SEAL_BYTES))
        length = file.tell()
        file.write(HASH_TAG + hash_of(file, length))


def hash_of(file: BinaryIO, length: int) -> bytes:
    """BLAKE2b of the first ``length`` bytes, in hexadecimal; the file is left at their end."""
    file.seek(0)
    found = hashlib.blake2b(digest_size=HASH_BYTES)
    while length > 0:
        block = file.read(min(BLOCK, length))
        if not block:
            break
        found.update(block)
        length -= len(block)
    return found.hexdigest().encode()


def check_seal(path: Path) -> None:
    """Compares a checkpoint's bytes with the hash at its end. Files of earlier versions have no comment and pass.

    Raises:
        DamagedCheckpoint: other bytes than were written.
    """
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - ZIP_END_BYTES - 0xFFFF))
        tail = file.read()
        at = tail.rfind(ZIP_END)
        said, seal = tail[at + ZIP_END_BYTES - 2 : at + ZIP_END_BYTES], tail[at + ZIP_END_BYTES :]
        if at < 0 or (said == b"\0\0" and not seal):
            return  # no archive, as torch will say; or one without a seal
        if seal != HASH_TAG + hash_of(file, length - len(seal)):
            raise DamagedCheckpoint(f"{path} is damaged: its bytes are not those that were written (hash)")


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        DamagedCheckpoint: damaged, or no file of torch at all.
        ValueError: not a samix checkpoint, or of a newer format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; a run writes last.pt and best.pt into its folder")
    check_seal(path)
    try:
        with warnings.catch_warnings():  # of a foreign pickle's protocol: the error below says enough
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the reader of pickles stumbles over a foreign file in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpoint(f"{path} is damaged or no checkpoint of samix: {reason}") from None
    if not isinstance(state, dict) or not isinstance(state.get("format"), int) or not PARTS <= set(state):
        raise ValueError(f"{path} is no checkpoint of samix; a run writes last.pt and best.pt into its folder")
    if state["format"] > FORMAT:
        raise ValueError(f"{path} has format {state['format']}, this samix reads up to {FORMAT}; update samix")
    return state


def newest_of(path: Path) -> Path:
    """``last.pt`` where a run's folder is given, else the path as it is."""
    return path / LAST if (path / LAST).is_file() else path


class Found(NamedTuple):
    """The newest whole checkpoint of a run: what it holds, where, and which newer files are damaged."""

    state: dict[str, Any]
    path: Path
    damaged: list[Path]
    news: list[str]  # a line for each file that was passed over


def load_last(folder: Path) -> Found:
    """Reads the newest whole checkpoint of a run.

    Raises:
        FileNotFoundError: there is none.
        DamagedCheckpoint: all are damaged; of the newest.
        ValueError: the newest whole one is of something else.
    """
    damaged: dict[Path, DamagedCheckpoint] = {}
    news: list[str] = []
    for path in kept_files(folder / LAST):
        if path.is_file():
            try:
                return Found(load_checkpoint(path), path, list(damaged), news)
            except DamagedCheckpoint as error:
                damaged[path] = error
                news.append(str(error))
        elif path.name == LAST:
            news.append(f"{path} is missing")
    if damaged:
        raise next(iter(damaged.values()))
    raise FileNotFoundError(f"no checkpoint at {folder / LAST}; a run writes last.pt and best.pt into its folder")


def set_aside(damaged: list[Path]) -> None:
    """Renames damaged checkpoints, so that they push no whole one out."""
    for path in damaged:
        path.replace(path.with_name(f"{path.name}.damaged"))


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads weights of a checkpoint into a network or method.

    Raises:
        ValueError: weights of another network; names what differs.
    """
    own = module.state_dict()
    known_later = {"steps"}  # a count that checkpoints of earlier versions lack; it then goes on from the module's own
    missing, extra = sorted(set(own) - set(state) - known_later), sorted(set(state) - set(own))
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or shapes:
        found = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
            if names
        ]
        raise ValueError(
            f"{path} holds weights of another network: {', '.join(found)}; give the recipe it was trained with"
        )
    module.load_state_dict(state)
