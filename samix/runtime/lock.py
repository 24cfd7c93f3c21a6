"""One process at a time writes a folder."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samix.runtime.atomic_files import writing

LOCK = ".lock"
POLL = 0.2  # seconds between attempts
HELD = (errno.EAGAIN, errno.EACCES)
_held: set[tuple[int, int]] = set()  # (device, inode): a record lock does not exclude its own process


@contextmanager
def exclusive(folder: Path, command: str, advice: str, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock of a folder that a command writes; the folder is made if it is missing.

    The lock is a POSIX record lock on ``FOLDER/.lock``: it ends with the process, however that ends, and the workers
    of a data loader do not inherit it. A file system without locks is used without one.

    Args:
        folder: to write.
        command: that writes it, such as ``samix train``, for the message to others.
        advice: what the refused process can do, for the message.
        patience: seconds to wait for the lock.

    Raises:
        ValueError: another process, or another run of this process, holds the lock.
        CannotWrite: the folder cannot be made or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        number = os.open(folder / LOCK, flags, 0o666)
    status = os.fstat(number)
    key = (status.st_dev, status.st_ino)
    until = time.monotonic() + patience
    if key in _held:  # closing this descriptor would release the lock: it stays open
        raise ValueError(f"this process already writes {folder}; {advice}")
    try:
        while not _lock(number):
            if time.monotonic() >= until:
                holder = os.pread(number, 200, 0).decode("utf-8", "replace").strip() or "another process"
                raise ValueError(f"{holder} writes {folder}; {advice}")
            time.sleep(POLL)
        _held.add(key)
        with writing(folder):
            os.ftruncate(number, 0)
            os.pwrite(number, f"{command} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        _held.discard(key)
        os.close(number)


def _lock(number: int) -> bool:
    """Locks an open file; False where another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: the lock is skipped
        return True
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
    return True
