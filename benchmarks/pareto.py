"""Accuracy against the price of a step, for the cheaper forms of SAMix's step, and for what they compete with.

    python benchmarks/pareto.py --data folder:DIR --seeds 3 --out runs/pareto --json docs/results/pareto.json

DIR holds train/CLASS/*.jpg and test/CLASS/*.jpg of CIFAR-10. Every variant is trained by ``samix train`` in a folder of
its own, in three settings: ``cifar-few``, in which the network overfits, ``cifar-slim``, in which it under-fits, and
``cifar-more``, a run of 3,000 steps.
Finished runs are read, so the command can be given again, and ``--table`` trains nothing. Beside the top-1 of the
network to keep stand its loss, which is no matter of a few images more or less, and the price of a step relative to a
plain one: counted in floating-point operations, which no busy machine changes. The JSON keeps what it has of variants
that the folder has no run of. The picture goes beside it, a panel a setting; its lines join the variants that no
other beats in both.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from measuring import counted
from training_command import one_thread

from samix.recipes import named_recipe
from samix.recipes.build import build_method


@dataclass(frozen=True)
class Setting:
    """A recipe, what is changed in it on the command line, and what it is in words."""

    recipe: str
    changes: tuple[str, ...]
    title: str


SETTINGS = {
    "cifar-few": Setting("cifar-few", (), "1,000 CIFAR-10 images, 100 epochs, slim ResNet"),
    "cifar-slim": Setting("cifar-slim", (), "2,500 CIFAR-10 images, 40 epochs, slim ResNet"),
    "cifar-more": Setting(
        "cifar-slim", ("--limit", "5000", "--epochs", "60"), "5,000 CIFAR-10 images, 60 epochs, slim ResNet"
    ),
}
ONCE = {"clean_share": 0.5, "mixed_share": 0.5, "generator_share": 0.5}
HALF_MIXED = {"mixed_share": 0.5, "generator_share": 0.5, "generator_every": 2}
PAPER: dict[str, dict[str, Any]] = {  # in what the preset ``paper`` differs under these recipes, part by part
    "eta": {"eta": 0.5},
    "gamma": {"gamma": None},
    "relu": {"activation": "relu"},
    "linear": {"mask_schedule": "linear"},
    "adjust": {"adjust_prob": 0.25},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("vanilla", {}),
    "mixup": ("mixup", {}),
    "cutmix": ("cutmix", {}),
    "reference": ("samix", {}),
    "generator-half": ("samix", {"generator_share": 0.5}),
    "generator-4th": ("samix", {"generator_every": 4}),
    "clean-half": ("samix", {"clean_share": 0.5}),
    "clean-quarter": ("samix", {"clean_share": 0.25}),
    "each-once": ("samix", ONCE),
    "each-once-g2": ("samix", {**ONCE, "generator_every": 2}),
    "each-once-g4": ("samix", {**ONCE, "generator_every": 4}),
    "each-once-automix": ("automix", ONCE),
    "generator-2nd": ("samix", {"generator_every": 2}),
    "half-mixed": ("samix", HALF_MIXED),  # the preset ``fast``
    "half-mixed-g4": ("samix", {**HALF_MIXED, "generator_every": 4}),
    "paper": ("samix", {"preset": "paper"}),
    "paper-half-mixed": ("samix", {"preset": "paper", **HALF_MIXED}),
    "paper-each-once-g2": ("samix", {"preset": "paper", **ONCE, "generator_every": 2}),
    **{f"paper-{name}": ("samix", options) for name, options in PAPER.items()},
}


def train(job: tuple[str, str, int], arguments: argparse.Namespace) -> None:
    """Trains (or continues, or finds) one run, of a setting, a variant and a seed."""
    setting, name, seed = job
    folder = arguments.out / setting / f"{name}-s{seed}"
    if (folder / "summary.json").is_file():
        return
    mixup, options = VARIANTS[name]
    command = [sys.executable, "-m", "samix", "train", "--recipe", SETTINGS[setting].recipe, "--data", arguments.data]
    command += SETTINGS[setting].changes
    command += ["--mixup", mixup, "--seed", str(seed), "--eval-every", "50", "--out", str(folder.parent)]
    command += ["--run", folder.name, "--quiet", "--resume"]
    for key, value in options.items():
        command += [f"--mixup.{key.replace('_', '-')}", str(value)]
    done = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")
    print(f"{setting}, {folder.name}: {done.stdout.splitlines()[0]}", flush=True)


@cache
def price(recipe_name: str, name: str) -> float:
    """Floating-point operations of a step, mean of four, at the recipe's network and batch."""
    mixup, options = VARIANTS[name]
    recipe = named_recipe(recipe_name, mixup)
    recipe = dataclasses.replace(recipe, mixup_options={**recipe.mixup_options, **options})
    torch.manual_seed(0)
    method = build_method(recipe, 10).train()
    batch = torch.randn(recipe.batch_size, 3, recipe.size, recipe.size), torch.arange(recipe.batch_size) % 10

    def step(progress: float) -> None:
        method(batch)[0].backward()
        method.zero_grad()
        method.after_step(progress)

    return counted(partial(step, 0.0), 4)


