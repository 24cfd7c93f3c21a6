"""What a training step costs with each mixup, as a ratio to a plain step.

Steps of all methods, four of each at a time, are interleaved in one process, so that a slow minute of the machine hits
all alike; medians and quartiles of the ratio to the plain steps of the same round are printed and written as JSON. On a
CPU the processor's time is taken, which other processes disturb far less than the clock's.

    python benchmarks/step_cost.py --model resnet18 --size 32 --stem small --batch 100 --dtype float32

A mixup may carry options: ``samix:clean_share=0.5,generator_every=4``. A frozen Mixer (SAMix^P, mixed loss only) is
written ``frozen:ENCODER``, or ``frozen:ENCODER@SIDE`` to encode at that side in pixels; its weights are new, which
costs the same.

Columns: *counted* is the ratio of floating-point operations, counted as they run, mean of four steps; *above* is the
measured ratio over the counted one: what is spent on anything but convolutions and matrix products. *MiB* is the peak
of memory above what the networks take: on a GPU by its allocator, on a CPU (``--memory``) by the resident set of a
process that runs this step alone. ``--profile NAME`` prints what a step's time goes to, against a plain step's.

Bfloat16 on a virtual CPU that advertises AMX without having it ends in an illegal instruction; then set
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from samix.build import build_method, build_network
from samix.checkpoint import versions
from samix.engine import device_name
from samix.methods.base import Method
from samix.methods.supervised import Supervised
from samix.mixups.frozen import Mixer
from samix.optim import build_optimizer
from samix.recipes import Recipe
from samix.sharing import mixer_network

DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
CYCLE = 4  # steps: in every fourth the momentum copy's clean pass is whole, in some only the Mixer is trained


def make_step(mixup: str, arguments: argparse.Namespace, device: torch.device) -> tuple[Method, Callable[[], None]]:
    """A method and one whole training step of it on fixed random images: forward, backward, optimiser, averaging."""
    name, _, text = (mixup, "", "") if mixup.startswith("frozen:") else mixup.partition(":")
    recipe = Recipe(
        model=arguments.model,
        size=arguments.size,
        stem=arguments.stem,
        mixup=name,
        mixup_options={
            key: value_of(value) for key, _, value in (part.partition("=") for part in text.split(",") if part)
        },
        batch_size=arguments.batch,
        channels_last=arguments.channels_last,
    )
    torch.manual_seed(0)
    if mixup.startswith("frozen:"):
        plain = dataclasses.replace(recipe, mixup="vanilla")
        network: torch.nn.Module = build_network(plain, arguments.classes)
        if arguments.channels_last:
            network = network.to(memory_format=torch.channels_last)
        method: Method = Supervised(network, frozen_mixer(mixup, recipe), num_classes=arguments.classes)
        method = method.to(device).train()
    else:
        method = build_method(recipe, arguments.classes).to(device).train()
    optimizer = build_optimizer(method, recipe)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    if arguments.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(arguments.classes, (arguments.batch,), device=device)
    dtype = DTYPES[arguments.dtype]
    if arguments.compile:
        method.compile_parts()

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss, _ = method((images, labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.05)

    return method, step


def value_of(text: str) -> float | str:
    """A number where it is one."""
    try:
        value = float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text, text)
    return int(value) if value.is_integer() and "." not in text else value


def frozen_mixer(name: str, recipe: Recipe) -> Mixer:
    """A frozen Mixer with new weights: SAMix's, on the encoder of ``frozen:ENCODER@SIDE``."""
    encoder, _, side = name.removeprefix("frozen:").partition("@")
    method = build_method(dataclasses.replace(recipe, mixup="samix", model=encoder), 10)
    network = mixer_network(method, dataclasses.replace(recipe, model=encoder), (0.5,) * 3, (0.2,) * 3, {})
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return Mixer(network=network, encode_size=int(side or 0))


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of a step, mean of a cycle: by the clock on a GPU, of the processor (all threads) on a CPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(CYCLE):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / CYCLE


