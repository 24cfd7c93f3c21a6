"""Tables and picture of what learning the mix is worth, all from the rows that ``worth.py`` wrote.

    python benchmarks/worth_report.py docs/results/worth.csv
        --tuning docs/results/finetune-tuning.jsonl --into README.md docs/which-mixup.md

Writes ``worth.md`` and ``worth.png`` beside the CSV, and the small table into pages that have a place for it.
Differences are paired by seed, with t-intervals of 95 %; a difference is called one only where its interval does not
contain zero.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worth_settings import DERIVED, README_ROWS, SETTINGS
from worth_tables import (
    MINIMUM,
    Results,
    Row,
    cell,
    claims,
    differences_table,
    goal_sentence,
    heads_table,
    main_table,
    pooled_sentence,
    pooled_table,
    published_table,
    shown,
    small_table,
    table,
    verdicts,
)

READING = """\
Methods of one seed share training images, first weights, order of images and augmentation. Figures are means ± standard
errors over runs; differences are paired by seed and machine, with t-intervals of 95 %, bold where the interval does not
contain zero. The last epoch is reported; the test images decided nothing. Names in bold are on the front: none costs
less and is better.

- `samix-constant` is the exact control of `samix`: its whole step, draw by draw, with every mask held at lambda.
- `samix-once` shows each image once: half of the batch clean, half mixed, the Mixer trained in every second step.
- `mixup-once` is MixUp in the same way, without a Mixer: half of the batch clean, half mixed, with an average.
- `mixup-half`, `mixup-clean` and `vanilla-ema` are the runs of `mixup-once`, `mixup-clean-ema` and `vanilla`, reported
  by the other classifier: the first two by the network itself, the last by its average.
- `mixup-clean-ema` is MixUp with a clean loss, reported by a running average as SAMix's is. Plain rows report the
  network, the others the average by the clean head.
