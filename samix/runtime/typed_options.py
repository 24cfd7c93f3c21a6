"""Options whose types state their range or choices, such as ``prob: Share`` or ``style: Literal["holes", "cells"]``."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from numbers import Number
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from samix.runtime.checks import (
    IMAGE_SIDE,
    IMAGE_SIDE_OR_0,
    POSITIVE,
    SEED,
    SHARE,
    WORKERS,
    Range,
    check_choice,
    check_number,
)
from samix.runtime.docstrings import inherit_args

Share = Annotated[float, SHARE]
PositiveShare = Annotated[float, Range(0, 1, open_low=True)]
ShareBelow1 = Annotated[float, Range(0, 1, open_high=True)]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, POSITIVE]
Count = Annotated[int, Range(1, 2**31 - 1)]
CountOr0 = Annotated[int, Range(0, 2**31 - 1)]
AtLeast2 = Annotated[int, Range(2, 2**31 - 1)]
Seed = Annotated[int, SEED]
ImageSide = Annotated[int, IMAGE_SIDE]  # pixels
ImageSideOr0 = Annotated[int, IMAGE_SIDE_OR_0]
Workers = Annotated[int, WORKERS]


@dataclass(frozen=True)
class CheckedOptions:
    """Base of frozen options that are checked when they are made."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        inherit_args(cls)

    def __post_init__(self) -> None:
        check_options(self)


def check_options(options: object) -> None:
    """Checks each field of a dataclass by its type: numbers by a :class:`Range` in ``Annotated``, words by ``Literal``.

    Of a tuple, such as ``lams: tuple[Share, ...]``, every number is checked.

    Raises:
        ValueError: a number out of range, or a value that is none of the choices; names the field.
    """
    for name, rule, integer, optional in _rules(type(options)):  # type: ignore[arg-type]  # a type is hashable
        value = getattr(options, name)
        if value is None and optional:
            continue
        if not isinstance(rule, Range):
            check_choice(name, value, (*rule, None) if optional else rule)
            continue
        for number in value if isinstance(value, tuple) else (value,):
            number = number.item() if isinstance(number, Number) and hasattr(number, "item") else number  # NumPy's
            check_number(name, number, **rule._asdict(), integer=integer)


@cache
def _rules(cls: type[object]) -> tuple[tuple[str, Range | tuple[object, ...], bool, bool], ...]:
    """Of each field with a rule: name, range or choices, whether it is a whole number, whether it may be None."""
    return tuple(_rules_of(cls))


def _rules_of(cls: type[object]) -> Iterator[tuple[str, Range | tuple[object, ...], bool, bool]]:
    hints = get_type_hints(cls, include_extras=True)
    for name in (f.name for f in fields(cls) if f.name in hints):  # type: ignore[arg-type]
        hint = hints[name]
        forms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        for form in forms:
            form = get_args(form)[0] if get_origin(form) is tuple and get_args(form) else form
            if get_origin(form) is Literal:
                yield name, get_args(form), False, type(None) in forms
            elif get_origin(form) is Annotated:
                base, *notes = get_args(form)
                for note in notes:
                    if isinstance(note, Range):
                        yield name, note, base is int, type(None) in forms
