"""Calls of the command, with random commands, flags and values."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

from fuzzing.judging import require
from fuzzing.random_input import TEXT
from samix.cli.main import COMMANDS, main

FLAGS = ["--mixup", "--recipe", "--epochs", "--lr", "--data", "--seed", "--config", "--resume", "--device", "--size"]
FLAGS += ["--mixup.alpha", "--model-args", "--keep", "--max-skips", "--on-bad-image", "--save-every", "--nonsense"]
FLAGS += ["--method", "--limit", "--batch-size", "--debugg", "--help", "--precision", "--model", "--stem", "--loss"]


class SetUp(Exception):
    """A training was set up."""


def random_arguments(draw: random.Random, place: Path) -> list[str]:
    """A command line."""
    command = draw.choice([*COMMANDS, "train", "train", "pretrain", "evaluate", "frain"])
    arguments = [command] if draw.random() < 0.97 else []
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        if command in ("train", "pretrain") or draw.random() < 0.4:
            arguments.append(draw.choice(FLAGS))
        if draw.random() < 0.85:
            arguments.append(draw.choice(TEXT))
    if command in ("train", "pretrain"):
        return [*arguments, "--out", str(place / "runs"), "--device", "cpu", "--limit", "60", "--no-pretrained"]
    if command not in ("evaluate", "show", "mixer", "recipes", "frain"):
        return [*arguments, "--help"]  # long work, in commands that are tested elsewhere
    return arguments


def call_command(draw: random.Random, place: Path) -> None:
    """A command line ends by a status with one line, by its usage, or with a training set up."""
    arguments, told = random_arguments(draw, place), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SetUp:
            return
        except SystemExit as stop:
            require(stop.code in (0, 2), f"{arguments}: exit {stop.code}")
            require("Traceback" not in told.getvalue(), f"{arguments}: a traceback")
            if stop.code == 2:
                raise ValueError("usage") from None
            return
    said = told.getvalue().strip()
    if status != 0:
        if "unexpected" in said:
            raise RuntimeError(f"{arguments}: {said}")
        require(len(said.splitlines()) == 1, f"{arguments}: status {status} and more than one line: {said[:200]}")
        raise ValueError(said)


def no_steps(run: Any) -> Any:
    """In the place of a training."""
    raise SetUp
