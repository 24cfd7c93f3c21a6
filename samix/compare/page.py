"""report.html: the results of a comparison as one page."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from PIL import Image

from samix.compare.charts import Gain, curve_chart, curves_of, gain_chart, number_styles
from samix.compare.previews import SHOWN, STRIPS
from samix.compare.results import BASELINE, Results
from samix.compare.tables import (
    ablation_lines,
    about,
    cells_of,
    difference_cells,
    failures,
    heading,
    rows_of,
    score_name,
    variants,
)
from samix.viz.webpage import data_uri, render

PANELS = (
    ("top1", "Held-out {score}"),
    ("nll", "Held-out NLL, nats"),
    ("ece", "Calibration error, %"),
    ("loss", "Training loss"),
    ("mask_std", "Spread within a mask, in training"),
)
SMALL = 64  # sides up to this are kept pixel by pixel
LARGEST = 2_800_000  # bytes of the page


def report_page(results: Results, command: str) -> str:
    """Returns the page, below 3 MB: many pictures become coarser, and are left out if that is not enough."""
    seeds, columns, gains = results["seeds"], cells_of(results), gains_of(results)
    notes = ["bars: 95 % intervals, paired by seed"] if any(gain.error is not None for gain in gains) else []
    notes += ["◇: published gain"] if any(gain.published is not None for gain in gains) else []
    values = {
        "title": f"{len(results['mixups'])} mixups on {results['recipe']}, {seeds} seed{'s' if seeds > 1 else ''}",
        "heading": heading(results),
        "runs": sum(len(entry["runs"]) for entry in results["mixups"].values()),
        "device": results["device"],
        "failures": failures(results),
        "ablations": ablation_lines(results),
        "score": results["score"],
        "gains": gain_chart(gains) if gains else None,
        "gain_notes": "; ".join(notes),
        "styles": number_styles(list(results["mixups"])),
        "head": [name for name, _ in columns],
        "rows": rows_of(columns),
        "variants": variants(results),
        "difference_head": [name for name, _ in difference_cells(results)],
        "differences": rows_of(difference_cells(results)) if difference_cells(results) else [],
        "panels": panels_of(results),
        "strip_heads": ["B", *[f"λ {lam:g}" for lam in SHOWN], "A"],
        "about": about(results),
        "command": command,
        "versions": results["versions"],
    }
    for quality in (82, 60, 35, 0):
        text = render("report.html.j2", **values, pictures=pictures_of(results, quality) if quality else [])
        if len(text) < LARGEST:
            break
    return text


def gains_of(results: Results) -> list[Gain]:
    """Returns the gains over vanilla, measured and published."""
    styles = number_styles(list(results["mixups"]))
    base = results["mixups"].get(BASELINE, {}).get("published")
    gains = []
    for row, entry in results["mixups"].items():
        if entry["gain"] is not None:
            mean, high = entry["gain"]["mean"], entry["gain"]["high"]
            published = None if base is None or entry["published"] is None else entry["published"] - base
            gains.append(Gain(row, styles[row], mean, None if high is None else high - mean, published))
    return gains


def panels_of(results: Results) -> list[tuple[str, Markup]]:
    """Returns name and chart of each metric that is known."""
    panels = []
    for name, panel in PANELS:
        title, curves = panel.format(score=score_name(results)), curves_of(results, name)
        comparable = name != "loss" or results["score"] == "kNN"  # losses of different mixups measure different things
        if curves and comparable:
            last = results["median_of_last"] if name not in ("mask_std", "loss") else 0
            panels.append((title, curve_chart(curves, title, last)))
    return panels


def pictures_of(results: Results, quality: int) -> list[tuple[str, list[dict[str, object]]]]:
    """Returns the strips of mixed images of each row's first run."""
    pictures = []
    for row, entry in results["mixups"].items():
        folder = Path(entry["runs"][0]["folder"]) if entry["runs"] else None
        strips = [strip_image(folder / name, quality) for name in STRIPS if folder and (folder / name).is_file()]
        if strips:
            pictures.append((row, strips))
    return pictures


def strip_image(path: Path, quality: int) -> dict[str, object]:
    """Reads a strip as the attributes of an ``img``; small images keep their pixels."""
    with Image.open(path, formats=("PNG",)) as opened:
        picture = opened.convert("RGBA")
    crisp = picture.width // (len(SHOWN) + 2) <= SMALL
    source = data_uri(picture, "lossless" if crisp else quality)
    return {"source": source, "width": picture.width, "height": picture.height, "crisp": crisp}
