"""What the runs of a comparison found: read from their folders, put together over seeds."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samix.compare.ablations import expand
from samix.compare.paired import paired_difference
from samix.compare.plan import Entrant, Job, Plan
from samix.compare.previews import MASKS
from samix.compare.running import is_finished

BASELINE = "vanilla"
METRICS = ("top1", "top5", "nll", "ece")  # of the reported classifier; of runs without labels the first is kNN's
CURVES = (*METRICS, "loss", "mask_std")
Found = dict[str, Any]


def collect(plan: Plan, errors: Mapping[tuple[str, int], str]) -> Found:
    """The results of a comparison as plain values: what ``results.json`` holds.

    Args:
        plan: the comparison.
        errors: of the runs that failed, by label and seed.
    """
    mixups = {entrant.label: summarise(entrant, plan, errors) for entrant in plan.entrants}
    for found in mixups.values():
        compare_with(found, mixups.get(BASELINE))
    first: Found = next((run for found in mixups.values() for run in found["runs"]), {})
    recipe = plan.entrants[0].recipe
    return {
        "recipe": plan.recipe_name,
        "score": plan.task.score,
        "ablations": [
            {"name": name, "question": expand(name).question, "published": expand(name).published}
            for name in plan.ablations
        ],
        "overrides": plan.overrides,
        "seeds": plan.options.seeds,
        "median_of_last": plan.last,
        "epochs": recipe.epochs,
        "data": recipe.data,
        "model": recipe.model,
        "size": recipe.size,
        "device": first.get("device", ""),
        "threads": first.get("threads"),
        "memory_of": first.get("memory_of", ""),
        "versions": first.get("versions", {}),
        "mixups": mixups,
    }


def summarise(entrant: Entrant, plan: Plan, errors: Mapping[tuple[str, int], str]) -> Found:
    """One mixup over its seeds."""
    runs: list[Found] = []
    failed: list[Found] = []
    missing = 0
    for job in plan.jobs:
        if job.label != entrant.label:
            continue
        if (job.label, job.seed) in errors:
            failed.append({"seed": job.seed, "error": errors[job.label, job.seed]})
        elif is_finished(job.folder):
            runs.append(read_run(job, plan.last, plan.task.metrics))
        else:
            missing += 1
    names = (*METRICS, "top1_end", "top1_best", "seconds", "memory", "mask_std", "mask_correlation", "mask_error")
    told = {name: mean_and_std([run[name] for run in runs if run.get(name) is not None]) for name in names}
    spec = entrant.variant.spec + (f", by the Mixer of {entrant.variant.mixer_of}" if entrant.variant.mixer_of else "")
    of_it = {"mixup": entrant.mixup, "spec": spec, "published": entrant.published}
    return {**of_it, **told, "runs": runs, "failed": failed, "missing": missing}


def read_run(job: Job, last: int, metrics: Mapping[str, str]) -> Found:
    """What a finished run found. ``metrics`` are our names to those of its log.

    ``top1``, ``top5``, ``nll`` and ``ece`` are medians over its last evaluations; ``top1_end`` is the last one.
    """
    summary = read(job.folder / "summary.json")
    text = (job.folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    rows = [renamed(row, metrics) for row in lines if metrics["top1"] in row]
    cost, masks = read(job.folder / "cost.json"), read(job.folder / MASKS)
    return {
        "seed": job.seed,
        "folder": str(job.folder),
        **{name: median(rows[-last:], name) for name in METRICS},
        "top1_end": rows[-1]["top1"],
        "top1_best": max(row["top1"] for row in rows),
        "seconds": summary["seconds"],
        "memory": cost.get("memory"),
        "memory_of": cost.get("of", ""),
        "threads": cost.get("threads"),
        **{f"mask_{name}": masks.get(name) for name in ("std", "correlation", "error")},
        "device": summary.get("device", ""),
        "machine": cost.get("machine", ""),
        "commit": cost.get("commit", ""),
        "versions": summary.get("versions", {}),
        "curves": {
            "epoch": [row["epoch"] for row in rows],
            **{name: [row[name] for row in rows] for name in CURVES if all(name in row for row in rows)},
        },
    }


def renamed(row: Found, metrics: Mapping[str, str]) -> Found:
    """A line of a run's log with our names."""
    return {**row, **{ours: row[its] for ours, its in metrics.items() if its in row}}


def median(rows: Sequence[Found], name: str) -> float | None:
    """Over those rows that have it; None where none has."""
    known = [row[name] for row in rows if name in row]
    return statistics.median(known) if known else None


def read(path: Path) -> Found:
    """A JSON object; empty where there is no such file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def mean_and_std(values: Sequence[float]) -> Found | None:
    """Mean and sample standard deviation (n - 1); the latter None for a single value; None for no value."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "n": len(values)}


def compare_with(found: Found, baseline: Found | None) -> None:
    """Adds ``gain`` over the baseline, paired by seed with its 95 % interval, and time and memory relative to it."""
    found["gain"] = None if baseline is None or found is baseline else gain_over(found, baseline)
    for name in ("seconds", "memory"):
        mine, other = found[name], baseline[name] if baseline else None
        found[f"relative_{name}"] = mine["mean"] / other["mean"] if mine and other and other["mean"] > 0 else None


def gain_over(found: Found, base: Found) -> Found | None:
    """The paired difference of two methods in the score, as plain values; None without a common seed."""
    own, theirs = ({run["seed"]: run["top1"] for run in method["runs"]} for method in (found, base))
    difference = paired_difference(own, theirs)
    return None if difference is None else dataclasses.asdict(difference)
