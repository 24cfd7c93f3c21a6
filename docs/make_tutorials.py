"""Runs the tutorials in docs/tutorials and writes their pages: text, code, output and pictures.

A tutorial is a Python script in jupytext's percent format: ``# %% [markdown]`` begins text, ``# %%`` begins code.
``jupytext --to ipynb docs/tutorials/NAME.py`` makes a notebook of it.

    python docs/make_tutorials.py [NAME ...]
"""

import argparse
import ast
import contextlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib

FOLDER = Path(__file__).parent / "tutorials"
MARKDOWN, CODE = "markdown", "code"
DPI = 100
NO_VERSION = {"Software": ""}


@dataclass(frozen=True)
class Cell:
    """A part of a tutorial: its kind, its text without comment signs, and the number of its first line."""

    kind: str
    text: str
    line: int


def cells(script: Path) -> Iterator[Cell]:
    """The cells of a script.

    Raises:
        ValueError: it does not begin with a cell.
    """
    lines = script.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"# %%", line)]
    if not starts or starts[0] != 0:
        raise ValueError(f"{script} must begin with a line '# %% [markdown]'")
    for first, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        kind = MARKDOWN if "[markdown]" in lines[first] else CODE
        body = lines[first + 1 : end]
        if kind == MARKDOWN:
            body = [line.removeprefix("#").removeprefix(" ") for line in body]
        yield Cell(kind, "\n".join(body).strip("\n"), first + 1)


def run_code(cell: Cell, script: Path, names: dict[str, object]) -> str:
    """Runs a cell as a notebook does, and returns what it prints; the value of a last expression is printed too."""
    tree = ast.parse("\n" * cell.line + cell.text, filename=str(script))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(tree, str(script), "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), str(script), "eval"), names)
            if value is not None:
                print(repr(value))
    return printed.getvalue().strip("\n")


def run(script: Path, pictures: Path) -> str:
    """Runs a tutorial in an empty folder and returns its page; its pictures are written into ``pictures``."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names: dict[str, object] = {"__name__": "__main__"}
    page, count, before = [], 0, Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for cell in cells(script):
                if cell.kind == MARKDOWN:
                    page.append(cell.text)
                    continue
                page.append(f"```python\n{cell.text}\n```")
                if printed := run_code(cell, script, names):
                    page.append(f"```text\n{printed}\n```")
                for number in pyplot.get_fignums():
                    count += 1
                    name = f"{script.stem}-{count}.png"
                    pyplot.figure(number).savefig(
                        pictures / name, dpi=DPI, bbox_inches="tight", metadata={"Software": ""}
                    )
                    page.append(f"![Output of the code above]({name})")
                pyplot.close("all")
        finally:
            pyplot.close("all")
            os.chdir(before)
    note = f"*Made by `python docs/make_tutorials.py {script.stem}` from `docs/tutorials/{script.name}`.*"
    return "\n\n".join([*page, note]) + "\n"


def scripts() -> list[Path]:
    """All tutorials."""
    return sorted(FOLDER.glob("*.py"))


def main() -> None:
    """Reads the command line, runs, and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="tutorials to run; all without")
    given = parser.parse_args()
    for script in scripts():
        if not given.names or script.stem in given.names:
            for old in FOLDER.glob(f"{script.stem}-*.png"):
                old.unlink()
            script.with_suffix(".md").write_text(run(script.resolve(), FOLDER.resolve()), encoding="utf-8")


if __name__ == "__main__":
    main()
