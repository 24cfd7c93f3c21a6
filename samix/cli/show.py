"""``samix show``: draws mixed pairs of images over lambda, or every mixup on a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from samix.cli.options import read
from samix.runtime.registry import allow_typed


def show(arguments: list[str]) -> int:
    """Runs ``samix show``; with --html it writes a page of all mixups."""
    if any(argument.partition("=")[0] == "--html" for argument in arguments):
        from samix.viz.playground import Playground

        print(read(Playground, arguments, "samix show").write())
        return 0
    from samix.train.checkpoint import newest_of
    from samix.viz.show import Show

    asked = read(Show, arguments, "samix show")
    allow_typed(asked.source)
    run = Path(asked.source)
    print(dataclasses.replace(asked, source=str(newest_of(run)) if run.is_dir() else asked.source).write())
    return 0
