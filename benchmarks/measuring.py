"""What the scripts that measure share: time in turn, counted operations, peak memory, results as JSON."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from processes import own_kibibytes

from samix.compare.cost import counted as counted
from samix.runtime.environment import device_name, versions

Call = Callable[[], object]
Key = TypeVar("Key")


# ---------------------------------------------------------------------------------------------------------------------
# Time and operations.


def timed(call: Call, device: torch.device, clock: Callable[[], float] | None = None, repeats: int = 1) -> float:
    """Seconds of a call, mean of so many in a row.

    Args:
        call: what is timed.
        device: where it works; a GPU is waited for before and after.
        clock: None is the clock's time on a GPU, and on a CPU the processor's, of all threads, which other processes
            disturb far less.
        repeats: calls in a row.
    """
    gpu = device.type == "cuda"
    clock = clock or (time.perf_counter if gpu else time.process_time)
    if gpu:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        call()
    if gpu:
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def interleaved(
    calls: Mapping[Key, Call], rounds: int, seconds_of: Callable[[Call], float], order: random.Random | None = None
) -> dict[Key, list[float]]:
    """Seconds of each call in each round, all in turn, so that a slow minute of the machine hits all alike.

    Args:
        calls: by name.
        rounds: how often each is called.
        seconds_of: calls one of them, and measures it.
        order: draws the order anew in each round; None keeps theirs.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key in calls if order is None else order.sample(list(calls), len(calls)):
            seconds[key].append(seconds_of(calls[key]))
    return seconds


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper one; three times the value where there is one alone."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [*values] * 3
    return low, middle, high


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each value over the one of the same round."""
    return [value / other for value, other in zip(values, base, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# Memory, in MiB above what was there before a step.


def allocated_peak(step: Call, warm_up: int) -> float:
    """Peak of the GPU's allocator over a step, after so many that make the optimiser's state."""
    for _ in range(warm_up):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def resident_peak(step: Call) -> float:
    """Peak of this process's resident set over a step; needs /proc."""
    for _ in range(3):
        step()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = own_kibibytes("VmRSS")
    for _ in range(2):
        step()
    return (own_kibibytes("VmHWM") - before) / 1024


def resident_peak_alone(name: str) -> float:
    """What this very command prints last, in a process of its own, when it is asked for ``--memory-of`` a step."""
    command = [sys.executable, *(word for word in sys.argv if word != "--memory"), "--memory-of", name]
    # Large blocks go back to the system when they are freed, so that the resident set is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


# ---------------------------------------------------------------------------------------------------------------------


def save(arguments: argparse.Namespace, device: torch.device, results: Any) -> None:
    """Writes results as JSON where ``--out`` says, with the machine and all arguments beside them."""
    if arguments.out is None:
        return
    record = {
        "arguments": {k: str(v) for k, v in vars(arguments).items()},
        "device": device_name(device),
        "versions": versions(),
        "results": results,
    }
    arguments.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
