"""What came of a call: a right result, an error of one line, a traceback, or a wrong result and no error."""

from __future__ import annotations

import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

Call = Callable[[random.Random, Path], None]  # the numbers it is made from, and a folder for its files
LONGEST = 60.0  # seconds for a call
ERRORS = (ValueError, TypeError, OSError)
KINDS = ("right", "error", "traceback", "silent")


class Outcome(NamedTuple):
    """One of :data:`KINDS`, and what was said or found."""

    kind: str
    words: str = ""


class Hung(Exception):
    """A call that takes too long."""


class Wrong(Exception):
    """A wrong result."""


def require(good: bool, words: str) -> None:
    """Raises Wrong unless a result is good."""
    if not good:
        raise Wrong(words)


def judge(call: Call, draw: random.Random, place: Path) -> Outcome:
    """Makes a call, and says what came of it."""
    torch.manual_seed(draw.randrange(1 << 30))
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(draw, place)
    except Wrong as error:
        return Outcome("silent", str(error))
    except ERRORS as error:
        said = str(error).strip()
        if type(error) is UnicodeError or not said or len(said.splitlines()) > 1:
            return Outcome("traceback", f"{type(error).__name__} of {len(said.splitlines())} lines: {said[:150]}")
        return Outcome("error", f"{type(error).__name__}: {said[:100]}")
    except Exception as error:  # whatever it is, it is the finding
        return Outcome("traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:150]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Outcome("right")


def too_long(_number: int, _frame: Any) -> None:
    """Ends a call."""
    raise Hung(f"longer than {LONGEST:.0f} s")
