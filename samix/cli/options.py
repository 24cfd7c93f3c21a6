"""Command lines as dataclasses: tyro reads them; a mistake becomes one line, and help is short unless asked for all."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro

from samix.runtime.checks import Values, suggest

T = TypeVar("T")
HELP_ALL = "--help-all"


class UsageError(ValueError):
    """A command line that cannot be read; the exit status is 2."""


def read(
    cls: type[T],
    arguments: Sequence[str],
    prog: str,
    *,
    description: str | None = None,
    default: T | None = None,
    common: Collection[str] = (),
) -> T:
    """Reads a dataclass from a command line; prints help and exits if the words ask for it.

    Args:
        cls: a dataclass whose docstring has an ``Args`` section.
        arguments: the words after the command.
        prog: the command, as it is typed.
        description: for its help; None is the docstring.
        default: values of what is not given; None takes those of the class.
        common: options that ``--help`` shows, without dashes; ``--help-all`` shows all of them. Empty shows all.

    Raises:
        UsageError: an unknown option, a missing value, or one of another type.
        ValueError: the class refuses a value.
        SystemExit: help was asked for.
    """
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:")[0]
    options: Values = {
        "prog": prog,
        "config": (tyro.conf.SuppressFixed, tyro.conf.PositionalMetavarFromFieldName),
        "description": " ".join((text if description is None else description).replace("``", "`").split()),
    }
    if default is not None:
        options["default"] = default
    asked = {"-h", "--help", HELP_ALL} & set(arguments)
    if not asked:
        with one_line(prog, lambda: re.findall(r"^  (--[\w.-]+)", help_text(cls, options, prog), re.MULTILINE)):
            result: T = tyro.cli(cls, args=arguments, **options)
            return result
    print(help_text(cls, options, prog, () if HELP_ALL in asked else common))
    raise SystemExit(0)


def read_known(cls: type[T], arguments: Sequence[str], prog: str) -> tuple[T, list[str]]:
    """Reads the options of a dataclass, and returns it with all other words in their order."""
    with one_line(prog, list):
        return tyro.cli(cls, args=arguments, prog=prog, return_unknown_args=True, add_help=False)


@contextlib.contextmanager
def one_line(prog: str, known: Callable[[], Collection[str]]) -> Iterator[None]:
    """Turns tyro's report of a mistake into an error of one line."""
    printed, report = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(report):
            yield
    except SystemExit as stop:
        if stop.code in (0, None):  # completions
            print(printed.getvalue())
            raise
        raise UsageError(mistake(report.getvalue(), known, prog)) from None