def peak_memory(name: str, arguments: argparse.Namespace, device: torch.device) -> float:
    """Peak memory of a step in MiB, above what the networks and the batch take; 0 where it was not asked for."""
    if device.type == "cuda":
        step = make_step(name, arguments, device)[1]
        step()  # the optimiser's state
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not arguments.memory:
        return 0.0
    words = [word for word in sys.argv[1:] if word != "--memory"]
    command = [sys.executable, __file__, *words, "--memory-of", name]
    # Large blocks go back to the system when they are freed, so that the resident set is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def resident_peak(step: Callable[[], None]) -> float:
    """Peak of this process's resident set over a step in MiB, above what it was before; needs /proc."""
    for _ in range(3):
        step()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = kibibytes("VmRSS")
    for _ in range(2):
        step()
    return (kibibytes("VmHWM") - before) / 1024


def kibibytes(field: str) -> int:
    """A line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def counted(step: Callable[[], None], steps: int) -> float:
    """Floating-point operations of a step, mean of so many."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(steps):
            step()
    return counter.get_total_flops() / steps


def profile(step: Callable[[], None], reference: Callable[[], None], device: torch.device) -> None:
    """Prints the operators on which a step spends more than ``reference``, in milliseconds."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    tables = []
    for run in (step, reference):
        run()
        with torch.profiler.profile(activities=kinds) as profiler:
            run()
        on_gpu = device.type == "cuda"
        tables.append(
            {e.key: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) for e in profiler.key_averages()}
        )
    own, other = tables
    extra = sorted(((own[key] - other.get(key, 0.0), key) for key in own), reverse=True)
    total = sum(own.values()) - sum(other.values())
    print(f"a step takes {sum(own.values()) / 1000:.1f} ms, {total / 1000:.1f} ms more than a plain one; most on")
    for microseconds, key in extra[:15]:
        print(f"  {microseconds / 1000:9.2f} ms {100 * microseconds / total:6.1f} %  {key}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--stem", default="small")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile the parts of each step")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mixups", nargs="+", default=["vanilla", "mixup", "cutmix", "automix", "samix"])
    parser.add_argument("--memory", action="store_true", help="measure memory on a CPU too, a process for each")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    parser.add_argument("--profile", default="", metavar="NAME", help="print where a step's time goes, and stop")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.mixups[0] != "vanilla":
        parser.error("the first of --mixups must be vanilla, which the ratios refer to")
    return arguments


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, dict[str, object]]:
    """Every mixup's figures; prints the table."""
    steps = {name: make_step(name, arguments, device)[1] for name in arguments.mixups}
    flops: dict[str, float] = {}
    for name, step in steps.items():
        step()  # warm up: allocations, kernel choices
        flops[name] = counted(step, CYCLE)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, device))
    results: dict[str, dict[str, object]] = {}
    print(f"{'mixup':44}{'seconds':>9}{'ratio':>8}{'quartiles':>14}{'counted':>9}{'above':>7}{'MiB':>8}")
    for name, values in seconds.items():
        ratios = [v / base for v, base in zip(values, seconds["vanilla"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        floor = flops[name] / flops["vanilla"]
        memory = peak_memory(name, arguments, device)
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
        row = f"{name:44}{statistics.median(values):9.4f}{middle:8.3f}{low:8.3f}-{high:.3f}"
        print(f"{row}{floor:9.3f}{100 * above:6.0f}%{memory:8.0f}", flush=True)
    return results


def main() -> None:
    """Measures, prints a table, writes JSON."""
    arguments = parse()
    device = torch.device(arguments.device)
    if arguments.memory_of:
        print(resident_peak(make_step(arguments.memory_of, arguments, device)[1]))
        return
    print(f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, {arguments.dtype}, {device_name(device)}")
    if arguments.profile:
        profile(make_step(arguments.profile, arguments, device)[1], make_step("vanilla", arguments, device)[1], device)
        return
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
