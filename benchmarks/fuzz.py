"""Calls samix with whatever comes: each call ends in a right result or in an error of one line.

    python benchmarks/fuzz.py --calls 10000 --seed 0 --out docs/results/fuzz.json

Kinds of calls, each drawn from random numbers alone, so that a seed and a number bring a failure back:

    mixup        any mixup with random options on a random batch: types, shapes, labels, lam, index; many wrong
    method       one step of a training method on such a batch
    checkpoint   a checkpoint that is cut, or has bytes changed, put in, taken out or zeroed
    target       labels of seven kinds through a mixup: the loss is the one that is written out image by image
    image        an image file of one of seven formats and many modes, damaged in the same ways
    predict      predictions of images of every mode, from the file and from the opened image; and of other things
    source       an export, whole, damaged or with other values, to load, predict and start from
    fit          `samix.fit` with networks and data of any kind; set up, but takes no step
    recipe       a file of recipe fields, JSON or YAML, with random fields and values, or no such file at all
    layout       a data set in a random tree of folders, files and lists
    command      a command line of random commands, flags and values; trainings are set up, but take no step

Outcomes: *right*: the result has the type, shape and range it must have, and holds no NaN that the input had not; a
checkpoint or an image is what was written. *error*: a ValueError, TypeError or OSError with one line, or the command's
one line and status, or its usage. *traceback*: any other exception. *silent*: a wrong result and no error.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from fuzzing.command_calls import call_command, no_steps
from fuzzing.file_calls import call_checkpoint, call_image, call_layout, call_recipe
from fuzzing.judging import KINDS, Call, judge
from fuzzing.mixing_calls import call_method, call_mixup
from fuzzing.source_calls import call_fit, call_predict, call_source
from fuzzing.target_calls import call_target

import samix.train

CALLS: dict[str, tuple[Call, int]] = {  # and how often each is made, relative to the others
    "mixup": (call_mixup, 40),
    "method": (call_method, 8),
    "target": (call_target, 14),
    "checkpoint": (call_checkpoint, 9),
    "image": (call_image, 8),
    "predict": (call_predict, 5),
    "source": (call_source, 5),
    "fit": (call_fit, 2),
    "recipe": (call_recipe, 6),
    "layout": (call_layout, 2),
    "command": (call_command, 1),
}


def table(counts: dict[str, collections.Counter[str]], seconds: dict[str, float]) -> str:
    """Outcomes by kind of call, and the rate."""
    lines = ["| call | calls | " + " | ".join(KINDS) + " | ms a call |", "|---|" + "---|" * (len(KINDS) + 2)]
    for name, count in counts.items():
        number = sum(count.values())
        cells = " | ".join(str(count[kind]) for kind in KINDS)
        lines.append(f"| {name} | {number} | {cells} | {1000 * seconds[name] / max(number, 1):.1f} |")
    total = sum(counts.values(), collections.Counter[str]())
    lines.append(f"| all | {sum(total.values())} | " + " | ".join(str(total[kind]) for kind in KINDS) + " | |")
    return "\n".join(lines)


def drawn(seed: int, number: int, names: list[str]) -> tuple[str, random.Random]:
    """The kind of a call, and the numbers it is made from."""
    draw = random.Random(f"{seed}-{number}")
    return draw.choices(names, [CALLS[n][1] for n in names])[0], draw


def one_call(seed: int, number: int, names: list[str]) -> int:
    """Makes a call without a net: what it raises is raised."""
    name, draw = drawn(seed, number, names)
    torch.manual_seed(draw.randrange(1 << 30))
    print(f"call {number} of seed {seed}: {name}")
    with tempfile.TemporaryDirectory(prefix="samix-fuzz-") as temporary:
        CALLS[name][0](draw, Path(temporary))
    return 0


def run() -> int:
    """Makes the calls, prints the table, writes JSON; 1 if there was a traceback or a silent failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(CALLS), help="some of them, parted by commas")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0 makes all calls")
    parser.add_argument("--call", type=int, default=-1, help="make the call of this number alone, and show its error")
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    arguments = parser.parse_args()
    names = arguments.kinds.split(",")
    samix.train.Run.fit = no_steps  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    if arguments.call >= 0:
        return one_call(arguments.seed, arguments.call, names)
    counts = {name: collections.Counter[str]() for name in names}
    seconds, failures, started = dict.fromkeys(names, 0.0), dict[str, dict[str, Any]](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="samix-fuzz-") as temporary:
        for number in range(arguments.calls):
            if arguments.minutes and time.monotonic() - started > 60 * arguments.minutes:
                break
            name, draw = drawn(arguments.seed, number, names)
            began = time.monotonic()
            outcome = judge(CALLS[name][0], draw, Path(temporary))
            seconds[name] += time.monotonic() - began
            counts[name][outcome.kind] += 1
            if outcome.kind in ("traceback", "silent"):
                found = failures.setdefault(f"{name}: {outcome.words[:110]}", {"number": number, "times": 0})
                found["times"] += 1
    print(table(counts, seconds))
    total = sum(sum(count.values()) for count in counts.values())
    print(f"{total} calls in {time.monotonic() - started:.0f} s; seed {arguments.seed}")
    for words, found in sorted(failures.items(), key=lambda item: -item[1]["times"]):
        print(f"  {found['times']} x {words}   (first: call {found['number']})")
    if arguments.out is not None:
        content = {"calls": total, "seed": arguments.seed, "outcomes": counts, "failures": failures}
        arguments.out.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run())
