"""What a run tells its terminal. A run must not end, or stand still, because nobody reads it."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import Any, TextIO

PIECE = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes whole once it is ready to be written to
PATIENCE = 2.0  # seconds that a line waits for a reader; a progress bar does not wait


class SteadyStream:
    """A text stream that drops what nobody reads: a closed pipe, and one that is full.

    Anything else that writes to the same descriptor is safe too once a pipe was found closed: it then leads to nowhere.

    Args:
        stream: such as ``sys.stderr``; None, as under pythonw, takes all and shows nothing.
        patience: seconds to wait while a pipe is full.
    """

    def __init__(self, stream: TextIO | None, patience: float = 0.0) -> None:
        self.stream, self.patience = stream, patience
        try:
            self.number: int | None = None if stream is None else stream.fileno()
        except (OSError, ValueError, AttributeError):  # a stream in memory
            self.number = None

    def write(self, text: str) -> int:
        """Writes it, or as much of it as there is room for."""
        if self.stream is None:
            return len(text)
        try:
            if self.number is None or os.name != "posix":
                self.stream.write(text)
            else:
                self.stream.flush()
                self._send(text.encode(self.stream.encoding or "utf-8", "replace"))
        except (OSError, ValueError):  # ValueError: a stream that was closed in this process
            self.give_up()
        return len(text)

    def _send(self, data: bytes) -> None:
        """Past the stream's buffer, in pieces that do not block."""
        assert self.number is not None
        until = time.monotonic() + self.patience
        while data:
            ready = select.select([], [self.number], [], max(0.0, until - time.monotonic()))[1]
            if not ready:
                return
            data = data[os.write(self.number, data[:PIECE]) :]

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        return self.stream is not None and self.stream.isatty()

    def give_up(self) -> None:
        """Lets the descriptor lead to nowhere, so that nobody else stumbles over it."""
        if self.number is not None:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.number)
                os.close(nowhere)
        self.stream = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def tell(text: str) -> None:
    """A line to standard error, as a warning is given."""
    SteadyStream(sys.stderr, PATIENCE).write(f"{text}\n")


def say(text: str) -> None:
    """A line to standard output."""
    SteadyStream(sys.stdout, PATIENCE).write(f"{text}\n")
