"""Files that are whole or absent, and what the disk refuses in words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class CannotWrite(RuntimeError):
    """The disk is full, or the folder may not be written to."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, what the disk refuses becomes one line that says what to do.

    Raises:
        CannotWrite: no space left, a read-only or forbidden folder, or another error of the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            advice = "free some space"
        elif error.errno in CLOSED:
            advice = "make the folder writable"
        else:
            advice = "look after the disk"
        raise CannotWrite(
            f"cannot write {path}: {error.strerror or error}; {advice}. What was there before is as it was: a run is "
            "continued with --resume"
        ) from error


def write_whole(path: Path, write: Any) -> None:
    """Calls ``write(temporary)`` and moves the result to ``path``: a reader sees the old file or the new one.

    Args:
        path: final place; its folder exists.
        write: function of one path.

    Raises:
        CannotWrite: the disk refuses; the old file stays, and no part of the new one.
    """
    with writing(path):
        temporary = make_temporary(path, write)
        temporary.replace(path)
        sync_folder(path.parent)


def make_temporary(path: Path, write: Any) -> Path:
    """A file beside ``path``, written by ``write(temporary)`` and safe on the disk; where that fails, none."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    except Exception:
        try:
            temporary.unlink(missing_ok=True)  # its space may be what is lacking
        except OSError:
            pass  # the error before says what is wrong
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """The folder's names are on the disk after this."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
