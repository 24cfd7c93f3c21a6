"""The list of mutants: its lines, and what in the tree they belong to. See ``mutate.py``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from _pytest.mark.expression import Expression


@dataclass(frozen=True)
class Mutant:
    """One change of one line.

    Args:
        file: relative to the root.
        old: text that occurs once in the file.
        new: what takes its place.
        tests: arguments of pytest.
        reason: why the mutant is equivalent; empty for one that tests should catch.
    """

    file: str
    old: str
    new: str
    tests: str
    reason: str = ""


def read_list(text: str) -> list[Mutant]:
    """Parses the list.

    Raises:
        ValueError: a line that is none of the three kinds, or an expression that pytest cannot read; names the line.
    """
    mutants, file, tests = [], "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("# "):
            continue
        if line.startswith("@ "):
            file, _, tests = (part.strip() for part in line[2:].partition("|"))
            try:
                Expression.compile(expression_of(tests))
            except SyntaxError:
                raise ValueError(
                    f'line {number} has an expression that pytest cannot read; write: files -k "..."'
                ) from None
            continue
        change, _, reason = line.partition("  ## ")
        old, arrow, new = change.partition(" ==> ")
        if not (arrow and file and old.strip()) or old == new:
            raise ValueError(f"line {number} is no mutant: {line!r}; write: old text ==> new text")
        mutants.append(Mutant(file, old, new.rstrip(), tests, reason.strip()))
    return mutants


def files_of(tests: str) -> list[str]:
    """The test files that arguments of pytest name."""
    return tests.partition(" -k ")[0].split()


def expression_of(tests: str) -> str:
    """Returns the expression after ``-k`` in arguments of pytest; empty where there is none."""
    return tests.partition(" -k ")[2].strip().removeprefix('"').removesuffix('"')


def occurrences(mutant: Mutant, root: Path) -> int:
    """Counts the old text in its file; 0 where the file is missing."""
    path = root / mutant.file
    return path.read_text().count(mutant.old) if path.is_file() else 0


def source_hash(mutant: Mutant, root: Path) -> str:
    """Hashes the source file and the test files of a mutant."""
    names = [mutant.file, *files_of(mutant.tests)]
    found = hashlib.blake2b(digest_size=8)
    for name in names:
        path = root / name
        found.update(path.read_bytes() if path.is_file() else b"missing")
    return found.hexdigest()
