"""Charts as SVG text, coloured by the page's style: curves with bands, and gains with their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from samix.viz.webpage import escape

WIDTH, HEIGHT = 400, 250  # of a chart of curves, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 10, 38  # margins
COLOURS = 9  # in the page's style; the first is the baseline's


@dataclass(frozen=True)
class Curve:
    """A mean by epoch with a band around it.

    Args:
        name: for the tooltip.
        style: number of the colour; from 9 on they come again, dashed.
        epochs: where it is known.
        mean: at each of them.
        low: lower edge of the band.
        high: upper edge.
    """

    name: str
    style: int
    epochs: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """Values to places: ``low`` is drawn at ``start``, ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value is drawn."""
        return self.start + (self.end - self.start) * (value - self.low) / max(self.high - self.low, 1e-9)


def curve_chart(curves: Sequence[Curve], what: str, last: int) -> str:
    """Curves over epochs. The axis is fitted to the later two thirds; what lies outside is cut.

    Args:
        curves: at least one, each with at least one point.
        what: for those who cannot see it.
        last: epochs at the end that are shaded: those of the median; 0 shades none.
    """
    end = max(curve.epochs[-1] for curve in curves)
    start = min(curve.epochs[0] for curve in curves)
    low, high = limits(curves, start + (end - start) / 3)
    ticks = nice_ticks(low, high)
    x, y = Axis(start, end, LEFT, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP)
    clip = "clip-" + "".join(filter(str.isalnum, what))
    box = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    parts = [f'<clipPath id="{clip}"><rect {box}/></clipPath>']
    if last and last < len(max((c.epochs for c in curves), key=len)):
        left = x(sorted(curves[0].epochs)[-last] - 0.5)
        parts.append(
            f'<rect class="last" x="{left:.1f}" y="{TOP}" width="{WIDTH - RIGHT - left:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
        )
    for value in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in whole_ticks(start, end):
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - 23}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end" class="name">epoch</text>')
    drawn = "".join(draw_curve(curve, x, y) for curve in curves)
    parts.append(f'<g clip-path="url(#{clip})">{drawn}</g>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(what)}">{"".join(parts)}</svg>'


def draw_curve(curve: Curve, x: Axis, y: Axis) -> str:
    """The band and the line of a curve."""
    band = "M" + "L".join([*points(curve, curve.high, x, y), *reversed(points(curve, curve.low, x, y))]) + "Z"
    line = "M" + "L".join(points(curve, curve.mean, x, y))
    if len(curve.epochs) == 1:  # a dot
        line += "h.01"
    dashed = ' stroke-dasharray="5 4"' if curve.style >= COLOURS else ""
    return (
        f'<g class="s" data-s="{curve.style}" style="--c:var(--c{curve.style % COLOURS})">'
        f"<title>{escape(curve.name)}</title>"
        f'<path class="band" d="{band}"/><path class="line" d="{line}"{dashed}/></g>'
    )


def points(curve: Curve, values: Sequence[float], x: Axis, y: Axis) -> list[str]:
    """The places of values at the curve's epochs."""
    return [f"{x(epoch):.1f} {y(value):.1f}" for epoch, value in zip(curve.epochs, values, strict=True)]


def limits(curves: Sequence[Curve], since: float) -> tuple[float, float]:
    """Lowest and highest value of the bands from an epoch on, with some room."""
    found = [
        value
        for curve in curves
        for values in (curve.low, curve.high)
        for epoch, value in zip(curve.epochs, values, strict=True)
        if epoch >= since and math.isfinite(value)
    ] or [0.0]
    low, high = min(found), max(found)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values, about ``count`` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def whole_ticks(start: float, end: float) -> list[float]:
    """Whole epochs for the axis."""
    if end - start < 1:
        return [end]
    return sorted({float(round(v)) for v in nice_ticks(start, end) if start <= round(v) <= end})


@dataclass(frozen=True)
class Gain:
    """A difference to the baseline: with half of its 95 % interval, or None; and the published one, or None."""

    name: str
    style: int
    mean: float
    error: float | None
    published: float | None


def gain_chart(gains: Sequence[Gain]) -> str:
    """A line for each mixup: a dot with a bar for its 95 % interval; a diamond for the published."""
    row, top, width = 30, 24, 420
    left = min(30 + 7 * max(len(short(g.name)) for g in gains), 170)
    reach = [edge for g in gains for edge in (g.mean - (g.error or 0), g.mean + (g.error or 0), g.published or 0.0)]
    low, high = min(0.0, *reach), max(0.0, *reach)
    room = 0.08 * (high - low) or 1.0
    low, high = low - room, high + room
    x, height = Axis(low, high, left, width - 12), top + row * len(gains) + 8
    parts = []
    for value in nice_ticks(low, high, 6):
        parts.append(f'<path class="grid" d="M{x(value):.1f} {top - 4}V{height}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{top - 9}" text-anchor="middle">{signed(value)}</text>')
    parts.append(f'<path class="zero" d="M{x(0):.1f} {top - 4}V{height}"/>')
    parts += [draw_gain(g, x, left - 12, top + row * (number + 0.5)) for number, g in enumerate(gains)]
    what = "Gain in top-1 over vanilla, in points, with 95 % intervals"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{what}">{"".join(parts)}</svg>'


def draw_gain(g: Gain, x: Axis, name_at: float, y: float) -> str:
    """One line of the chart of gains."""
    told = f"{g.name}: {signed(g.mean, 2)}" + (f" ± {g.error:.2f}" if g.error is not None else "")
    bar = mark = ""
    if g.error is not None:
        bar = f'<path class="line" d="M{x(g.mean - g.error):.1f} {y}H{x(g.mean + g.error):.1f}"/>'
    if g.published is not None:
        mark = f'<path class="published" d="M{x(g.published):.1f} {y - 6}l6 6l-6 6l-6 -6Z"/>'
    return (
        f'<g class="s" data-s="{g.style}" style="--c:var(--c{g.style % COLOURS})"><title>{escape(told)}</title>'
        f'<text x="{name_at}" y="{y + 4}" text-anchor="end" class="own">{escape(short(g.name))}</text>'
        f'{mark}{bar}<circle cx="{x(g.mean):.1f}" cy="{y}" r="5"/></g>'
    )


def short(name: str, most: int = 20) -> str:
    """A name that fits beside a chart."""
    return name if len(name) <= most else name[: most - 1] + "…"


def signed(value: float, digits: int | None = None) -> str:
    """A number with its sign; a true minus."""
    text = "0" if value == 0 else f"{value:+g}" if digits is None else f"{value:+.{digits}f}"
    return text.replace("-", "−")
