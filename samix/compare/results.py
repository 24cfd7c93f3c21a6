"""The results of a comparison: read from the folders of its runs, averaged over seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samix.compare.ablations import expand
from samix.compare.controls import CONTROL
from samix.compare.paired import paired_difference
from samix.compare.plan import Entry, Job, Plan
from samix.compare.previews import MASKS
from samix.compare.running import is_finished

BASELINE = "vanilla"
METRICS = ("top1", "top5", "nll", "ece")  # of the reported classifier; of runs without labels the first is kNN's
CURVES = (*METRICS, "loss", "mask_std")
ALIKE = ("device", "machine", "threads")  # of runs whose times may be compared
AVERAGED = (*METRICS, "top1_end", "top1_best", "seconds", "memory", "mask_std", "mask_correlation", "mask_error")
Results = dict[str, Any]  # a JSON object


def collect(plan: Plan, errors: Mapping[tuple[str, int], str]) -> Results:
    """Returns the results of a comparison as plain values, the content of ``results.json``."""
    mixups = {entry.label: summarise(entry, plan, errors) for entry in plan.entries}
    references = [label for label in mixups if label == BASELINE or label.startswith(CONTROL)]
    for label, summary in mixups.items():
        compare_with(summary, mixups.get(BASELINE))
        summary["differences"] = {other: gain_over(summary, mixups[other]) for other in references if other != label}
    first: Results = next((run for summary in mixups.values() for run in summary["runs"]), {})
    recipe = plan.entries[0].recipe
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
        **{name: getattr(recipe, name) for name in ("epochs", "data", "model", "size")},
        "device": first.get("device", ""),
        "threads": first.get("threads"),
        "memory_of": first.get("memory_of", ""),
        "versions": first.get("versions", {}),
        "mixups": mixups,
    }


def summarise(entry: Entry, plan: Plan, errors: Mapping[tuple[str, int], str]) -> Results:
    """Averages one row over its seeds."""
    jobs = [job for job in plan.jobs if job.label == entry.label]
    failed = [job for job in jobs if (job.label, job.seed) in errors]
    finished = [job for job in jobs if job not in failed and is_finished(job.folder)]
    runs = [read_run(job, plan.last, plan.task.metrics) for job in finished]
    source = f", by the Mixer of {entry.variant.mixer_of}" if entry.variant.mixer_of else ""
    return {
        "mixup": entry.mixup,
        "spec": entry.variant.spec + source,
        "published": entry.published,
        "epochs": entry.recipe.epochs,
        **{name: mean_and_std([run[name] for run in runs if run.get(name) is not None]) for name in AVERAGED},
        "runs": runs,
        "failed": [{"seed": job.seed, "error": errors[job.label, job.seed]} for job in failed],
        "missing": len(jobs) - len(failed) - len(finished),
    }


def read_run(job: Job, last: int, metrics: Mapping[str, str]) -> Results:
    """Reads a finished run; ``metrics`` maps our names to those of its log. Scores are medians of the ``last`` rows."""
    summary = read_json(job.folder / "summary.json")
    text = (job.folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    rows = [
        {**row, **{ours: row[theirs] for ours, theirs in metrics.items() if theirs in row}}
        for row in lines
        if metrics["top1"] in row
    ]
    cost, masks = read_json(job.folder / "cost.json"), read_json(job.folder / MASKS)
    without_seed = {**job.recipe.to_dict(), "seed": None}
    by_class = [value for value in summary.get("by_class", {}).values() if value is not None]
    return {
        "seed": job.seed,
        "folder": str(job.folder),
        "options": hashlib.sha256(json.dumps(without_seed, sort_keys=True, default=str).encode()).hexdigest()[:12],
        "epochs": summary.get("epochs"),
        "images_seen": rows[-1]["step"] * job.recipe.batch_size if "step" in rows[-1] else None,
        "worst_class": min(by_class, default=None),
        **{name: median(rows[-last:], name) for name in METRICS},
        "top1_end": rows[-1]["top1"],
        "top1_best": max(row["top1"] for row in rows),
        "seconds": summary["seconds"],
        "cpu_seconds": cost.get("cpu_seconds"),
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


def median(rows: Sequence[Results], name: str) -> float | None:
    """Returns the median over the rows that have a value; None where none has."""
    known = [row[name] for row in rows if name in row]
    return statistics.median(known) if known else None


def read_json(path: Path) -> Results:
    """Reads a JSON object; a missing file is empty."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def mean_and_std(values: Sequence[float]) -> Results | None:
    """Returns mean and sample standard deviation (n - 1), None for a single value; None for no value."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "n": len(values)}


def compare_with(summary: Results, baseline: Results | None) -> None:
    """Adds ``gain`` over the baseline, paired by seed with its 95 % interval, and time and memory relative to it.

    Times of runs on different machines, or with other threads, are not compared.
    """
    summary["gain"] = None if baseline is None or summary is baseline else gain_over(summary, baseline)
    runs = [*summary["runs"], *(baseline["runs"] if baseline else [])]
    alike = len({tuple(run.get(name) for name in ALIKE) for run in runs}) == 1
    for name in ("seconds", "memory"):
        mine, other = summary[name], baseline[name] if baseline and alike else None
        summary[f"relative_{name}"] = mine["mean"] / other["mean"] if mine and other and other["mean"] > 0 else None


def gain_over(summary: Results, baseline: Results) -> Results | None:
    """Returns the paired difference of two rows in the score; None without a common seed."""
    ours, theirs = ({run["seed"]: run["top1"] for run in row["runs"]} for row in (summary, baseline))
    difference = paired_difference(ours, theirs)
    return None if difference is None else dataclasses.asdict(difference)


def curve_of(summary: Results, name: str) -> tuple[list[float], list[float], list[float], list[float]] | None:
    """Returns epochs that all runs have, with mean, lowest and highest value; None where a metric is not known."""
    curves = [run["curves"] for run in summary["runs"] if name in run["curves"]]
    runs = [dict(zip(curve["epoch"], curve[name], strict=True)) for curve in curves]
    if not runs:
        return None
    epochs = sorted(set.intersection(*[set(run) for run in runs]))
    values = [[run[epoch] for run in runs] for epoch in epochs]
    return epochs, [statistics.fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values]
