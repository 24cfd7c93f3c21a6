"""Tables and picture of what learning the mix is worth, all from the rows that ``worth.py`` wrote.

    python benchmarks/worth_report.py docs/results/worth.csv --tuning docs/results/finetune-tuning.jsonl

Writes ``worth.md`` and ``worth.png`` beside the CSV. Differences are paired by seed, with t-intervals of 95 %; a
difference is called one only where its interval does not contain zero.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from worth_settings import HEADS, REFERENCES, SETTINGS

from samix.compare.paired import PairedDifference, paired_difference

Row = dict[str, str]
MINIMUM = 2  # seeds for an interval


class Results:
    """The rows of one setting, by method."""

    def __init__(self, setting: str, rows: Iterable[Row]) -> None:
        self.setting = setting
        self.rows: dict[str, list[Row]] = {}
        for row in rows:
            self.rows.setdefault(row["method"], []).append(row)

    def values(self, method: str, column: str) -> dict[int, float]:
        """A column's figures by seed; without those that a row does not have."""
        return {int(row["seed"]): float(row[column]) for row in self.rows.get(method, []) if row.get(column)}

    def mean(self, method: str, column: str) -> float | None:
        """The mean of a column over seeds."""
        values = self.values(method, column)
        return statistics.fmean(values.values()) if values else None

    def by_cost(self) -> list[str]:
        """The methods by the counted cost of a step, then by accuracy."""
        return sorted(self.rows, key=lambda m: (self.mean(m, "counted_cost") or 0.0, -(self.mean(m, "top1") or 0.0)))

    def front(self, column: str) -> list[str]:
        """The methods that no other beats in accuracy at the same price or a lower one."""
        best, names = -1.0, []
        for method in sorted(self.rows, key=lambda m: (self.mean(m, column) or 0.0, -(self.mean(m, "top1") or 0.0))):
            top1 = self.mean(method, "top1") or 0.0
            if top1 > best:
                best = top1
                names.append(method)
        return names


def cell(values: Sequence[float], digits: int) -> str:
    """Mean and standard error."""
    if not values:
        return "–"
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < MINIMUM else f"{text} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


FIGURES = (("top1", 2), ("nll", 3), ("ece", 1), ("worst_class", 1), ("mask_spread", 2), ("mask_correlation", 2))


def main_table(results: Results) -> str:
    """Every method's figures."""
    fronts = results.front("counted_cost")
    head = [
        "method",
        "seeds",
        "top-1 %",
        "NLL, nats",
        "ECE %",
        "worst class %",
        "mask spread",
        "mask corr.",
        "step, counted",
        "CPU s",
    ]
    rows = []
    for method in results.by_cost():
        name = f"**{method}**" if method in fronts else method
        cells = [cell(list(results.values(method, column).values()), digits) for column, digits in FIGURES]
        cost, cpu = results.mean(method, "counted_cost"), results.mean(method, "cpu_seconds")
        rows.append([name, str(len(results.rows[method])), *cells, f"{cost:.2f}", f"{cpu:.0f}"])
    return table(head, rows)


def heads_table(results: Results) -> str:
    """Top-1 by head, of the network and of its average."""
    rows = []
    for method in results.by_cost():
        cells = [cell(list(results.values(method, f"top1_{head}").values()), 2) for head in HEADS]
        rows.append([method, *cells])
    return table(["top-1 %", *(head.replace("_", ", ") for head in HEADS)], rows)


def shown(difference: PairedDifference | None) -> str:
    """A difference with its interval; bold where the interval does not contain zero."""
    if difference is None:
        return "–"
    if difference.low is None:
        return f"{difference.mean:+.2f} (1 seed)"
    text = f"{difference.mean:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"
    return f"**{text}**" if difference.significant else text


def differences_table(results: Results) -> str:
    """Paired differences of top-1 between every method and the references."""
    bases = [base for base in REFERENCES if base in results.rows]
    rows = []
    for method in results.by_cost():
        own = results.values(method, "top1")
        cells = ["" if b == method else shown(paired_difference(own, results.values(b, "top1"))) for b in bases]
        rows.append([method, *cells])
    return table(["top-1, points", *(f"less {base}" for base in bases)], rows)


def claims(results: Results) -> list[str]:
    """A sentence for each difference from a reference whose interval does not contain zero."""
    found = []
    for method in results.by_cost():
        for base in REFERENCES:
            difference = paired_difference(results.values(method, "top1"), results.values(base, "top1"))
            if method == base or base not in results.rows or difference is None or not difference.significant:
                continue
            word = "above" if difference.mean > 0 else "below"
            low, high = sorted((abs(difference.low or 0.0), abs(difference.high or 0.0)))
            found.append(
                f"{method} is {word} {base} by {abs(difference.mean):.2f} points ({low:.2f} to {high:.2f}, "
                f"{difference.n} seeds)."
            )
    return found


def distinct(rows: Iterable[Row], column: str) -> str:
    """All values of a column."""
    return ", ".join(sorted({row[column] for row in rows}))


