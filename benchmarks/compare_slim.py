"""Vanilla, MixUp, CutMix, AutoMix and SAMix under one recipe, several seeds, as a table of mean and deviation.

Made for a CPU: the recipe ``cifar-slim`` (slim ResNet, 2,500 training images, 40 epochs). Runs go side by side with one
thread each; finished ones are kept, so the command can be called again.

    python benchmarks/compare_slim.py --data folder:DIR --out runs/slim --json docs/results/cifar10-slim.json

DIR holds train/CLASS/*.jpg and test/CLASS/*.jpg of CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MIXUPS = ["vanilla", "mixup", "cutmix", "automix", "samix"]


def run_one(mixup: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Trains (or continues, or finds) one run, and returns its folder."""
    name = f"{mixup.replace(':', '-')}-s{seed}"
    folder: Path = arguments.out / name
    if (folder / "summary.json").is_file():
        return folder
    mixup_name, _, preset = mixup.partition(":")
    command = [sys.executable, "-m", "samix", "train", "--recipe", arguments.recipe, "--data", arguments.data]
    command += ["--mixup", mixup_name, "--seed", str(seed), "--out", str(arguments.out), "--run", name]
    command += ["--quiet", "--resume"]
    command += ["--mixup.preset", preset] if preset else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    print(f"{name}: {done.stdout.splitlines()[0]}", flush=True)
    return folder


def describe(folder: Path) -> dict[str, float]:
    """What the table needs of a finished run."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    keys = ("top1", "top5", "nll", "ece", "seconds", "images_per_second")
    found = {key: float(summary[key]) for key in keys}
    if "generation" in rows[0]:
        found |= {"generation_first": rows[0]["generation"], "generation_last": rows[-1]["generation"]}
        found |= mask_sweep(folder / "last.pt")
    return found


def mask_sweep(checkpoint: Path) -> dict[str, float]:
    """Spread within a mask and correlation of its mean with lam, on held-out pairs."""
    from samix.report import held_out, load_method, preview_of
    from samix.visualize import mask_statistics

    method, recipe, _ = load_method(checkpoint)
    images, labels, index, mean, std = held_out(recipe, 0, "data")
    mix = preview_of(method, recipe.mixup, images, labels, index, 0, (mean, std))
    batches = [mix(lam / 20) for lam in range(1, 20)]
    told = mask_statistics([batch for batch in batches if batch is not None])
    return {"mask_std": told["std"], "mask_correlation": told["correlation"]}


def main() -> None:
    """Runs everything, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="cifar-slim")
    parser.add_argument("--mixups", nargs="+", default=MIXUPS, help="names, or NAME:PRESET")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/slim"))
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    jobs = [(mixup, seed) for seed in range(arguments.seeds) for mixup in arguments.mixups]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        folders = list(pool.map(lambda job: run_one(*job, arguments), jobs))
    results: dict[str, list[dict[str, float]]] = {mixup: [] for mixup in arguments.mixups}
    for (mixup, _), folder in zip(jobs, folders, strict=True):
        results[mixup].append(describe(folder))
    print("| mixup | top-1 % | NLL, nats | ECE % | s per run | generation loss | mask std | mask corr. |")
    print("|---|---|---|---|---|---|---|---|")
    for mixup, rows in results.items():
        cells = [f"{mean(rows, 'top1'):.2f} ± {deviation(rows, 'top1'):.2f}", f"{mean(rows, 'nll'):.3f}"]
        cells += [f"{mean(rows, 'ece'):.1f}", f"{mean(rows, 'seconds'):.0f}"]
        if "mask_std" in rows[0]:
            cells += [f"{mean(rows, 'generation_first'):.2f} → {mean(rows, 'generation_last'):.2f}"]
            cells += [f"{mean(rows, 'mask_std'):.2f}", f"{mean(rows, 'mask_correlation'):.3f}"]
        print(f"| {mixup} | {' | '.join(cells + ['–'] * (7 - len(cells)))} |")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def mean(rows: list[dict[str, float]], key: str) -> float:
    """Mean over seeds."""
    return statistics.mean(row[key] for row in rows)


def deviation(rows: list[dict[str, float]], key: str) -> float:
    """Standard deviation over seeds."""
    return statistics.stdev(row[key] for row in rows) if len(rows) > 1 else 0.0


if __name__ == "__main__":
    main()
