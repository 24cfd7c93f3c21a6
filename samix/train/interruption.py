"""How a run ends early: its errors, and the signals that ask it to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class NonFiniteLoss(RuntimeError):
    """A loss, gradient or weight became NaN or infinite."""


class Interrupted(RuntimeError):
    """The run was asked to stop and has saved its state; the message holds the command that resumes it."""


class LostProcess(RuntimeError):
    """Another process of the run has ended."""


@contextmanager
def on_stop_signal(ask: Callable[[], None]) -> Iterator[None]:
    """Makes SIGTERM, a closed terminal and Ctrl-C call ``ask`` and nothing else.

    In other threads than the main one, signals are left as they are.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        ask()

    try:
        before = {number: signal.signal(number, stop) for number in stop_signals()}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signals() -> list[signal.Signals]:
    """Returns the signals that ask a run to stop; SIGHUP is left out under nohup."""
    hang_up = getattr(signal, "SIGHUP", None)
    asked = [signal.SIGTERM, signal.SIGINT]
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        asked.append(hang_up)
    return asked
