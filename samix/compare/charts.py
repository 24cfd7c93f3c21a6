"""Charts of a comparison: learning curves, gains, and the summary picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from samix.compare.results import BASELINE, Results, curve_of
from samix.compare.tables import heading, score_name
from samix.viz.figures import COLOURS, DASHES, NEUTRAL, SOFT, axes_grid, figure, label, save_png, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 10.0  # points between an expected and a measured score that are drawn beside each other
LONGEST = 24  # characters of a row's name
MOST_CURVES = 7  # in the summary picture; more are too many to tell apart


@dataclass(frozen=True)
class Curve:
    """A mean by epoch with a band around it."""

    name: str  # of the row
    style: int  # its number, see :func:`number_styles`
    epochs: Sequence[float]  # of the values
    mean: Sequence[float]  # at each epoch
    low: Sequence[float]  # lower edge of the band
    high: Sequence[float]  # upper edge


@dataclass(frozen=True)
class Gain:
    """A difference to the baseline, with half of its 95 % interval or None, and the published one or None."""

    name: str
    style: int
    mean: float
    error: float | None
    published: float | None


def number_styles(labels: Sequence[str]) -> dict[str, int]:
    """Numbers the rows: 0, grey, is the baseline; the others take the colours in turn, dashed from the second round."""
    others = [row for row in labels if row != BASELINE]
    per_round = len(COLOURS) - 1
    numbers = {row: (n // per_round) * len(COLOURS) + n % per_round + 1 for n, row in enumerate(others)}
    return {row: numbers.get(row, 0) for row in labels}


def curves_of(results: Results, name: str) -> list[Curve]:
    """Returns the curve of each row that has it: mean, lowest and highest seed by epoch."""
    styles = number_styles(list(results["mixups"]))
    curves = {row: curve_of(entry, name) for row, entry in results["mixups"].items()}
    return [Curve(row, styles[row], *curve) for row, curve in curves.items() if curve]


def limits(curves: Sequence[Curve], since: float) -> tuple[float, float]:
    """Returns the lowest and highest value of the bands from an epoch on, with some room."""
    values = [
        value
        for curve in curves
        for edge in (curve.low, curve.high)
        for epoch, value in zip(curve.epochs, edge, strict=True)
        if epoch >= since and math.isfinite(value)
    ] or [0.0]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def draw_curves(ax: Axes, curves: Sequence[Curve], last: int = 0) -> None:
    """Draws lines and bands over whole epochs; the value axis fits the later two thirds.

    Args:
        ax: to draw on.
        curves: at least one, each with at least one point.
        last: epochs at the end to shade, those of the median; 0 shades none.
    """
    from matplotlib.ticker import MaxNLocator

    for curve in curves:
        colour, dashes = COLOURS[curve.style % len(COLOURS)], DASHES[curve.style // len(COLOURS) % len(DASHES)]
        gid = f"series-{curve.style}"
        marker = "o" if len(curve.epochs) == 1 else ""
        ax.plot(curve.epochs, curve.mean, color=colour, ls=dashes, lw=1.6, marker=marker, gid=gid, label=curve.name)
        ax.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.13, lw=0, gid=gid)
    start, end = min(c.epochs[0] for c in curves), max(c.epochs[-1] for c in curves)
    ax.set_ylim(*limits(curves, start + (end - start) / 3))
    ax.set_xlim(start - 0.02 * (end - start) - 0.01, end + 0.02 * (end - start) + 0.01)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    epochs = max((c.epochs for c in curves), key=len)
    if last and last < len(epochs):
        ax.axvspan(sorted(epochs)[-last] - 0.5, ax.get_xlim()[1], color=SOFT, alpha=0.1, lw=0, zorder=0)


def curve_chart(curves: Sequence[Curve], description: str, last: int) -> Markup:
    """Draws curves over epochs as SVG; arguments as of :func:`draw_curves`."""
    fig = figure(5.6, 3.4)
    ((ax,),) = axes_grid(fig, 1, 1)
    ax.tick_params(labelsize=10)  # readable on a phone
    draw_curves(ax, curves, last)
    ax.set_xlabel("epoch", fontsize=10)
    return to_svg(fig, description, {curve.style: curve.name for curve in curves})


def name_rows(ax: Axes, names: Mapping[str, int]) -> None:
    """Names the rows of a chart from top to bottom, each in its colour."""
    short = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in names]
    ax.set_yticks(range(len(names)), short)
    for text, style in zip(ax.get_yticklabels(), names.values(), strict=True):
        text.set(color=COLOURS[style % len(COLOURS)], gid=f"series-{style}")
    ax.set_ylim(len(names) - 0.4, -0.6)


def gain_chart(gains: Sequence[Gain]) -> Markup:
    """Draws a line for each row as SVG: a dot, a bar for its 95 % interval, and a diamond for the published gain."""
    fig = figure(5.8, 0.7 + 0.36 * len(gains))
    ((ax,),) = axes_grid(fig, 1, 1)
    ax.tick_params(labelsize=10)
    ax.axvline(0, color=SOFT, lw=1, ls="--")
    for row, gain in enumerate(gains):
        colour, gid = COLOURS[gain.style % len(COLOURS)], f"series-{gain.style}"
        if gain.error is not None:
            ax.plot([gain.mean - gain.error, gain.mean + gain.error], [row, row], color=colour, lw=2, gid=gid)
        ax.plot(gain.mean, row, color=colour, marker="o", ms=7, gid=gid)
        if gain.published is not None:
            ax.plot(gain.published, row, color=SOFT, marker="D", ms=7, mfc="none", gid=gid)
    name_rows(ax, {gain.name: gain.style for gain in gains})
    return to_svg(
        fig, "Gain in the score over vanilla, in points, with 95 % intervals", {g.style: g.name for g in gains}
    )


def draw_summary(path: Path, results: Results) -> None:
    """Writes the summary PNG: scores with their seeds on the left, learning curves with their bands on the right."""
    shown = {row: entry for row, entry in results["mixups"].items() if entry["top1"]}
    fig = figure(11.0, max(3.6, 1.2 + 0.36 * len(shown)))
    ((left, right),) = axes_grid(fig, 1, 2, (1.25, 1))
    draw_scores(left, shown, number_styles(list(results["mixups"])))
    expected = "; diamond: expected" if any(entry["published"] is not None for entry in shown.values()) else ""
    score = f"held-out {score_name(results)}"
    label(left, f"{score}: mean and standard deviation", f"{score}; small circles: seeds{expected}")
    curves = [curve for curve in curves_of(results, "top1") if curve.name in shown]
    best = sorted(curves, key=lambda curve: (curve.style != 0, -shown[curve.name]["top1"]["mean"]))[:MOST_CURVES]
    draw_curves(right, best)
    rows = "all rows" if len(best) == len(curves) else f"{best[0].name} and the {len(best) - 1} best others"
    label(right, f"learning curves: {rows}", "epoch; line: mean over seeds; band: lowest to highest", score)
    fig.suptitle(heading(results), fontsize=10)
    save_png(fig, path)


def draw_scores(ax: Axes, shown: Mapping[str, Results], styles: Mapping[str, int]) -> None:
    """Draws a line for each row, the first on top, with a line for the baseline's mean."""
    base = shown.get(BASELINE, {}).get("top1")
    if base:
        ax.axvline(base["mean"], color=NEUTRAL, lw=1)
    for row, (name, entry) in enumerate(shown.items()):
        colour, top1 = COLOURS[styles[name] % len(COLOURS)], entry["top1"]
        seeds = [run["top1"] for run in entry["runs"]]
        ax.plot(seeds, [row + 0.25] * len(seeds), ls="", marker="o", ms=3, mfc="none", color=colour)
        ax.errorbar(top1["mean"], row, xerr=top1["std"], color=colour, marker="o", ms=5, capsize=3, lw=1.5)
        if entry["published"] is not None:
            ax.plot(entry["published"], row, marker="D", ms=6, mfc="none", color=SOFT, ls="")
    name_rows(ax, {name: styles[name] for name in shown})
    seeds = [run["top1"] for entry in shown.values() for run in entry["runs"]]
    pairs = [(entry["published"], entry["top1"]["mean"]) for entry in shown.values()]
    near = [expected for expected, measured in pairs if expected is not None and abs(expected - measured) < NEAR]
    low, high = min(seeds + near), max(seeds + near)
    room = 0.06 * (high - low) or 1.0
    ax.set_xlim(low - room, high + room)
