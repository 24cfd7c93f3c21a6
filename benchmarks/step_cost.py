"""What a training step costs with each mixup, as a ratio to a plain step.

Steps of all methods are interleaved in one process, so that a slow minute of the machine hits all alike; medians and
quartiles of the ratio to the plain step of the same round are printed and written as JSON.

    python benchmarks/step_cost.py --model resnet18 --size 32 --stem small --batch 100 --dtype float32

A frozen Mixer (SAMix^P, mixed loss only) is written ``frozen:ENCODER``, or ``frozen:ENCODER@SIDE`` to encode at that
side in pixels; its weights are new, which costs the same.

Bfloat16 on a virtual CPU that advertises AMX without having it ends in an illegal instruction; then set
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

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


def make_step(mixup: str, arguments: argparse.Namespace, device: torch.device) -> tuple[Method, Callable[[], None]]:
    """A method and one whole training step of it on fixed random images: forward, backward, optimiser, averaging."""
    recipe = Recipe(
        model=arguments.model,
        size=arguments.size,
        stem=arguments.stem,
        mixup=mixup,
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

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss, _ = method((images, labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.5)

    return method, step


def frozen_mixer(name: str, recipe: Recipe) -> Mixer:
    """A frozen Mixer with new weights: SAMix's, on the encoder of ``frozen:ENCODER@SIDE``."""
    encoder, _, side = name.removeprefix("frozen:").partition("@")
    method = build_method(dataclasses.replace(recipe, mixup="samix", model=encoder), 10)
    network = mixer_network(method, dataclasses.replace(recipe, model=encoder), (0.5,) * 3, (0.2,) * 3, {})
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return Mixer(network=network, encode_size=int(side or 0))


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(step: Callable[[], None], device: torch.device) -> float:
    """Peak memory of one step in MiB, on a GPU; 0 on the CPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**20


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--stem", default="small")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mixups", nargs="+", default=["vanilla", "mixup", "cutmix", "automix", "samix"])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.mixups[0] != "vanilla":
        parser.error("the first of --mixups must be vanilla, which the ratios refer to")

    steps = {name: make_step(name, arguments, device)[1] for name in arguments.mixups}
    memory = {}
    for name, step in steps.items():
        step()  # warm up: allocations, kernel choices
        memory[name] = peak_memory(step, device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, device))

    results = {}
    print(f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, {arguments.dtype}, {device_name(device)}")
    print(f"{'mixup':20}{'seconds':>10}{'ratio':>8}{'quartiles':>16}{'MiB':>8}")
    for name, values in seconds.items():
        ratios = [v / base for v, base in zip(values, seconds["vanilla"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        results[name] = {
            "seconds": statistics.median(values),
            "ratio": middle,
            "quartiles": [low, high],
            "mebibytes": memory[name],
        }
        print(f"{name:20}{results[name]['seconds']:10.4f}{middle:8.3f}{low:8.3f}-{high:.3f}{memory[name]:8.0f}")
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
