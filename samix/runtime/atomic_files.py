"""Files that are whole or absent, never over what another command wrote; errors of the disk as one line."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MISSING = (errno.ENOENT, errno.ENOTDIR)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
TEMPORARY = ".tmp"  # the ending of files that are being written; their names begin with a dot


class CannotWrite(RuntimeError):
    """The disk is full, or the folder may not be written to."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors of the disk into one line that says what to do."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else errno_of_rust(error)
        if number is None:  # of something else, such as an image that is missing
            raise
        if number in FULL:
            advice = "free some space"
        elif number in CLOSED:
            advice = "make the folder writable"
        elif number in MISSING:
            advice = "make the folder, or give another path"
        elif number == errno.EISDIR:
            advice = "a folder of that name is there; give another name"
        elif number == errno.ELOOP:
            advice = "a link in it is not followed; remove the link"
        else:
            advice = "check the disk"
        raise CannotWrite(
            f"cannot write {path}: {os.strerror(number)}; {advice}. The file that was there is unchanged; "
            "continue a run with --resume"
        ) from error


def errno_of_rust(error: Exception) -> int | None:
    """Returns the number of an error of the system that a library in Rust, as safetensors, tells in words alone."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return None if number is None else int(number[1])


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write(temporary)`` and moves the result to ``path``: a reader sees the old file or the new one."""
    with writing(path):
        temporary = make_temporary(path, write)
        try:
            temporary.replace(path)
        except OSError:  # such as a folder of that name
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_temporary(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes a new file beside ``path`` by ``write(temporary)`` and syncs it; leaves none where that fails.

    Its name is unique and it is created anew, so two processes never share one, and no link is followed.
    """
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
    os.close(number)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    except BaseException:
        try:
            temporary.unlink(missing_ok=True)  # its space may be what is lacking
        except OSError:
            pass  # the error before says what is wrong
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """Writes the folder's names to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _umask() -> int:
    """Returns the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def remove_temporaries(folder: Path) -> None:
    """Removes files that a killed process was writing; call it while the folder is locked."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def refuse_foreign(path: Path, mark: str, advice: str = "move it, or write to another path") -> None:
    """Refuses to replace a file that does not carry this mark.

    Every file that a command may later replace holds its mark in its bytes: a PNG in its metadata, a page in its
    ``generator``, JSON in a field.
    """
    if not (path.exists() or path.is_symlink()):
        return
    if path.is_symlink() or not path.is_file() or mark.encode() not in path.read_bytes():
        raise FileExistsError(f"{path} exists and was not written by {mark}; {advice}")


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
