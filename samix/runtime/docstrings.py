"""Arguments and errors that a base class describes, in the docstrings of the classes that derive from it."""

from __future__ import annotations

import inspect
import re

SECTION = r"^{}:\n((?:    .*(?:\n|$)|\n(?=    ))*)"


def inherit_args(cls: type[object]) -> None:
    """Adds to a class's docstring the arguments that its bases describe and it takes too, and their errors.

    ``__init_subclass__`` calls it, so that ``help``, the command and the pages show every argument.
    """
    if not vars(cls).get("__doc__"):
        return
    text = inspect.cleandoc(cls.__doc__ or "")
    docs = [inspect.cleandoc(b.__doc__) for b in cls.__mro__[1:] if b.__doc__ and not b.__module__.startswith("torch")]
    own, taken = _entries(text), _taken(cls)
    added: dict[str, str] = {}
    for doc in docs:
        added |= {n: entry for n, entry in _entries(doc).items() if n in taken and n not in own and n not in added}
    raises = next((match[0].rstrip() for doc in docs if (match := _section("Raises", doc))), "")
    if added:
        args = "Args:\n" + "\n".join([*own.values(), *added.values()])
        text = text.replace(match[0].rstrip(), args) if (match := _section("Args", text)) else _before_end(text, args)
    cls.__doc__ = text if _section("Raises", text) or not raises else _before_end(text, raises)


def _section(title: str, text: str) -> re.Match[str] | None:
    return re.search(SECTION.format(title), text, re.MULTILINE)


def _before_end(text: str, section: str) -> str:
    """Returns the text with one more section, before the sections that follow it in order."""
    later = re.search(r"^(Raises|Example):$" if section.startswith("Args") else r"^Example:$", text, re.MULTILINE)
    at = later.start() if later else len(text)
    return f"{text[:at].rstrip()}\n\n{section}\n\n{text[at:]}".rstrip()


def _entries(doc: str) -> dict[str, str]:
    """Returns the lines that describe each argument, by name."""
    match = _section("Args", doc)
    pieces = re.split(r"^    (\w+): ", match[1] if match else "", flags=re.MULTILINE)[1:]
    return {name: f"    {name}: {text.rstrip()}" for name, text in zip(pieces[::2], pieces[1::2], strict=True)}


def _taken(cls: type[object]) -> set[str]:
    """Returns the names of a class's arguments: of its signature, or of the fields a dataclass is about to have."""
    code = getattr(vars(cls).get("__init__", cls.__init__), "__code__", None)
    if not hasattr(cls, "__dataclass_fields__") or (code is not None and code.co_filename != "<string>"):
        return set(inspect.signature(cls).parameters)
    hints: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        hints |= {name: str(hint) for name, hint in vars(base).get("__annotations__", {}).items()}
    return {name for name, hint in hints.items() if "ClassVar" not in hint}
