"""The signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_stop_signal(ask: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGTERM, a closed terminal and Ctrl-C call ``ask``, and do no more.

    In other threads than the main one signals are left as they are.
    """

    def stop(_number: int, _frame: Any) -> None:
        ask()

    try:
        before = {number: signal.signal(number, stop) for number in stop_signals()}
    except ValueError:  # not the main thread: signals are not ours to take
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a run to stop; of a terminal that closes only where it was not started with nohup."""
    hang_up = getattr(signal, "SIGHUP", None)
    asked = [signal.SIGTERM, signal.SIGINT]
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        asked.append(hang_up)
    return asked
