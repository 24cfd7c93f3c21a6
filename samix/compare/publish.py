"""A comparison to keep beside the code: NAME.md with expected and measured figures, NAME.json, NAME.png."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samix.compare.charts import COLOURS, Curve, limits
from samix.compare.page import curve_of, number_styles
from samix.compare.provenance import commit, machine, without_places
from samix.compare.results import BASELINE, Found
from samix.compare.tables import (
    Column,
    ablation_lines,
    about,
    cells_of,
    failures,
    gain,
    heading,
    mean,
    rows_of,
    score_name,
    variant_lines,
)
from samix.runtime.atomic_files import write_text

INKS = ("0.45", "#1b6ca8", "#d1495b", "#3a7d44", "#e0a100", "#7b4fa3", "#00a0a0", "#c7643c", "#e377c2")
DASHES = ("-", "--", ":", "-.")
UNSHOWN = ("--read", "--quiet")  # of the command: they change nothing that is printed
PLACES = 4  # decimals of the curves in the JSON
NEAR = 10.0  # points between an expected score and a measured one that are drawn beside each other


def publish(target: Path, results: Found, command: Sequence[str]) -> list[Path]:
    """Writes the three files, and returns their paths.

    Args:
        target: path without its ending; a ``.md`` at its end is dropped. Its folder is made.
        results: of the comparison.
        command: the words of the command line.

    Raises:
        ValueError: no run is finished.
    """
    if not any(found["runs"] for found in results["mixups"].values()):
        raise ValueError(f"no run is finished, so there is nothing to publish as {target}")
    target = target.with_suffix("") if target.suffix == ".md" else target
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = published(results)
    words = without_places(" ".join(quoted(word) for word in command if word not in UNSHOWN))
    origin = origins(results)
    paths = [target.parent / f"{target.name}{ending}" for ending in (".md", ".json", ".png")]
    write_text(paths[1], json.dumps({"command": words, **origin, **kept}, indent=1))
    draw_summary(paths[2], kept)
    write_text(paths[0], summary_page(target.name, kept, words, origin))
    return paths


def quoted(word: str) -> str:
    """A word as a shell takes it."""
    import shlex

    return shlex.quote(word)


def published(value: Any) -> Any:
    """The results without places on this machine, and with curves of four decimals."""
    if isinstance(value, dict):
        return {key: published(part) for key, part in value.items()}
    if isinstance(value, list):
        return [round(part, PLACES) if isinstance(part, float) else published(part) for part in value]
    return without_places(value) if isinstance(value, str) else value


def origins(results: Found) -> dict[str, Any]:
    """Commits and hardware of the runs as they noted them, and the commit that wrote the page."""
    runs = [run for found in results["mixups"].values() for run in found["runs"]]
    return {
        "commits": sorted({run["commit"] for run in runs if run.get("commit")}),
        "hardware": sorted({run["machine"] for run in runs if run.get("machine")}),
        "written_at": {"commit": commit(), "hardware": machine()},
    }


# ---------------------------------------------------------------------------------------------------------------------


def summary_columns(results: Found) -> list[Column]:
    """The table: what is expected beside what was measured, then the rest."""
    rest = dict(cells_of(results))
    found = list(results["mixups"].values())
    base = results["mixups"].get(BASELINE, {}).get("published")
    expected = [None if f["published"] is None or base is None else f["published"] - base for f in found]
    name = score_name(results)
    table = {
        "mixup": rest.pop("mixup"),
        f"expected {name}": rest.pop("published", ["–"] * len(found)),
        f"measured {name}": rest.pop(name, ["–"] * len(found)),
        "expected gain": [
            gain({"mean": value, "high": None} if value and f is not results["mixups"][BASELINE] else None)
            for f, value in zip(found, expected, strict=True)
        ],
        "measured gain": rest.pop("gain over vanilla", ["–"] * len(found)),
        "last epoch": [mean(f["top1_end"], 2) for f in found],
    }
    return [*table.items(), *rest.items()]


def summary_page(title: str, results: Found, command: str, origin: Found) -> str:
    """The Markdown page."""
    columns = summary_columns(results)
    told = heading(results)
    lines = [f"# {title}", "", f"{told[0].upper()}{told[1:]}.", "", f"`{command}`", "", f"![{title}]({title}.png)", ""]
    lines += ["| " + " | ".join(head for head, _ in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows_of(columns)]
    lines += ["", *variant_lines(results), *expectations(results), "", *[f"- {line}" for line in about(results)], ""]
    failed = failures(results)
    lines += ["Failed:", "", *[f"- {line}" for line in failed], ""] if failed else []
    lines += [*provenance(results, origin), "", f"All runs, their curves and figures: [{title}.json]({title}.json)."]
    return "\n".join(lines) + "\n"


def expectations(results: Found) -> list[str]:
    """What the expected columns are."""
    if any(found["published"] is not None for found in results["mixups"].values()):
        return [f"Expected: published for recipe {results['recipe']}, see `samix recipes`.", *ablation_lines(results)]
    return ablation_lines(results) or ["Nothing is published for this recipe, so nothing is expected in figures."]


def provenance(results: Found, origin: Found) -> list[str]:
    """Hardware, commit and versions."""
    written = origin["written_at"]
    hardware = origin["hardware"] or [f"{written['hardware']} (where this was written)"]
    commits = origin["commits"] or [f"{written['commit'] or 'unknown'} (of this page; the runs noted none)"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    return [
        f"Hardware: {'; '.join(hardware)}. Device of a run: {results['device'] or 'unknown'}.",
        f"Commit: {', '.join(commits)}. {versions}.",
    ]


# ---------------------------------------------------------------------------------------------------------------------


def draw_summary(path: Path, results: Found) -> None:
    """Accuracy with its seeds on the left, learning curves with their bands on the right."""
    from samix.viz.pictures import figure

    shown = {label: found for label, found in results["mixups"].items() if found["top1"]}
    styles = number_styles(list(results["mixups"]))
    fig = figure(10.5, max(3.4, 1.3 + 0.34 * len(shown)))
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    draw_scores(left, shown, styles)
    expected = "; ◇ expected" if any(found["published"] is not None for found in shown.values()) else ""
    left.set_xlabel(f"held-out {score_name(results)}; bar: standard deviation; small: seeds{expected}", fontsize=8)
    curves = [c for label, found in shown.items() if (c := curve_of(label, found, styles, "top1"))]
    draw_curves(right, curves)
    right.set_xlabel("epoch; line: mean over seeds; band: lowest to highest", fontsize=8)
    right.set_ylabel(f"held-out {score_name(results)}", fontsize=8)
    fig.suptitle(heading(results), fontsize=9)
    fig.savefig(path, dpi=110, format="png")


def ink(style: int) -> tuple[str, str]:
    """Colour and dashes of a style's number."""
    return INKS[style % COLOURS], DASHES[style // COLOURS % len(DASHES)]


def draw_scores(ax: Any, shown: dict[str, Found], styles: dict[str, int]) -> None:
    """A line for each mixup, the first on top."""
    base = shown.get(BASELINE, {}).get("top1")
    if base:
        ax.axvline(base["mean"], color=INKS[0], lw=1)
    for row, (label, found) in enumerate(shown.items()):
        colour, dashes = ink(styles[label])
        top1 = found["top1"]
        if base and label != BASELINE:
            ax.plot([base["mean"], top1["mean"]], [row, row], color=colour, ls=dashes, lw=1.2)
        seeds = [run["top1"] for run in found["runs"]]
        ax.plot(seeds, [row - 0.25] * len(seeds), ls="", marker="o", ms=3, mfc="none", color=colour)
        ax.errorbar(top1["mean"], row, xerr=top1["std"], color=colour, marker="o", ms=5, capsize=3)
        if found["published"] is not None:
            ax.plot(found["published"], row, marker="D", ms=6, mfc="none", color="0.3", ls="")
    ax.set_yticks(range(len(shown)), list(shown))
    for text, label in zip(ax.get_yticklabels(), shown, strict=True):
        text.set_color(ink(styles[label])[0])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(*score_limits(shown))


def score_limits(shown: dict[str, Found]) -> tuple[float, float]:
    """From the lowest to the highest score, with some room; expected ones count where they are less than 10 off."""
    seeds = [run["top1"] for found in shown.values() for run in found["runs"]]
    near = [
        found["published"]
        for found in shown.values()
        if found["published"] is not None and abs(found["published"] - found["top1"]["mean"]) < NEAR
    ]
    low, high = min(seeds + near), max(seeds + near)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def draw_curves(ax: Any, curves: Sequence[Curve]) -> None:
    """Means and bands, the fainter the more there are; the axis fits the later two thirds."""
    shade = min(0.13, 0.8 / len(curves))
    for curve in curves:
        colour, dashes = ink(curve.style)
        single = {"marker": "o"} if len(curve.epochs) == 1 else {}
        ax.plot(curve.epochs, curve.mean, color=colour, ls=dashes, lw=1.3, **single)
        ax.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=shade, lw=0)
    start, end = min(c.epochs[0] for c in curves), max(c.epochs[-1] for c in curves)
    ax.set_ylim(*limits(curves, start + (end - start) / 3))
