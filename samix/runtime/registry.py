"""Registries of parts by name, which other packages and the user's own modules can extend."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from samix.runtime.checks import suggest

T = TypeVar("T")
MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_ALLOWED: set[str] = set()  # names that the user typed or allowed, in this process


class Registry(Mapping[str, T]):
    """Parts of one kind by name.

    Names come from three places: those registered here; entry points of installed packages, in the group
    ``samix.<kind>``; and ``package.module:Name``, which is imported only if the user typed or allowed it.

    Args:
        kind: what the parts are, as messages and entry points call them: ``mixups``, ``datasets``, ...
        entries: parts to start with, by name.

    Example:
        >>> colours: Registry[int] = Registry("colours", {"red": 1})
        >>> colours.register("blue", 2)
        >>> colours.resolve("blue", trusted=True)
        2
    """

    def __init__(self, kind: str, entries: Mapping[str, T] | None = None) -> None:
        self.kind = kind
        self._entries = dict(entries or {})

    def register(self, name: str, value: T) -> None:
        """Adds a part.

        Raises:
            ValueError: the name is taken, or it is not a plain word (letters, digits, ``-``, ``_``, ``.``).
        """
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"a name in {self.kind} has letters, digits, -, _ and . only, got {name!r}")
        if self._entries.get(name, value) is not value:
            raise ValueError(f"{self.kind} already has {name!r}; choose another name")
        self._entries[name] = value

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> T:  # type: ignore[override]
        """Returns the part registered under that name.

        Raises:
            ValueError: unknown name; the message suggests the one that was probably meant.
        """
        if name not in self._entries:
            raise ValueError(self.unknown(name))
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Returns all names: registered ones, then those of installed packages."""
        return (*self._entries, *(name for name in self._entry_points() if name not in self._entries))

    def resolve(self, name: str, *, trusted: bool) -> T:
        """Returns a part by its name, or by ``package.module:Name``.

        Args:
            name: registered name, entry point, or ``package.module:Name``.
            trusted: whether the user typed the name. If not, it comes from a file, and ``package.module:Name`` is
                refused unless the user typed it elsewhere or allowed it, see :func:`allow`.

        Raises:
            ValueError: unknown name, or an import that fails or is not allowed.
        """
        if name in self._entries:
            return self._entries[name]
        if MODULE_NAME.fullmatch(name):
            return self._imported(name, trusted)
        point = self._entry_points().get(name)
        if point is not None:
            value: T = point.load()
            return value
        raise ValueError(self.unknown(name))

    def unknown(self, name: str) -> str:
        """Returns the message about a name that is not known."""
        known = self.names()
        one = {"analyses": "analysis"}.get(self.kind, self.kind.removesuffix("s")).replace("_", " ")
        return (
            f"unknown {one} {name!r}; choose one of {', '.join(known)}, or your own as "
            f"package.module:Name{suggest(name, known)}"
        )

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=f"samix.{self.kind}")}

    def _imported(self, name: str, trusted: bool) -> T:
        if trusted:
            allow(name)
        if name not in _ALLOWED:
            raise ValueError(
                f"a file names {name} in {self.kind}, and samix does not import code because a file says so; if you "
                f"trust it, add --allow {name} to the command, or call samix.allow({name!r})"
            )
        module, _, attribute = name.partition(":")
        here = str(Path.cwd())
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)  # as python -m does: the user's own module is usually in the current folder
        try:
            value: T = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{name} cannot be imported: {error}") from error
        return value


def allow(name: str) -> None:
    """Allows that ``package.module:Name`` is imported in this process where a file names it.

    Raises:
        ValueError: not of that form.

    Example:
        >>> samix.allow("my_package.mixups:HalfMix")  # a recipe file may name it from now on
    """
    if not MODULE_NAME.fullmatch(name):
        raise ValueError(f"a part of your own is named as package.module:Name, got {name!r}")
    _ALLOWED.add(name)


def allow_typed(*words: str) -> None:
    """Allows those of the user's words that are names of the form ``package.module:Name``."""
    for word in filter(MODULE_NAME.fullmatch, words):
        allow(word)


def allowed() -> frozenset[str]:
    """Returns the names that the user typed or allowed, for processes that this one starts."""
    return frozenset(_ALLOWED)
