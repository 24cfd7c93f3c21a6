"""What a step without labels costs with each mixup beside MoCo, as a ratio to a plain step of MoCo.

Steps of all are interleaved in one process, so that a slow minute of the machine hits all alike; medians and quartiles
of the ratio to MoCo's step of the same round are printed and written as JSON. On a CPU it is processor time, of all
threads, so that busy neighbours do not count.

    python benchmarks/pretrain_cost.py --batch 64 --rounds 10 --memory

Columns: *counted* is the ratio of floating-point operations, counted as they run; by hand MoCo has 4 passes (3 of the
query encoder with its backward pass, 1 of the keys), any mixup 3 more, SAMix-I 6 more and four small passes of the
Mixer. *above* is the measured ratio over the counted one. *MiB* is the peak of memory above what the networks take: on
a GPU by its allocator, on a CPU (``--memory``) by the resident set of a process that runs this step alone.

SAMix-C is measured with clusters that are there, of as many images as ``--images`` says: how often centroids and small
clusters are seen to hangs on the length of an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step_cost import DTYPES, counted, resident_peak

from samix.checkpoint import versions
from samix.engine import device_name
from samix.optim import build_optimizer
from samix.pretraining import LEARNED, PretrainRecipe, build_pretraining

MIXUPS = ("vanilla", "mixup", "samix", "samix-c")  # of which the first is MoCo alone


def make_step(mixup: str, arguments: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """One whole training step on fixed random views: forward, backward, optimiser, momentum, queue."""
    recipe = PretrainRecipe(
        model=arguments.model,
        size=arguments.size,
        stem=arguments.stem,
        method_options={"preset": "cifar", "queue": arguments.batch * 16},
        mixup=mixup,
        mixup_options={"clusters": arguments.clusters, "warmup_epochs": 0} if mixup == "samix-c" else {},
        batch_size=arguments.batch,
        lr=0.06,
        mixer_lr=0.02 if mixup in LEARNED else None,
        channels_last=arguments.channels_last,
    )
    torch.manual_seed(0)
    method: Any = build_pretraining(recipe, arguments.images).to(device).train()
    if mixup == "samix-c":
        method.mixing.clusters.initialise(clustered(arguments.images, arguments.clusters).to(device))
    optimizer = build_optimizer(method, recipe)
    views = torch.randn(2, arguments.batch, 3, arguments.size, arguments.size, device=device)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    view_q, view_k = (view.contiguous(memory_format=layout) for view in views)
    dtype = DTYPES[arguments.dtype]

    def step() -> None:
        ids = torch.randint(arguments.images, (arguments.batch,)).to(device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss, _ = method((view_q, view_k, ids))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.05)

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step: of the processor on a CPU, of the clock on a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def clustered(images: int, clusters: int, dim: int = 128) -> torch.Tensor:
    """Features (N, D) that lie around so many centres."""
    centres = torch.randn(clusters, dim)
    return centres[torch.arange(images) % clusters] + 0.3 * torch.randn(images, dim)


def peak_memory(mixup: str, arguments: argparse.Namespace, device: torch.device) -> float:
    """Peak memory of a step in MiB, above what was there before; 0 where it was not asked for."""
    if device.type == "cuda":
        step = make_step(mixup, arguments, device)
        for _ in range(2):  # the optimiser's state
            step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not arguments.memory:
        return 0.0
    words = [word for word in sys.argv[1:] if word != "--memory"]
    command = [sys.executable, __file__, *words, "--memory-of", mixup]
    # Large blocks go back to the system when they are freed, so that the resident set is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, dict[str, object]]:
    """Every mixup's figures; prints the table."""
    steps = {name: make_step(name, arguments, device) for name in arguments.mixups}
    flops: dict[str, float] = {}
    for name, step in steps.items():
        step()  # warm up: allocations, kernel choices
        flops[name] = counted(step, 1)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, device))
    results: dict[str, dict[str, object]] = {}
    print(f"{'MoCo and':20}{'seconds':>9}{'ratio':>8}{'quartiles':>14}{'counted':>9}{'above':>7}{'MiB':>8}")
    for name, values in seconds.items():
        ratios = [v / base for v, base in zip(values, seconds["vanilla"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        floor = flops[name] / flops["vanilla"]
        memory = peak_memory(name, arguments, device)
        results[name] = {
            "seconds": statistics.median(values),
            "ratio": middle,
            "quartiles": [low, high],
            "counted": floor,
            "gigaflops": flops[name] / 1e9,
            "above": middle / floor - 1,
            "mebibytes": memory,
        }
        row = f"{name:20}{statistics.median(values):9.4f}{middle:8.3f}{low:8.3f}-{high:.3f}"
        print(f"{row}{floor:9.3f}{100 * (middle / floor - 1):6.0f}%{memory:8.0f}", flush=True)
    return results


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--stem", default="small")
    parser.add_argument("--batch", type=int, default=64, help="a multiple of 8, of the groups of split BatchNorm")
    parser.add_argument("--images", type=int, default=50_000, help="of the training set, for the clusters")
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mixups", nargs="+", default=list(MIXUPS))
    parser.add_argument("--memory", action="store_true", help="measure memory on a CPU too, a process for each")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.mixups[0] != "vanilla":
        parser.error("the first of --mixups must be vanilla, MoCo alone, which the ratios refer to")
    return arguments


def main() -> None:
    """Measures, prints a table, writes JSON."""
    arguments = parse()
    device = torch.device(arguments.device)
    if arguments.memory_of:
        print(resident_peak(make_step(arguments.memory_of, arguments, device)))
        return
    print(f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, {arguments.dtype}, {device_name(device)}")
    results = measure(arguments, device)
    if arguments.out is not None:
        record = {
            "arguments": {k: str(v) for k, v in vars(arguments).items()},
            "device": device_name(device),
            "versions": versions(),
            "results": results,
        }
        arguments.out.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
