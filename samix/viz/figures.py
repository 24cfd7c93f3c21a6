"""Figures: the one way to draw, as a PNG file or as SVG inside a page. The only file that imports matplotlib."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup, escape

from samix.runtime.atomic_files import write_whole
from samix.runtime.console import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

# Grey is the baseline's. A page replaces all of these by its own variables, so that charts follow its dark mode.
COLOURS = ("#767d85", "#0072b2", "#d55e00", "#00805e", "#b5518b", "#9a6a00", "#6a51a3", "#2b8cbe", "#8c510a")
DARK_COLOURS = ("#9aa2aa", "#58aee6", "#ff8a50", "#3ccb9f", "#e892c2", "#e5b445", "#b7a0ea", "#8fd3f5", "#d3a26a")
DASHES = ("-", "--", ":", "-.")
IMAGE_A, IMAGE_B, THIRD, NEUTRAL = COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[0]
INK, SOFT, LINE = "#1d2125", "#5c636b", "#dfdcd6"
PNG_METADATA = {"Software": "samix"}  # identifies our own pictures before they are replaced
STYLE = {
    **dict.fromkeys(("text.color", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), LINE),
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "font.family": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "samix",
}


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type, unused-ignore]
        warnings.filterwarnings("ignore", "Glyph .* missing")  # class names may be in any script
        yield


def figure(width: float, height: float) -> Figure:
    """Makes a figure without a window; the sides are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def axes_grid(fig: Figure, rows: int, columns: int, widths: Sequence[float] | None = None) -> list[list[Axes]]:
    """Adds rows x columns axes with a light grid and no upper and right border."""
    with _styled():
        axes = fig.subplots(rows, columns, squeeze=False, width_ratios=widths)
    return [[_with_grid(ax) for ax in row] for row in axes]


def add_axes(fig: Figure, cell: SubplotSpec) -> Axes:
    """Adds axes of the same style in a cell of a figure's grid."""
    with _styled():
        return _with_grid(fig.add_subplot(cell))


def _with_grid(ax: Axes) -> Axes:
    ax.grid(alpha=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    return ax


def panels(count: int, title: str, width: float = 4.6, height: float = 3.5) -> tuple[Figure, list[Axes]]:
    """Makes a figure with panels side by side under a title."""
    fig = figure(width * count, height)
    fig.suptitle(title, fontsize=10)
    return fig, axes_grid(fig, 1, count)[0]


def label(ax: Axes, title: str, x: str, y: str = "", legend: Literal["best", "upper left"] = "best") -> None:
    """Names a panel and its axes, and adds a legend if anything is labelled."""
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8 if legend == "best" else 7, frameon=False, loc=legend)


def bare(ax: Axes, title: str = "", size: float = 7) -> Axes:
    """Turns an axis into a frame for an image: a thin border and no ticks."""
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color="0.6", linewidth=0.6)
    if title:
        ax.set_title(title, fontsize=size, pad=2)
    return ax


def _literal_texts(fig: Figure) -> None:
    """Draws every text as it is: no formulas between dollars, no control characters."""
    from matplotlib.text import Text

    for text in fig.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))


def save_png(fig: Figure, path: Path, dpi: int = 110) -> None:
    """Writes a figure as PNG, whole or not at all, with the mark that identifies our own pictures."""
    _literal_texts(fig)
    with _styled():
        write_whole(path, lambda place: fig.savefig(place, dpi=dpi, format="png", metadata=PNG_METADATA))


def to_svg(fig: Figure, description: str, series: Mapping[int, str]) -> Markup:
    """Returns a figure as SVG for a page: its colours are the page's variables, its texts stay texts.

    Args:
        fig: drawn; an artist with the gid ``series-N`` becomes a group of class ``s`` with ``data-s="N"``.
        description: for readers who cannot see it.
        series: number to name, shown as a tooltip.
    """
    _literal_texts(fig)
    stream = io.StringIO()
    with _styled():
        fig.savefig(
            stream, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = stream.getvalue()
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{escape(description)}">', svg)

    def group(match: re.Match[str]) -> str:
        number = int(match[1])
        return f'<g class="s" data-s="{number}"><title>{escape(series[number])}</title>'

    svg = re.sub(r'<g id="series-(\d+)">', group, svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg).replace("xlink:href", "href")
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]).replace("\n", ""), svg)
    variables = {INK: "ink", SOFT: "soft", LINE: "line", **{c: f"c{n}" for n, c in enumerate(COLOURS)}}
    for colour, name in variables.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(printable(svg))
