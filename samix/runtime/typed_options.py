"""Options whose types state their range or choices, such as ``prob: Share`` or ``style: Literal["holes", "cells"]``."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Number
from os import PathLike
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

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


class Rule(NamedTuple):
    """What a field may hold: a number in a range, one of some choices, or any value of a type; several, or None."""

    field: str
    kind: type[object]
    within: Range | tuple[object, ...] | None
    several: bool
    optional: bool


def check_options(options: object) -> None:
    """Checks each field of a dataclass by its type.

    Numbers are finite and keep to a :class:`Range` in ``Annotated``, words are among those of a ``Literal``. Of a
    tuple, such as ``lams: tuple[Share, ...]``, every value is checked.

    Raises:
        ValueError: a value of another type, out of range, or none of the choices; names the field.
    """
    for name, kind, within, several, optional in _rules(type(options)):  # type: ignore[arg-type]  # a type is hashable
        given = getattr(options, name)
        for value in given if several and isinstance(given, tuple | list) else (given,):
            value = value.item() if isinstance(value, Number) and hasattr(value, "item") else value  # NumPy's
            if value is None and optional:
                continue
            if isinstance(within, Range):
                check_number(name, value, **within._asdict(), integer=kind is int)
            elif within is not None:
                check_choice(name, value, (*within, None) if optional else within)
            elif not isinstance(value, (str, PathLike) if kind is str else Integral):
                raise ValueError(f"{name} must be {kind.__name__}, got {value!r}")


@cache
def _rules(cls: type[object]) -> tuple[Rule, ...]:
    """Returns the rule of each field that has one."""
    return tuple(_rules_of(cls))


def _rules_of(cls: type[object]) -> Iterator[Rule]:
    hints = get_type_hints(cls, include_extras=True)
    for name in (f.name for f in fields(cls) if f.name in hints):  # type: ignore[arg-type]
        hint = hints[name]
        forms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        known = [form for form in forms if form is not type(None)]
        if len(known) > 1:  # whoever reads the field tells them apart
            continue
        several, optional = get_origin(known[0]) is tuple, len(forms) > 1
        form = get_args(known[0])[0] if several else known[0]
        if get_origin(form) is Literal:
            yield Rule(name, object, get_args(form), several, optional)
        elif get_origin(form) is Annotated and isinstance(get_args(form)[1], Range):
            base, bounds = get_args(form)[:2]
            yield Rule(name, base, bounds, several, optional)
        elif form in (int, float, bool, str):
            yield Rule(name, form, Range() if form in (int, float) else None, several, optional)
