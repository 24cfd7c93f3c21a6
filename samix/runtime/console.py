"""Output to the terminal: it never ends or blocks a run, and control characters in names are escaped."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
import unicodedata
from collections.abc import Iterator
from typing import TextIO

PIECE = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes whole once it is ready to be written to
PATIENCE = 2.0  # seconds that a line waits for a reader; a progress bar does not wait


class SteadyStream:
    """A text stream that drops text where a pipe is closed or full.

    Once a pipe is closed, its descriptor leads to /dev/null, so that other writers to it do not fail.

    Args:
        stream: such as ``sys.stderr``; None, as under pythonw, drops everything.
        patience: seconds to wait while a pipe is full; None waits for as long as it takes.
    """

    def __init__(self, stream: TextIO | None, patience: float | None = 0.0) -> None:
        self.stream, self.patience = stream, patience
        try:
            self.number: int | None = None if stream is None else stream.fileno()
        except (OSError, ValueError, AttributeError):  # a stream in memory
            self.number = None

    def write(self, text: str) -> int:
        """Writes the text, or as much of it as there is room for."""
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
        """Writes past the stream's buffer, in pieces that do not block."""
        assert self.number is not None
        until = None if self.patience is None else time.monotonic() + self.patience
        while data:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready = select.select([], [self.number], [], left)[1]
            if not ready:
                return
            data = data[os.write(self.number, data[:PIECE]) :]

    def flush(self) -> None:
        """Does nothing: no text is buffered."""

    def isatty(self) -> bool:
        """Returns whether a person may be looking."""
        return self.stream is not None and self.stream.isatty()

    def give_up(self) -> None:
        """Redirects the descriptor to /dev/null, so that later writers to it do not fail."""
        if self.number is not None:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.number)
                os.close(nowhere)
        self.stream = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def printable(text: str) -> str:
    """Returns the text with every control character but line feed and tab, and every lone surrogate, as an escape.

    Control characters are those of Unicode's categories Cc, Cf, Cs, Co and Cn, with the line and paragraph separators:
    terminal escapes, text direction, and bytes of a file's name that are not text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char in "\n\t" or not (unicodedata.category(char).startswith("C") or char in "\u2028\u2029")
        else char.encode("unicode_escape").decode()
        for char in text
    )


def plural(count: int, noun: str) -> str:
    """Returns ``1 epoch`` or ``3 epochs``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


@contextlib.contextmanager
def steady_stdout() -> Iterator[None]:
    """Drops, inside, what is printed to a closed standard output; waits for a slow reader."""
    before = sys.stdout
    sys.stdout = SteadyStream(before, None)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = before


def tell(text: str) -> None:
    """Writes a line to standard error, without control characters; a progress bar there is drawn again below it."""
    for bar in tuple(getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())):
        bar.clear()
    SteadyStream(sys.stderr, PATIENCE).write(f"{printable(text)}\n")


def say(text: str) -> None:
    """Writes a line to standard output, without control characters."""
    stream = sys.stdout.stream if isinstance(sys.stdout, SteadyStream) else sys.stdout
    SteadyStream(stream, PATIENCE).write(f"{printable(text)}\n")