def page(settings: dict[str, Results], name: str) -> str:
    """The whole page."""
    rows = [row for results in settings.values() for methods in results.rows.values() for row in methods]
    hours = sum(float(row["cpu_seconds"]) + float(row["test_cpu_seconds"]) for row in rows) / 3600
    text = [
        "# What learning the mix is worth",
        "",
        f"Made by `python benchmarks/worth_report.py {name}` from {len(rows)} runs ({hours:.1f} CPU hours of training "
        f"and testing) of `benchmarks/worth.py`, commit {distinct(rows, 'commit')}, torch "
        f"{distinct(rows, 'torch')}; {distinct(rows, 'hardware')}.",
        "",
        "Methods of one seed share training images, first weights, order of images and augmentation. Figures are means "
        "± standard errors over seeds; differences are paired by seed, with t-intervals of 95 %, bold where the "
        "interval does not contain zero. The last epoch is reported; the test images decided nothing. `samix-constant` "
        "is the exact control: SAMix's whole step, draw by draw, with every mask held at lambda. `mixup-clean-ema` is "
        "MixUp with a clean loss, reported by a running average as SAMix's is. Plain rows report the network, the "
        "others the average by the clean head. Names in bold are on the front: none costs less and is better.",
    ]
    for setting, results in settings.items():
        found = claims(results)
        text += ["", f"## {setting}: {SETTINGS[setting].title}", "", main_table(results), "", "### Differences", ""]
        text += [differences_table(results), "", "What the intervals allow to say:"]
        text += ["", *(f"- {sentence}" for sentence in found)] if found else [" nothing: every interval contains zero."]
        text += ["", "### Heads", "", heads_table(results)]
    return "\n".join([*text, "", "![Accuracy against counted cost and against CPU time](worth.png)", ""])


def tuning_table(trials: Sequence[dict[str, Any]]) -> str:
    """The trials of the fine-tuning recipe, in the order in which they were made."""
    keys = ("size", "epochs", "optimizer", "lr", "head_factor", "norms", "probe", "augment", "dropout", "ema")
    head = ["judged on", "top-1 %", "top-1 of the average %", "NLL", "CPU s", *(key.replace("_", " ") for key in keys)]
    rows = []
    for trial in trials:
        judged = f"{trial['judge']:,} {'test' if trial['test'] else 'training'} images"
        average = trial.get("ema_top1")
        cells = [f"{trial['top1']:.1f}", "–" if average is None else f"{average:.1f}", str(trial.get("nll", "–"))]
        rows.append([judged, *cells, f"{trial['cpu_seconds']:.0f}", *(str(trial[key]) for key in keys)])
    return table(head, rows)


def tuning_page(path: Path) -> str:
    """The section on the fine-tuning recipe."""
    trials = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return "\n".join(
        [
            "## How the fine-tuning recipe was found",
            "",
            "EfficientNet-Lite0 with ImageNet weights on 1,000 training images of CIFAR-10, without mixup, one run "
            "each (`benchmarks/finetune_tuning.py`). Chosen on training images that are not among the 1,000. `probe` "
            "is the L2 of a logistic regression that the classifier starts from, 0 a new one; `augment` a padded crop, "
            "or the least area of a resized one. No epochs: the regression alone.",
            "",
            tuning_table(trials),
            "",
        ]
    )


def draw(path: Path, settings: dict[str, Results]) -> None:
    """Accuracy over counted cost and over CPU time, with the front, a row of panels a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2 * len(settings)), dpi=120, layout="constrained")
    axes = figure.subplots(len(settings), 2, squeeze=False)
    labels = (
        ("counted_cost", "operations of a step, relative to a plain one"),
        ("cpu_seconds", "CPU seconds of a run"),
    )
    for row, (setting, results) in zip(axes, settings.items(), strict=True):
        for ax, (column, label) in zip(row, labels, strict=True):
            draw_panel(ax, results, column)
            ax.set_xlabel(label)
            ax.set_ylabel("top-1, % (mean, standard error)")
            ax.set_title(f"{setting}: {SETTINGS[setting].title}", fontsize=8)
    figure.savefig(path)


def draw_panel(ax: Any, results: Results, column: str) -> None:
    """One panel; names of points at one place are written one above the other."""
    front, placed = results.front(column), list[tuple[float, float]]()
    points = {m: (results.mean(m, column) or 0.0, results.mean(m, "top1") or 0.0) for m in results.rows}
    wide = (max(x for x, _ in points.values()) - min(x for x, _ in points.values()) or 1.0) / 3
    high = (max(y for _, y in points.values()) - min(y for _, y in points.values()) or 1.0) / 20
    for method in sorted(points, key=lambda m: points[m][1]):
        x, y = points[method]
        values = list(results.values(method, "top1").values())
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) >= MINIMUM else 0.0
        ax.errorbar(x, y, yerr=error, fmt="o", ms=4, capsize=2, color="tab:blue" if method in front else "0.55")
        while any(abs(x - px) < wide and abs(y - py) < high for px, py in placed):
            y += high / 4
        placed.append((x, y))
        ax.annotate(method, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7)
    ax.plot([points[m][0] for m in front], [points[m][1] for m in front], color="tab:blue", lw=1, zorder=0)
    ax.margins(x=0.25)
    ax.grid(alpha=0.25)


def main() -> None:
    """Reads the CSV, writes page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--tuning", type=Path, help="trials of finetune_tuning.py, lines of JSON")
    arguments = parser.parse_args()
    path = arguments.csv
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    settings = {name: Results(name, [row for row in rows if row["setting"] == name]) for name in SETTINGS}
    settings = {name: results for name, results in settings.items() if results.rows}
    text = page(settings, path.as_posix())
    if arguments.tuning is not None:
        text += "\n" + tuning_page(arguments.tuning)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(path.with_suffix(".png"), settings)


if __name__ == "__main__":
    main()