def collect(setting: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is known of every variant with at least one finished run in a setting."""
    found: dict[str, dict[str, Any]] = {}
    recipe = SETTINGS[setting].recipe
    for name, (mixup, options) in VARIANTS.items():
        files = [arguments.out / setting / f"{name}-s{seed}" / "summary.json" for seed in range(arguments.seeds)]
        summaries = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        if not summaries:
            continue
        cost = price(recipe, name) / price(recipe, "vanilla")
        row: dict[str, Any] = {"mixup": mixup, "options": options, "cost": cost}
        for key in ("top1", "nll", "ece"):
            values = [float(summary[key]) for summary in summaries]
            row[key] = {"mean": statistics.mean(values), "values": values}
            row[key]["error"] = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        found[name] = row
    return found


def front(found: dict[str, dict[str, Any]]) -> list[str]:
    """The variants that no other beats in cost and accuracy, by cost."""
    best, names = -1.0, []
    for name in sorted(found, key=lambda n: (found[n]["cost"], -found[n]["top1"]["mean"])):
        if found[name]["top1"]["mean"] > best:
            best = found[name]["top1"]["mean"]
            names.append(name)
    return names


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown, by cost."""
    lines = ["| variant | step, counted | seeds | top-1 % | NLL, nats | ECE % |", "|---|---|---|---|---|---|"]
    best = front(found)
    for name in sorted(found, key=lambda n: found[n]["cost"]):
        row = found[name]
        cells = [f"**{name}**" if name in best else name, f"{row['cost']:.2f}", str(len(row["top1"]["values"]))]
        for key, digits in (("top1", 2), ("nll", 3), ("ece", 1)):
            error = row[key]["error"]
            cells.append(f"{row[key]['mean']:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(path: Path, found: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Accuracy over cost, with standard errors and the front, a panel a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.8 * len(found)), dpi=130, layout="constrained")
    for ax, (setting, rows) in zip(figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True):
        draw_setting(ax, rows)
        ax.set_title(f"SAMix's step made cheaper: {SETTINGS[setting].title}", fontsize=10)
    figure.savefig(path)


def draw_setting(ax: Any, found: dict[str, dict[str, Any]]) -> None:
    """One setting's panel."""
    best = front(found)
    for name, row in found.items():
        colour = "tab:blue" if name in best else "0.55"
        error = row["top1"]["error"] or 0.0
        ax.errorbar(row["cost"], row["top1"]["mean"], yerr=error, fmt="o", color=colour, ms=5, lw=1, capsize=2)
    place_names(ax, found)
    ax.plot(
        [found[n]["cost"] for n in best], [found[n]["top1"]["mean"] for n in best], color="tab:blue", lw=1, zorder=0
    )
    ax.set_xlabel("operations of a step, relative to a plain one")
    ax.set_ylabel("top-1, % (mean and standard error over seeds)")
    ax.set_xlim(0.9, max(row["cost"] for row in found.values()) + 0.4)  # room for the last name
    ax.grid(alpha=0.25)


def place_names(ax: Any, found: dict[str, dict[str, Any]]) -> None:
    """Writes each variant's name beside its point, to the left of it where a point is near on its right.

    Names are moved up where another one is near.
    """
    from matplotlib.patheffects import withStroke

    points = {name: (row["cost"], row["top1"]["mean"]) for name, row in found.items()}
    heights = [y for _, y in points.values()]
    wide, high = 0.42, (max(heights) - min(heights)) / 26  # of a name, in the axes' units
    placed: list[tuple[float, float]] = []  # middles of names
    for name in sorted(points, key=lambda n: points[n][1]):
        x, y = points[name]
        left = any(0 < other - x < wide and abs(level - y) < high for other, level in points.values())
        middle = x - wide / 2 if left else x + wide / 2
        while any(abs(middle - other) < wide and abs(y - level) < high for other, level in placed):
            y += high / 4
        placed.append((middle, y))
        text = ax.annotate(name, (x, y), xytext=(-6 if left else 6, 0), textcoords="offset points", va="center")
        text.set(fontsize=7, ha="right" if left else "left", path_effects=[withStroke(linewidth=2, foreground="white")])


def main() -> None:
    """Trains what is missing, prints the tables, writes JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder:DIR")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/pareto"))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, of one thread each")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--table", action="store_true", help="read what is there, and train nothing")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    if not arguments.table:
        jobs = list(itertools.product(arguments.settings, arguments.variants, range(arguments.seeds)))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(partial(train, arguments=arguments), jobs))
    known = arguments.json is not None and arguments.json.is_file()
    found = json.loads(arguments.json.read_text(encoding="utf-8")) if known else {}
    for setting in arguments.settings:
        found[setting] = found.get(setting, {}) | collect(setting, arguments)
        print(f"\n{setting}: {SETTINGS[setting].title}\n\n{table(found[setting])}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        draw(arguments.json.with_suffix(".png"), {setting: rows for setting, rows in found.items() if rows})


if __name__ == "__main__":
    main()
