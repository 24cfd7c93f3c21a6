"""The command line, the measurements and the table that `step_cost.py` and `pretrain_cost.py` share."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Call,
    allocated_peak,
    counted,
    interleaved,
    quartiles,
    ratios,
    resident_peak,
    resident_peak_alone,
    save,
    timed,
)

from samix.methods.base import Method
from samix.runtime.environment import device_name

DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
PLAIN = "vanilla"  # the first of all mixups, which the ratios refer to


@dataclass(frozen=True)
class Comparison:
    """Steps that are compared with a plain one, and how.

    Args:
        make_step: a whole training step, given a mixup's name, the command line and the device.
        title: of the table's first column.
        width: of that column.
        cycle: steps that are timed and counted together.
        warm_up: steps before the one whose memory is measured on a GPU.
    """

    make_step: Callable[[str, argparse.Namespace, torch.device], Call]
    title: str
    width: int
    cycle: int = 1
    warm_up: int = 1


def step_parser(
    description: str | None, batch: int, batch_help: str | None, mixups: Sequence[str]
) -> argparse.ArgumentParser:
    """The options of both scripts, with their own defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--stem", default="small")
    parser.add_argument("--batch", type=int, default=batch, help=batch_help)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mixups", nargs="+", default=list(mixups))
    parser.add_argument("--memory", action="store_true", help="measure memory on a CPU too, a process for each")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None)
    return parser


def training_step(
    method: Method, optimizer: torch.optim.Optimizer, batch: Callable[[], Any], arguments: argparse.Namespace
) -> Call:
    """Forward, backward, optimiser, and what a method does after each step, on what ``batch`` gives."""
    device, dtype = torch.device(arguments.device), DTYPES[arguments.dtype]

    def step() -> None:
        given = batch()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss, _ = method(given)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.05)

    return step


def headline(arguments: argparse.Namespace, device: torch.device) -> str:
    """The line above the table: what is measured, and where."""
    return f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, {arguments.dtype}, {device_name(device)}"


def compare(comparison: Comparison, arguments: argparse.Namespace) -> None:
    """Measures, prints the table, writes JSON; or prints one step's memory, where this process is for that alone."""
    device = torch.device(arguments.device)
    if arguments.memory_of:
        print(resident_peak(comparison.make_step(arguments.memory_of, arguments, device)))
        return
    print(headline(arguments, device))
    save(arguments, device, measure(comparison, arguments, device))


def measure(
    comparison: Comparison, arguments: argparse.Namespace, device: torch.device
) -> dict[str, dict[str, object]]:
    """Every mixup's figures; prints the table."""
    steps = {name: comparison.make_step(name, arguments, device) for name in arguments.mixups}
    flops: dict[str, float] = {}
    for name, step in steps.items():
        step()  # warm up: allocations, kernel choices
        flops[name] = counted(step, comparison.cycle)
    seconds = interleaved(steps, arguments.rounds, partial(timed, device=device, repeats=comparison.cycle))
    results: dict[str, dict[str, object]] = {}
    column = f"{comparison.title:{comparison.width}}"
    print(f"{column}{'seconds':>9}{'ratio':>8}{'quartiles':>14}{'counted':>9}{'above':>7}{'MiB':>8}")
    for name, values in seconds.items():
        low, middle, high = quartiles(ratios(values, seconds[PLAIN]))
        floor = flops[name] / flops[PLAIN]
        memory = peak_memory(name, comparison, arguments, device)
        above = middle / floor - 1
        results[name] = {
            "seconds": statistics.median(values),
            "ratio": middle,
            "quartiles": [low, high],
            "counted": floor,
            "gigaflops": flops[name] / 1e9,
            "above": above,
            "mebibytes": memory,
        }
        row = f"{name:{comparison.width}}{statistics.median(values):9.4f}{middle:8.3f}{low:8.3f}-{high:.3f}"
        print(f"{row}{floor:9.3f}{100 * above:6.0f}%{memory:8.0f}", flush=True)
    return results


def peak_memory(name: str, comparison: Comparison, arguments: argparse.Namespace, device: torch.device) -> float:
    """Peak memory of a step in MiB, above what the networks and the batch take; 0 where it was not asked for."""
    if device.type == "cuda":
        return allocated_peak(comparison.make_step(name, arguments, device), comparison.warm_up)
    return resident_peak_alone(name) if arguments.memory else 0.0
