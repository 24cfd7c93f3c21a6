"""Samples of crossed cases, for tests in which the whole product would only add volume."""

from collections.abc import Iterable
from typing import Any


def sampled(first: Iterable[Any], second: Iterable[Any], each: int = 1) -> list[tuple[Any, Any]]:
    """Pairs of two factors: every value of the longer one, each with so many of the other's, which take turns."""
    rows, columns = list(first), list(second)
    if len(rows) < len(columns):
        return [(row, column) for column, row in sampled(columns, rows, each)]
    return [(row, columns[(number + k) % len(columns)]) for number, row in enumerate(rows) for k in range(each)]