def help_text(cls: type[object], options: Values, prog: str, common: Collection[str] = ()) -> str:
    """Returns the help of a command: of the common options, or of all."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"], **{**options, "description": ""})
    text = re.sub(r"``|:(class|func|meth):(?=`)|\s\(default: (?:'')?\)", "", page.getvalue())
    usage = re.sub(r"\s+", " ", text.partition("\n\n")[0].replace("[-h] ", ""))
    groups = re.split(r"^ (\S.*)\n -+ *$", text, flags=re.MULTILINE)[1:]
    width = min(shutil.get_terminal_size().columns, 100)
    lines = [usage, "", *textwrap.wrap(options["description"], width)]
    for title, body in zip(groups[::2], groups[1::2], strict=True):
        rows = [match.groups() for match in ROW.finditer(body) if set(match[1]) != {"-"}]
        positional = title.startswith("positional")
        about = " ".join(f"{row[0]} {row[2]}" for row in rows if row[1] is None and not positional)
        rows = [row for row in rows if row[1] in common or (not common and row[1]) or positional]
        if rows:
            lines += ["", *textwrap.wrap(f"{title.strip().removesuffix(' options')}: {' '.join(about.split())}", width)]
        for flags, _, explained in rows:
            flags = re.sub(r"--((?:[\w-]+\.)*)([\w-]+), --\1no-\2", r"--\1[no-]\2", flags.strip())
            lines += entry(flags, explained, width)
    return "\n".join([*lines, *(["", f"All options: {prog} {HELP_ALL}"] if common else [])])


# An option as tyro's help prints it: its flags and the type in a line, and what it does, there or in further lines.
ROW = re.compile(r"^  (?! )((?:-\w[^,\n]*, )?(?:--([\w.-]+))?(?:\S| (?! ))*)((?:  .*)?(?:\n {6,}.*)*)", re.MULTILINE)


def entry(flags: str, explained: str, width: int) -> list[str]:
    """Returns the lines of help about an option."""
    lines = textwrap.wrap(" ".join(explained.split()), width, initial_indent=" " * 26, subsequent_indent=" " * 26)
    if len(flags) > 23 or not lines:
        return [f"  {flags}", *lines]
    return [f"  {flags:24}{lines[0].strip()}", *lines[1:]]


def mistake(report: str, known: Callable[[], Collection[str]], prog: str) -> str:
    """Returns a mistake that tyro reports, as one line with the option that was probably meant."""
    parts = re.split(r"^ *-{10,} *$", report, flags=re.MULTILINE)  # title, message, hints
    message = " ".join(parts[1].split()) if len(parts) > 1 else "the options cannot be read"
    more = f"({prog} {HELP_ALL} explains all options)"
    if message.startswith("Unrecognized options:"):
        words = message.partition(":")[2].replace(",", " ").split()
        flags = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not flags:
            meant = f"; did you mean --data {words[0]}?" if Path(words[0]).exists() and "--data" in known() else ""
            return f"{' '.join(words)!r} is not expected here{meant} {more}"
        return f"unknown option {', '.join(flags)}{suggest(flags[0], known())} {more}"
    if message.startswith("Missing from ") and "(required)" in message:
        missing = message.partition(": ")[2].replace("``", "").split("(required)")[0]
        name, _, meaning = missing.strip(" .").partition(" ")
        return f"{name} is missing: {meaning} {more}"
    if match := re.match(r"Missing value for argument '(.+)'", message):
        return f"{match[1]} needs a value {more}"
    if match := re.match(r"invalid choice (.*) for argument '(.+)'\. Expected one of \((.*)\)", message):
        return f"{match[2]} must be one of {match[3].replace(chr(39), '')}; got {match[1]} {more}"
    if match := re.match(
        r"Error parsing (--\S+): (?:invalid literal for int|could not convert string to float).*: (.*)", message
    ):
        return f"{match[1]} must be a {'whole ' if 'int()' in message else ''}number, got {match[2]}"
    if match := re.match(
        r"Error parsing (--\S+): no type matching .*(?:(int\(\).*)|to float): ('[^']*')", message
    ):  # the type of an option that may be None
        return f"{match[1]} must be a {'whole ' if match[2] else ''}number, or None, got {match[3]}"
    if match := re.match(r"Error parsing (--\S+): Could not find valid parse for arguments: \[(.*)\]", message):
        return f"{match[1]} takes numbers, got {match[2]}"
    if match := re.match(r"Error parsing (\w+)(-options)?: (.*)", message):
        return f"--{match[1]}.{match[3]}" if match[2] else match[3]
    return f"{message.rstrip('.')} {more}"


def options_type(owner: type[Any]) -> type[Any]:
    """Returns the dataclass that is read for ``owner``: without its keyword-only and ``init=False`` fields."""
    hidden = [f for f in dataclasses.fields(owner) if (f.kw_only if f.init else f.default is not dataclasses.MISSING)]
    if not hidden:
        return owner
    none: Any = dataclasses.field(default=None, kw_only=True)
    own: Any = {f.name: none if f.init else dataclasses.field(default=f.default, init=False) for f in hidden}
    fields = [(name, Annotated[object, tyro.conf.Suppress], field) for name, field in own.items()]
    frozen = any(
        vars(base)["__dataclass_params__"].frozen for base in owner.__mro__ if "__dataclass_params__" in vars(base)
    )
    made = dataclasses.make_dataclass(owner.__name__, fields, bases=(owner,), frozen=frozen)
    made.__doc__ = owner.__doc__
    return made


def plain_options(options: Any) -> Values:
    """Returns the options as plain values: of the fields that are neither keyword-only nor ``init=False``."""
    return {
        f.name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        for f in dataclasses.fields(options)
        if f.init and not f.kw_only
        for value in [getattr(options, f.name)]
    }


def generator_of(cls: type[Any]) -> Values:
    """Returns a generator for a mixup that is made for its options only, so that it draws no seed."""
    return {"generator": torch.Generator()} if "generator" in {f.name for f in dataclasses.fields(cls)} else {}
