"""What Accelerate and the engine around it cost a step, and whether 1, 2 and 4 ranks learn alike.

    python benchmarks/accelerate_overhead.py overhead --out docs/results/accelerate-overhead.json
    python benchmarks/accelerate_overhead.py ranks --out docs/results/ranks.json

overhead: the same method, batches and optimiser under (a) a bare loop: forward, backward, step, zero_grad; (b) the same
with Accelerate's wrappers; (c) the engine's step, which also sets the learning rate, seeds the draws, sums the losses
and watches for numbers that are not finite, with a look at the device every 20 steps. Each round takes one step of each
in an order of its own; compared are CPU times on one thread, so that other work on the machine does not count.

ranks: a small ViT (no BatchNorm, whose statistics are those of each rank's part of the batch) on scanned digits, by
torchrun with 1, 2 and 4 processes over gloo. Without a mixup, what is left to differ is the order of sums; with CutMix
each rank draws its own lam and pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from measuring import interleaved, quartiles, ratios, timed  # noqa: E402
from training_command import one_thread  # noqa: E402

from samix.recipes import Recipe, named_recipe  # noqa: E402
from samix.recipes.build import build_method  # noqa: E402
from samix.train import Run, RunOptions  # noqa: E402
from samix.train.optim import build_optimizer  # noqa: E402

SLIM = '{"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}'
VIT = '{"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}'
RANKS = (1, 2, 4)
WARM_UP = 3  # rounds
CURVES = ("vanilla", "cutmix")


def steps_of(run: Run, method: Any, wrapped: bool) -> Callable[[], None]:
    """One step of a method without the engine, with Accelerate's wrappers or without."""
    optimizer: Any = build_optimizer(method, run.recipe)
    batches = cycle(list(islice(run.train_batches.epoch(0), 4)))
    prepared = method
    if wrapped:
        prepared, optimizer = run.accelerator.prepare(method, optimizer)

    def bare() -> None:
        loss, _ = prepared(next(batches))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def accelerated() -> None:
        with run.accelerator.accumulate(prepared):
            loss, _ = prepared(next(batches))
            run.accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    return accelerated if wrapped else bare


def engine_steps(run: Run) -> Callable[[], None]:
    """One step of the engine, with the look that is due."""
    run.method.train()
    batches = cycle(list(islice(run.train_batches.epoch(0), 4)))

    def step() -> None:
        run.one_step(batches, 10**6)
        if run.look_due():
            run.look()

    return step


def overhead(asked: argparse.Namespace) -> dict[str, Any]:
    """Ratios of CPU time to the bare loop."""
    torch.set_num_threads(1)
    rows = []
    for mixup in asked.mixups:
        recipe = dataclasses.replace(
            named_recipe("digits-quick", mixup), model_args=SLIM, size=asked.size, batch_size=asked.batch
        )
        with tempfile.TemporaryDirectory() as out:
            run = Run(recipe, RunOptions(out=out, device="cpu", quiet=True))
            new = [build_method(recipe, run.data.num_classes, (run.data.mean, run.data.std)) for _ in range(2)]
            steps = {
                "bare": steps_of(run, new[0], False),
                "accelerate": steps_of(run, new[1], True),
                "engine": engine_steps(run),
            }
            rows.append({"mixup": mixup, **compared(steps, asked.rounds)})
        print(json.dumps(rows[-1]), flush=True)
    return {"model_args": SLIM, "size": asked.size, "batch": asked.batch, "rounds": asked.rounds, "rows": rows}


def compared(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, Any]:
    """Median milliseconds of the bare step, and the others' ratios to it: of sums, and quartiles of rounds."""
    cpu_seconds = partial(timed, device=torch.device("cpu"))
    all_times = interleaved(steps, WARM_UP + rounds, cpu_seconds, order=random.Random(0))
    times = {name: seconds[WARM_UP:] for name, seconds in all_times.items()}
    bare = times.pop("bare")
    found: dict[str, Any] = {"bare_ms": round(1e3 * statistics.median(bare), 2)}
    for name, seconds in times.items():
        low, middle, high = quartiles(ratios(seconds, bare))
        found[name] = {
            "ratio_of_sums": round(sum(seconds) / sum(bare), 4),
            "median": round(middle, 4),
            "quartiles": [round(low, 4), round(high, 4)],
        }
    return found


# ---------------------------------------------------------------------------------------------------------------------


def curve_recipe(mixup: str) -> Recipe:
    """Thirty epochs of five steps of a small ViT."""
    return dataclasses.replace(
        named_recipe("digits-quick", mixup),
        **{"model": "vit_tiny_patch16_224", "model_args": VIT, "stem": "default", "feature": None},
        **{
            "size": 8,
            "limit": 300,
            "batch_size": 60,
            "epochs": 30,
            "eval_every": 30,
            "optimizer": "adamw",
            "lr": 0.004,
        },
        channels_last=False,
    )


def work(out: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    for mixup in CURVES:
        name = f"{mixup}-{os.environ.get('WORLD_SIZE', '1')}"
        Run(curve_recipe(mixup), RunOptions(out=str(out), run=name, device="cpu", quiet=True)).fit()


def ranks(asked: argparse.Namespace) -> dict[str, Any]:
    """Loss curves by number of ranks."""
    curves: dict[str, dict[str, list[float]]] = {mixup: {} for mixup in CURVES}
    with tempfile.TemporaryDirectory() as out:
        for count in RANKS:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
            command = [*launch, __file__, "work", "--folder", out]
            subprocess.run(command, env=one_thread(CUDA_VISIBLE_DEVICES=""), check=True)
            for mixup in CURVES:
                lines = (Path(out) / f"{mixup}-{count}/metrics.jsonl").read_text().splitlines()
                curves[mixup][str(count)] = [json.loads(line)["loss"] for line in lines]
    differences = {
        mixup: {
            count: max(abs(a - b) for a, b in zip(curve, found["1"], strict=True))
            for count, curve in found.items()
            if count != "1"
        }
        for mixup, found in curves.items()
    }
    print(json.dumps(differences, indent=1))
    if asked.out:
        plot(asked.out.with_suffix(".png"), curves)
    return {"recipe": curve_recipe("vanilla").to_dict(), "largest_difference_to_1_rank": differences, "loss": curves}


def plot(path: Path, curves: dict[str, dict[str, list[float]]]) -> None:
    """One panel for each mixup, one line for each number of ranks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3.4), sharex=True)
    notes = {"vanilla": "no mixup", "cutmix": "CutMix: draws of each rank's own"}
    for axis, (mixup, found) in zip(axes, curves.items(), strict=True):
        for (count, curve), (width, style) in zip(found.items(), [(4, "-"), (2, "--"), (1.2, ":")], strict=True):
            label = f"{count} rank{'s' if count != '1' else ''} of {60 // int(count)} images"
            axis.plot(range(1, len(curve) + 1), curve, style, linewidth=width, label=label)
        axis.set(title=notes[mixup], xlabel="epoch (5 steps)", ylabel="training loss, nats")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "ranks", "work"))
    parser.add_argument("--mixups", nargs="+", default=["vanilla", "samix"])
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="of the work of one process")
    parser.add_argument("--out", type=Path, help="JSON to write; ranks also write a PNG of that name")
    asked = parser.parse_args()
    if asked.what == "work":
        work(asked.folder)
        return
    result = (overhead if asked.what == "overhead" else ranks)(asked)
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