- `samix-p-clean` is a frozen Mixer with a clean loss, `mixer-constant` its control."""


def distinct(rows: Iterable[Row], column: str) -> str:
    """All values of a column."""
    return ", ".join(sorted({row[column] for row in rows}))


def page(settings: Mapping[str, Results], name: str) -> str:
    """The whole page."""
    rows = [row for r in settings.values() for name, found in r.rows.items() if name not in DERIVED for row in found]
    hours = sum(float(row["cpu_seconds"]) + float(row["test_cpu_seconds"]) for row in rows) / 3600
    text = [
        "# What learning the mix is worth",
        "",
        f"Made by `python benchmarks/worth_report.py {name}` from {len(rows)} runs ({hours:.1f} CPU hours of training "
        f"and testing) of `benchmarks/worth.py`, commits {distinct(rows, 'commit')}, torch "
        f"{distinct(rows, 'torch')}; {distinct(rows, 'hardware')}.",
        "",
        "Learned mixups against their constant-mask control and the best hand-made mixup:",
        "",
        *summary(settings),
        "",
        *repeated(settings),
        READING,
    ]
    for setting, results in settings.items():
        found = claims(results)
        text += ["", f"## {setting}: {SETTINGS[setting].title}", "", main_table(results), "", "### Differences", ""]
        text += [differences_table(results), "", "What the intervals allow to say:"]
        text += ["", *(f"- {sentence}" for sentence in found)] if found else [" nothing: every interval contains zero."]
        text += ["", "### Heads", "", heads_table(results)]
    text += ["", "## All pairs of learned and constant masks", "", pooled_table(settings), ""]
    text += ["Six looks at the same runs: one interval of six without zero is weak evidence."]
    text += ["", "![Accuracy against counted cost and against CPU time](worth.png)", "", "## Published", ""]
    text += ["Of long runs on whole data sets. We have not repeated them.", "", published_table()]
    return "\n".join([*text, ""])


def summary(settings: Mapping[str, Results]) -> list[str]:
    """Whether learned masks paid, by setting."""
    lines = [f"- {setting}: {sentence}" for setting, results in settings.items() for sentence in verdicts(results)]
    return [*lines, *conclusions(settings)]


def conclusions(settings: Mapping[str, Results]) -> list[str]:
    """Whether learned masks paid, over all settings."""
    sentences = [sentence for sentence in (pooled_sentence(settings), goal_sentence(settings)) if sentence]
    return [f"- {sentence[0].upper()}{sentence[1:]}" for sentence in sentences]


def repeated(settings: Mapping[str, Results]) -> list[str]:
    """What rounding alone does, where a run was made on two machines."""
    found = [f"{setting} {sentence}" for setting, results in settings.items() for sentence in results.repeats()]
    if not found:
        return []
    return [f"The same run on two machines, whose sums round differently, top-1 in percent: {'; '.join(found)}.", ""]


def forms_section(settings: Mapping[str, Results]) -> str:
    """The forms that were tried, on images held out of the training images."""
    text = [
        "## Forms that were tried",
        "",
        "Trained as above, on training images of CIFAR-10, and judged on other training images: test images decide "
        "nothing. `mixer-soft` draws each mask three quarters of the way to lambda, `mixer-random` by a random share "
        "a batch; `mixer-until` mixes nothing in the last fifth of the run; `mixer-apart` pairs images whose maps "
        "overlap least; `samix-once` shows each image once, half of the batch clean and half mixed.",
    ]
    for setting, results in settings.items():
        bases = [base for base in ("mixup-clean-ema", "mixer-constant") if base in results.rows]
        rows = [
            [
                method,
                str(len(results.rows[method])),
                *(cell(list(results.values(method, column).values()), 2) for column in ("top1", "counted_cost")),
                *("" if base == method else shown(results.difference(method, base)) for base in bases),
            ]
            for method in results.by_cost()
        ]
        head = ["form", "seeds", "held-out top-1 %", "step, counted", *(f"less {base}" for base in bases)]
        text += ["", f"### {setting}: {SETTINGS[setting].title}", "", table(head, rows)]
    return "\n".join([*text, ""])


def write_between(path: Path, texts: Mapping[str, str]) -> None:
    """Replaces what stands between ``<!-- NAME -->`` and ``<!-- end NAME -->`` in a page, for each name that it has.

    Raises:
        ValueError: the page has none of them.
    """
    old = new = path.read_text(encoding="utf-8")
    places = 0
    for name, text in texts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        whole = f"{begin}\n{text}\n{end}"
        new, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, whole=whole: whole, new, flags=re.S)
        places += count
    if not places:
        raise ValueError(f"{path} has no place for any of {', '.join(texts)}: <!-- NAME --> and <!-- end NAME -->")
    if new != old:
        path.write_text(new, encoding="utf-8")


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
            ax.set_title(textwrap.fill(f"{setting}: {SETTINGS[setting].title}", 70), fontsize=8)
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


def read(path: Path) -> dict[str, Results]:
    """The rows of a CSV, by setting."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    settings = {name: Results(name, [row for row in rows if row["setting"] == name]) for name in SETTINGS}
    return {name: results for name, results in settings.items() if results.rows}


def main() -> None:
    """Reads the CSV, writes page, picture, and the tables inside other pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--forms", type=Path, help="CSV of runs judged on training images that were held out")
    parser.add_argument("--tuning", type=Path, help="trials of finetune_tuning.py, lines of JSON")
    parser.add_argument("--into", type=Path, nargs="*", default=[], help="pages with a place for the small table")
    arguments = parser.parse_args()
    settings = read(arguments.csv)
    text = page(settings, arguments.csv.as_posix())
    if arguments.forms is not None:
        text += "\n" + forms_section(read(arguments.forms))
    if arguments.tuning is not None:
        text += "\n" + tuning_page(arguments.tuning)
    arguments.csv.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(arguments.csv.with_suffix(".png"), settings)
    legend = "; ".join(f"{name}: {SETTINGS[name].title}" for name in settings)
    texts = {
        "worth table": f"{small_table(settings, README_ROWS)}\n\n{legend}. In brackets: runs.",
        "worth verdicts": "\n".join(summary(settings)),
        "worth conclusions": "\n".join(conclusions(settings)),
    }
    for path in arguments.into:
        write_between(path, texts)


if __name__ == "__main__":
    main()
