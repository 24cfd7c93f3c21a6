"""runs.csv: one row per run, with all that is needed to make tables of one's own."""

from __future__ import annotations

import csv
import io

from samix.compare.results import Results

OF_RUN = (
    *("options", "seed", "epochs", "images_seen", "top1", "top1_end", "top1_best", "top5", "nll", "ece", "worst_class"),
    *("mask_std", "mask_correlation", "mask_error", "seconds", "cpu_seconds", "memory", "memory_of", "threads"),
    *("device", "machine", "commit"),
)
HEAD = ("recipe", "data", "network", "size", "mixup", "spec", *OF_RUN, "torch", "command")


def runs_csv(results: Results, command: str) -> str:
    """Returns runs.csv: every finished run's figures, not rounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEAD)
    setting = [results[name] for name in ("recipe", "data", "model", "size")]
    for label, entry in results["mixups"].items():
        for run in entry["runs"]:
            figures = [run.get(name) for name in OF_RUN]
            writer.writerow([*setting, label, entry["spec"], *figures, run["versions"].get("torch"), command])
    return stream.getvalue()
