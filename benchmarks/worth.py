"""Runs the methods of ``worth_settings.py`` and writes a row of figures for each run; ``worth_report.py`` makes tables.

    python benchmarks/worth.py --data folder:DIR --settings S F --seeds 5 --out runs/worth --csv docs/results/worth.csv

DIR holds train/CLASS/*.jpg and test/CLASS/*.jpg of CIFAR-10. Runs are in processes of their own, of one thread; the
command can be stopped at any time and given again: runs continue, and finished ones are left alone. ``--quick`` tries
everything in a minute on a few images, and writes to a CSV of its own.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import fcntl
import hashlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from measuring import counted
from torch import Tensor
from training_command import one_thread
from worth_methods import all_heads, make_method, network_of, start_heads
from worth_settings import HEADS, ROWS, SETTINGS, Setting

from samix.analysis.masks import mask_numbers
from samix.data import ImageData, load_data
from samix.data.names import balanced_rows
from samix.data.on_device import decode_all
from samix.data.transforms import Fit, normalize
from samix.methods.base import Method
from samix.recipes import Recipe
from samix.recipes.build import resolve_options
from samix.runtime.environment import device_name
from samix.train.metrics import Sums, classifier_sums
from samix.train.options import RunOptions
from samix.train.trainer import Run

CPU = torch.device("cpu")
QUICK = {"limit": 64, "epochs": 2, "batch_size": 16}


def recipe_of(setting: Setting, name: str, seed: int, data: str = "digits") -> Recipe:
    """The recipe of a run."""
    row, recipe = ROWS[name], setting.build(ROWS[name].mixup)
    options = {**recipe.mixup_options, **row.options}
    return dataclasses.replace(recipe, data=data, mixup_options=options, clean_weight=row.clean_weight, seed=seed)


def read(setting: Setting, recipe: Recipe) -> ImageData:
    """The training images of a seed, and as many test images of each class as the setting says."""
    data = load_data(recipe.data, limit=recipe.limit, seed=recipe.seed)
    if setting.mean is not None and setting.std is not None:
        data = dataclasses.replace(data, mean=(setting.mean,) * 3, std=(setting.std,) * 3)
    if setting.test < len(data.val):
        rows = balanced_rows(data.val.labels, data.num_classes, setting.test, 0)
        data = dataclasses.replace(data, val=data.val.subset(rows))
    return data


class WorthRun(Run):
    """A run that keeps processor time and judges every head, once, at the end."""

    def __init__(self, setting: str, name: str, seed: int, arguments: argparse.Namespace) -> None:
        self.setting_name, self.setting, self.name = setting, settings(arguments)[setting], name
        recipe = recipe_of(self.setting, name, seed, arguments.data)
        options = RunOptions(
            out=str(arguments.out / setting),
            run=f"{name}-s{seed}",
            resume=True,
            device="cpu",
            pictures=False,
            quiet=True,
            keep=1,
            save_minutes=1.0,
        )
        self.cpu, self.test_cpu, self.judged = 0.0, 0.0, dict[str, dict[str, float]]()
        super().__init__(recipe, options, data=read(self.setting, recipe))

    def make_method(self) -> Method:
        """The row's method, its heads started where the setting has weights."""
        pixels = (self.data.mean, self.data.std)
        method = make_method(self.setting, ROWS[self.name], self.recipe, self.data.num_classes, pixels)
        if self.setting.weights:
            start = time.process_time()
            start_heads(method, self.plain_images(), self.data.train.labels)
            self.cpu += time.process_time() - start
        return method

    def plain_images(self) -> Tensor:
        """The training images (N, 3, H, W), not varied, normalised."""
        size = self.recipe.size
        images = normalize(decode_all(self.data.train, Fit(size, size), CPU), self.data.mean, self.data.std)
        return images.contiguous(memory_format=torch.channels_last)

    def one_step(self, batches: Any, total: int) -> int:
        """Runs a step, and adds its processor time."""
        start = time.process_time()
        seen = super().one_step(batches, total)
        self.cpu += time.process_time() - start
        return seen

    def progress(self) -> dict[str, Any]:
        """All that steps change, with the processor time."""
        return {**super().progress(), "cpu": self.cpu}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        super().restore(state)
        self.cpu = state["cpu"]

    def save_epoch(self, row: dict[str, float]) -> None:
        """Saves at the end and where it is time: short epochs would cost more in saving than in steps."""
        last = row["epoch"] == self.recipe.epochs
        if last or self.stopping or time.monotonic() - self.saved > 60 * self.options.save_minutes:
            super().save_epoch(row)

    def measure(self) -> Callable[[], dict[str, float]]:
        """Sums of every head on the test images."""
        start = time.process_time()
        sums = classifier_sums(
            lambda images: all_heads(self.method.predict(images)),
            self.val_batches.batches(),
            self.data.num_classes,
            CPU,
        )
        self.test_cpu = time.process_time() - start
        return partial(self.metrics_of, sums)

    def metrics_of(self, sums: dict[str, Sums]) -> dict[str, float]:
        """Keeps the figures of every head."""
        for name, own in sums.items():
            self.judged[name] = {**own.metrics(), "worst_class": min(v for v in own.by_class() if v is not None)}
        return super().metrics_of(sums)

    def masks(self) -> dict[str, Any]:
        """Statistics of the masks of 64 pairs of training images at 19 lambdas."""
        empty = {"mask_spread": "", "mask_correlation": "", "mask_error": ""}
        if self.name == "vanilla":
            return empty
        rows = torch.arange(0, len(self.data.train), max(1, len(self.data.train) // 64))[:64]
        images, labels, index = self.plain_images()[rows], self.data.train.labels[rows], torch.arange(len(rows)).roll(7)
        lams = torch.linspace(0.05, 0.95, 19).tolist()
        found = mask_numbers(lambda lam: self.method.preview(images, labels, lam, index), lams)
        return {"mask_spread": found.spread, "mask_correlation": found.correlation, "mask_error": found.error}

    def row(self, commit: str, machine: str, command: str) -> dict[str, Any]:
        """The figures of the finished run."""
        row, recipe = ROWS[self.name], self.recipe
        head = next(iter(self.judged))
        resolved = {"kind": row.kind, "once": row.once, **resolve_options(recipe.mixup, recipe.mixup_options)}
        options = json.dumps({**recipe.to_dict(), "mixup_options": resolved, "seed": None}, sort_keys=True, default=str)
        main = self.judged[head]
        values: dict[str, Any] = {
            "setting": self.setting_name,
            "method": self.name,
            "mixup": row.mixup,
            "options_hash": digest(options.encode()),
            "data_hash": digest(pixels_of(self.data.train) + pixels_of(self.data.val)),
            "split_hash": digest(self.data.train.labels.numpy().tobytes() + pixels_of(self.data.train)),
            "network": f"{recipe.model} {recipe.model_args}" + (f" from {w}" if (w := self.setting.weights) else ""),
            "parameters": sum(p.numel() for p in network_of(self.method).parameters()),
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            "steps": self.step,
            "images_seen": self.step * recipe.batch_size,
            "test_images": len(self.data.val),
            "head": head,
            **{key: main[key] for key in ("top1", "nll", "ece", "worst_class")},
        }
        for each in HEADS:
            values |= {f"{key}_{each}": self.judged.get(each, {}).get(key, "") for key in ("top1", "nll")}
        values |= self.masks() | {
            "counted_cost": price(self.setting_name, self.name) / price(self.setting_name, "vanilla"),
            "cpu_seconds": self.cpu,
            "wall_seconds": self.seconds,
            "test_cpu_seconds": self.test_cpu,
            "commit": commit,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "hardware": device_name(CPU),
            "machine": machine,
            "finished": time.strftime("%Y-%m-%d %H:%M"),
            "command": command,
            "options": options,
        }
        return {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in values.items()}


def pixels_of(images: Any) -> bytes:
    """The bytes of all images at 32 pixels."""
    return bytes(decode_all(images, Fit(32, 32), CPU).numpy().tobytes())


def digest(content: bytes) -> str:
    """A short hash."""
    return hashlib.sha256(content).hexdigest()[:12]


@cache
def price(setting_name: str, name: str) -> float:
    """Floating-point operations of a step, mean of four."""
    setting = SETTINGS[setting_name]
    recipe = recipe_of(setting, name, 0)
    torch.manual_seed(0)
    method = make_method(setting, ROWS[name], recipe, 10, ((0.5,) * 3, (0.5,) * 3)).train()
    batch = torch.randn(recipe.batch_size, 3, recipe.size, recipe.size), torch.arange(recipe.batch_size) % 10

    def step() -> None:
        method(batch)[0].backward()
        method.zero_grad()
        method.after_step(0.0)

    return counted(step, 4)


def settings(arguments: argparse.Namespace) -> dict[str, Setting]:
    """The settings, or with ``--quick`` the same on a few images."""
    if not arguments.quick:
        return SETTINGS
    return {
        name: dataclasses.replace(setting, changes={**setting.changes, **QUICK}, test=100)
        for name, setting in SETTINGS.items()
    }


def commit_of() -> str:
    """The commit that runs."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run_one(setting: str, name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Trains (or continues) one run and appends its row."""
    torch.set_num_threads(1)
    run = WorthRun(setting, name, seed, arguments)
    run.fit()
    if not run.judged:  # trained before, and stopped before its row was written
        run.measure()()
    row = run.row(commit_of(), arguments.machine, f"benchmarks/worth.py --one {setting} {name} {seed}")
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("a+", newline="", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
    print(f"{setting} {name} s{seed}: top-1 {row['top1']}, {row['cpu_seconds']} CPU s", flush=True)


def start(job: tuple[int, str, str], arguments: argparse.Namespace) -> None:
    """Runs a job in a process of its own, unless its row is there."""
    seed, setting, name = job
    if arguments.csv.is_file():
        with arguments.csv.open(newline="", encoding="utf-8") as file:
            if any((r["setting"], r["method"], r["seed"]) == (setting, name, str(seed)) for r in csv.DictReader(file)):
                return
    command = [sys.executable, __file__, "--data", arguments.data, "--out", str(arguments.out)]
    command += [
        "--csv",
        str(arguments.csv),
        "--machine",
        arguments.machine,
        *["--quick"] * arguments.quick,
        "--one",
        setting,
        name,
        str(seed),
    ]
    subprocess.run(command, env=one_thread(), check=True)


def main() -> None:
    """Runs what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:DIR")
    parser.add_argument("--settings", nargs="+", default=["S", "F"], choices=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, of one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/worth"))
    parser.add_argument("--csv", type=Path, default=Path("runs/worth/worth.csv"))
    parser.add_argument("--machine", default="first", help="a name; rows of two machines are not paired")
    parser.add_argument("--quick", action="store_true", help="a few images and steps, to see that everything runs")
    parser.add_argument("--one", nargs=3, metavar=("SETTING", "METHOD", "SEED"), help="one run in this process")
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one[0], arguments.one[1], int(arguments.one[2]), arguments)
        return
    seeds = range(1 if arguments.quick else arguments.seeds)
    jobs = list(itertools.product(seeds, arguments.settings, arguments.methods))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(partial(start, arguments=arguments), jobs))


if __name__ == "__main__":
    main()
