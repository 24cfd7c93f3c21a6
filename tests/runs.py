"""Runs of a second: the smallest networks on a hundred digits, and what their tests compare."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from samix.compare.run import build_run
from samix.recipes import Recipe, named_recipe
from samix.train import Run, RunOptions

ROOT = Path(__file__).parent.parent
SLIM = '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4}'
VIT = '{"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}'
TIMES = ("images_per_second", "seconds")  # what may differ between equal runs
SMALL_FLAGS = ["--model-args", SLIM, "--limit", "100", "--epochs", "2", "--batch-size", "20", "--size", "8"]
SMALL_FLAGS += ["--device", "cpu", "--quiet", "--no-pictures"]


def small_recipe(mixup: str = "vanilla", **changes: object) -> Recipe:
    """Two epochs of five steps at 8 pixels."""
    small = {"model_args": SLIM, "limit": 100, "epochs": 2, "batch_size": 20, "size": 8}
    return dataclasses.replace(named_recipe("digits-quick", mixup), **{**small, **changes})


def vit_recipe(mixup: str = "vanilla", **changes: object) -> Recipe:
    """A network without BatchNorm: what it does with one image does not depend on the others."""
    vit = {"model": "vit_tiny_patch16_224", "model_args": VIT, "stem": "default", "feature": None, "lr": 0.02}
    return small_recipe(mixup, **{**vit, "channels_last": False, **changes})


def new_run(recipe: Recipe, out: Path, name: str = "run", **options: object) -> Run:
    """A run as the command builds it, without pictures, which take most of so short a run."""
    settings = {"out": str(out), "run": name, "device": "cpu", "quiet": True, "pictures": False, **options}
    return build_run(recipe, RunOptions(**settings))


def fit(recipe: Recipe, out: Path, name: str = "run", **options: object) -> Path:
    """Trains, and returns the run's folder."""
    run = new_run(recipe, out, name, **options)
    run.fit()
    return run.folder


def rows(folder: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl, without times."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def differences(a: object, b: object, at: str = "") -> list[str]:
    """Where two nested values differ in any bit; times are left out."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) else [at]
    if isinstance(a, dict) and isinstance(b, dict):
        if set(a) != set(b):
            return [f"{at}: {sorted(map(str, set(a) ^ set(b)))}"]
        return [d for k in a if k not in TIMES for d in differences(a[k], b[k], f"{at}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{at}: {len(a)} and {len(b)} items"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{at}/{i}")]
    return [] if a == b else [f"{at}: {a!r} and {b!r}"]


def run_differences(a: Path, b: Path) -> list[str]:
    """Where two finished runs differ in weights, optimiser, metrics or exported network."""
    found = differences(*(torch.load(folder / "last.pt", weights_only=True) for folder in (a, b)))
    found += differences(*(torch.load(folder / "best.pt", weights_only=True) for folder in (a, b)))
    found += differences(rows(a), rows(b), "metrics.jsonl")
    if (a / "export/model.safetensors").read_bytes() != (b / "export/model.safetensors").read_bytes():
        found.append("export")
    return found


def python(code: str, *arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own, in the checkout, with one thread."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


PLAIN_COMMAND = """
import sys
import torch
from samix.cli.main import main
torch.set_num_threads(1)
sys.exit(main(sys.argv[1:]))
"""
