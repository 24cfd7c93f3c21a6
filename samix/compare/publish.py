"""A comparison to keep beside the code: NAME.md with expected and measured figures, NAME.json, NAME.png."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from samix.compare.charts import draw_summary
from samix.compare.provenance import commit, machine, without_places
from samix.compare.results import BASELINE, Results
from samix.compare.tables import (
    NONE,
    Column,
    ablation_lines,
    about,
    cells_of,
    failed_lines,
    gain,
    heading,
    markdown_table,
    mean,
    score_name,
    variant_lines,
)
from samix.runtime.atomic_files import write_text

UNSHOWN = ("--read", "--quiet")  # options that do not change the results
DECIMALS = 4  # of the curves in the JSON file


def publish(target: Path, results: Results, command: Sequence[str]) -> list[Path]:
    """Writes TARGET.md, .json and .png, and returns their paths; a ``.md`` at the target's end is dropped."""
    if not any(entry["runs"] for entry in results["mixups"].values()):
        raise ValueError(f"no run is finished, so there is nothing to publish as {target}")
    target = target.with_suffix("") if target.suffix == ".md" else target
    target.parent.mkdir(parents=True, exist_ok=True)
    kept: Results = _portable(results)  # type: ignore[assignment]
    words = without_places(shlex.join(word for word in command if word not in UNSHOWN))
    origin = origins(results)
    page, data, picture = (target.parent / f"{target.name}{ending}" for ending in (".md", ".json", ".png"))
    write_text(data, json.dumps({"command": words, **origin, **kept}, indent=1))
    draw_summary(picture, kept)
    write_text(page, summary_page(target.name, kept, words, origin))
    return [page, data, picture]


def published_data(target: Path) -> Path:
    """Returns the JSON file of a published comparison, by the path that ``publish`` is given."""
    target = target.with_suffix("") if target.suffix == ".md" else target
    return target.parent / f"{target.name}.json"


def _portable(value: object) -> object:
    """Drops this machine's folders from results, and rounds the curves."""
    if isinstance(value, dict):
        return {key: _portable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [round(part, DECIMALS) if isinstance(part, float) else _portable(part) for part in value]
    return without_places(value) if isinstance(value, str) else value


def origins(results: Results) -> Results:
    """Returns commits and hardware that the runs noted, and those of this process."""
    runs = [run for entry in results["mixups"].values() for run in entry["runs"]]
    return {
        "commits": sorted({run["commit"] for run in runs if run.get("commit")}),
        "hardware": sorted({run["machine"] for run in runs if run.get("machine")}),
        "written_at": {"commit": commit(), "hardware": machine()},
    }


def summary_columns(results: Results) -> list[Column]:
    """Returns the table: expected figures beside measured ones, then the rest."""
    rest, entries, name = dict(cells_of(results)), results["mixups"], score_name(results)
    empty = [NONE] * len(entries)
    base = entries.get(BASELINE, {}).get("published")
    expected = {
        row: None if base is None or entry["published"] is None else entry["published"] - base
        for row, entry in entries.items()
    }
    table = {
        "mixup": rest.pop("mixup"),
        f"expected {name}": rest.pop("published", empty),
        f"measured {name}": rest.pop(name, empty),
        "expected gain": [
            gain({"mean": value, "high": None} if value and row != BASELINE else None)
            for row, value in expected.items()
        ],
        "measured gain": rest.pop("gain over vanilla", empty),
        "last epoch": [mean(entry["top1_end"], 2) for entry in entries.values()],
    }
    return [*table.items(), *rest.items()]


def summary_page(title: str, results: Results, command: str, origin: Results) -> str:
    """Returns the Markdown page."""
    run = heading(results)
    lines = [f"# {title}", "", f"{run[0].upper()}{run[1:]}.", "", f"`{command}`", "", f"![{title}]({title}.png)", ""]
    lines += [*markdown_table(summary_columns(results)), "", *variant_lines(results)]
    if any(entry["published"] is not None for entry in results["mixups"].values()):
        lines += [f"Expected: published for recipe {results['recipe']}, see `samix recipes`.", *ablation_lines(results)]
    else:
        lines += ablation_lines(results) or ["Nothing is published for this recipe, so no figures are expected."]
    lines += ["", *[f"- {line}" for line in about(results)], "", *failed_lines(results), *provenance(results, origin)]
    return "\n".join([*lines, "", f"All runs, their curves and figures: [{title}.json]({title}.json).", ""])


def provenance(results: Results, origin: Results) -> list[str]:
    """Returns hardware, commit and versions in two lines."""
    written = origin["written_at"]
    hardware = origin["hardware"] or [f"{written['hardware']} (where this was written)"]
    commits = origin["commits"] or [f"{written['commit'] or 'unknown'} (of this page; the runs noted none)"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    return [
        f"Hardware: {'; '.join(hardware)}. Device of a run: {results['device'] or 'unknown'}.",
        f"Commit: {', '.join(commits)}. {versions}.",
    ]
