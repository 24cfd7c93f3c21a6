"""Draws the figures of the guides from the results beside them.

    python docs/make_figures.py [--out FOLDER]

``docs/images/finetune-tuning.png`` shows every run of ``docs/results/finetune-tuning.jsonl``.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

DOCS = Path(__file__).parent
TUNING = DOCS / "results/finetune-tuning.jsonl"


def kind(row: dict[str, object]) -> str:
    """What a run does, for the legend."""
    if row["test"]:
        return "the recipe, 10,000 test images"
    if row["epochs"] == 0:
        return "logistic regression on frozen features"
    return "fine-tuned from the regression" if row["probe"] else "fine-tuned from a new classifier"


def tuning(out: Path) -> None:
    """Draws accuracy against processor time of all runs that looked for the recipe for fine-tuning."""
    rows = [json.loads(line) for line in TUNING.read_text(encoding="utf-8").splitlines() if line.strip()]
    figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for name, marker in zip(dict.fromkeys(map(kind, rows)), "osD*", strict=False):
        points = [(row["cpu_seconds"], row["top1"]) for row in rows if kind(row) == name]
        axis.scatter(*zip(*points, strict=True), marker=marker, s=90 if marker == "*" else 45, label=name)
    for row in rows:
        axis.annotate(
            f"{row['size']} px", (row["cpu_seconds"], row["top1"]), (5, 4), textcoords="offset points", fontsize=7
        )
    axis.set_xscale("log")
    axis.set_xlabel("processor time of the training, s")
    axis.set_ylabel("top-1, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(out / "finetune-tuning.png", dpi=110, metadata={"Software": ""})
    pyplot.close(figure)


def main() -> None:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=DOCS / "images")
    tuning(parser.parse_args().out)


if __name__ == "__main__":
    main()
