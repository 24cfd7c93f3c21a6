"""Options as plain values; checks of their range, with one form of message; suggestions for misspelt words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Plain values by name, as JSON has them. The dataclass or the function that takes one decides its type, and checks it.
Values = dict[str, Any]
Options = Mapping[str, Any]
LARGEST_INTEGER = 2**63 - 1  # of torch


class Range(NamedTuple):
    """Bounds of a number; None is no bound."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False


POSITIVE, SHARE = Range(0, open_low=True), Range(0, 1)
IMAGE_SIDE, IMAGE_SIDE_OR_0 = Range(1, 8192), Range(0, 8192)  # pixels
WORKERS = Range(0, 1024)
SEED = Range(0, LARGEST_INTEGER)


def check_number(
    name: str,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    open_low: bool = False,
    open_high: bool = False,
    integer: bool = False,
) -> None:
    """Refuses a number outside its range; nan and infinity are always outside.

    Args:
        name: option, as the user knows it.
        value: to check.
        low: smallest value allowed; None is no bound.
        high: largest value allowed; None is no bound.
        open_low: ``low`` itself is refused.
        open_high: ``high`` itself is refused.
        integer: only whole numbers (``int``, not ``bool``) are allowed. Those above 2^63 - 1 are always refused.

    Raises:
        ValueError: out of range, not finite, or not a number.

    Example:
        >>> check_number("lr", 0.1, 0, open_low=True)
        >>> check_number("lr", float("nan"), 0, open_low=True)
        Traceback (most recent call last):
        ValueError: lr must be in (0, inf), got nan
    """
    types = int if integer else (int, float)
    if isinstance(value, types) and type(value) is not float:  # torch takes no larger ones, for a float neither
        if high is None and value > LARGEST_INTEGER:
            high = LARGEST_INTEGER
        if low is None and value < -LARGEST_INTEGER:
            low = -LARGEST_INTEGER
    if (
        isinstance(value, types)
        and not isinstance(value, bool)
        and -math.inf < value < math.inf
        and (low is None or (value > low if open_low else value >= low))
        and (high is None or (value < high if open_high else value <= high))
    ):
        return
    left = "(-inf" if low is None else f"{'(' if open_low else '['}{low}"
    right = "inf)" if high is None else f"{high}{')' if open_high else ']'}"
    right = "2^31)" if high == 2**31 - 1 else right
    noun = "a whole number " if integer else ""
    if low is None and high is None:
        raise ValueError(f"{name} must be a {'whole' if integer else 'finite'} number, got {value!r}")
    raise ValueError(f"{name} must be {noun}in {left}, {right}, got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Refuses a value that is none of the choices.

    Raises:
        ValueError: the message lists the choices, and names the one that was probably meant.
    """
    known = tuple(choices)
    if value not in known:
        listed = ", ".join(map(str, known))
        raise ValueError(f"{name} must be one of {listed}; got {value!r}{suggest(str(value), map(str, known))}")


def suggest(word: str, known: Iterable[str], before: str = "") -> str:
    """Returns the end of a message: ``before`` and the known word that was probably meant; empty if none is close.

    Example:
        >>> suggest("cutmxi", ["mixup", "cutmix"])
        '; did you mean cutmix?'
    """
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {before}{by_lower[close[0]]}?" if close else ""


def suggest_folder(path: Path) -> str:
    """Returns the folder beside a missing one that was probably meant, as the end of a message; empty if none is."""
    if not path.parent.is_dir():
        return ""
    beside = [other.name for other in path.parent.iterdir() if other.is_dir()]
    return suggest(path.name, beside, "" if path.parent == Path() else f"{path.parent}/")
