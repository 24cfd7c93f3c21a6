"""The results as text: Markdown, CSV, and the table that the terminal shows at the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from samix.compare.results import Results

NONE = "–"
Column = tuple[str, list[str]]
PAIRS = ("top1", "top5", "nll", "ece", "top1_end", "top1_best", "seconds", "memory")
MEANS = ("mask_std", "mask_correlation", "mask_error")


def score_name(results: Results) -> str:
    """Names the score of a run."""
    return f"{results.get('score', 'top-1')} %"


def cells_of(results: Results) -> list[Column]:
    """Returns the columns of the table, without those that are empty; the first names the mixup."""
    entries: list[Results] = list(results["mixups"].values())
    columns = [
        ("mixup", list(results["mixups"])),
        (score_name(results), [spread(e["top1"], 2) for e in entries]),
        ("gain over vanilla", [gain(e["gain"]) for e in entries]),
        ("published", [NONE if e["published"] is None else f"{e['published']:.2f}" for e in entries]),
        ("NLL, nats", [spread(e["nll"], 3) for e in entries]),
        ("ECE %", [spread(e["ece"], 2) for e in entries]),
        ("s per run", [mean(e["seconds"], 1 if e["seconds"] and e["seconds"]["mean"] < 20 else 0) for e in entries]),
        ("time ×", [ratio(e["relative_seconds"]) for e in entries]),
        ("memory ×", [ratio(e["relative_memory"]) for e in entries]),
        ("mask spread", [mean(e["mask_std"], 2) for e in entries]),
        ("mask corr.", [mean(e["mask_correlation"], 3) for e in entries]),
        ("epochs", epochs_of(entries)),
        ("runs", [state(e) for e in entries]),
    ]
    return [(head, cells) for head, cells in columns if set(cells) != {NONE}]


def epochs_of(entries: Sequence[Results]) -> list[str]:
    """Returns the epochs of each row; nothing where all have the same."""
    epochs = [str(entry.get("epochs", NONE)) for entry in entries]
    return epochs if len(set(epochs)) > 1 else [NONE] * len(epochs)


def difference_cells(results: Results) -> list[Column]:
    """Returns the columns of the paired differences from vanilla and from each control; empty without controls."""
    mixups: Results = results["mixups"]
    bases = list(dict.fromkeys(base for entry in mixups.values() for base in entry.get("differences", {})))
    if len(bases) < 2:  # vanilla alone is in the main table
        return []
    columns = [(f"less {base}", [interval(e["differences"].get(base)) for e in mixups.values()]) for base in bases]
    return [("mixup", list(mixups)), *columns]


def interval(value: Results | None) -> str:
    """Writes a difference with its 95 % interval."""
    if value is None:
        return NONE
    limits = "" if value["low"] is None else f" ({value['low']:+.2f} to {value['high']:+.2f})"
    return f"{value['mean']:+.2f}{limits}".replace("-", "−")


def spread(value: Results | None, digits: int) -> str:
    """Writes mean ± standard deviation; the mean alone of one run."""
    std = "" if value is None or value["std"] is None else f" ± {value['std']:.{digits}f}"
    return mean(value, digits) + std


def gain(value: Results | None) -> str:
    """Writes a difference ± half of its 95 % interval, with its sign."""
    if value is None:
        return NONE
    error = "" if value["high"] is None else f" ± {value['high'] - value['mean']:.2f}"
    return f"{value['mean']:+.2f}{error}".replace("-", "−")


def mean(value: Results | None, digits: int) -> str:
    """Writes the mean alone."""
    return NONE if value is None else f"{value['mean']:.{digits}f}"


def ratio(value: float | None) -> str:
    """Writes a ratio."""
    return NONE if value is None else f"{value:.2f}"


def state(entry: Results) -> str:
    """Counts the runs that are finished, failed, and still to come."""
    parts = [f"{len(entry['runs'])}"]
    parts += [f"{len(entry['failed'])} failed"] if entry["failed"] else []
    parts += [f"{entry['missing']} to come"] if entry["missing"] else []
    return ", ".join(parts)


def failures(results: Results) -> list[str]:
    """Returns a line for each failed run."""
    return [
        f"{label}{'' if failed['seed'] is None else ', seed ' + str(failed['seed'])}: {failed['error']}"
        for label, entry in results["mixups"].items()
        for failed in entry["failed"]
    ]


def failed_lines(results: Results) -> list[str]:
    """Returns the failed runs as a list in Markdown; empty where none failed."""
    lines = [f"- {line}" for line in failures(results)]
    return ["Failed:", "", *lines, ""] if lines else []


def counted_seeds(results: Results) -> str:
    """Writes ``1 seed``, ``3 seeds``."""
    return f"{results['seeds']} seed{'s' if results['seeds'] > 1 else ''}"


def about(results: Results) -> list[str]:
    """Explains the figures in sentences."""
    last, epochs = results["median_of_last"], results["epochs"]
    classified = (
        f"Accuracy of a run: median of the held-out top-1 over its last {last} evaluations, of the reported classifier "
        "(for methods with an averaged copy, that copy with its clean head); NLL and ECE (15 bins) likewise."
    )
    nearest = (
        f"Accuracy of a run: median over its last {last} evaluations of the share of held-out images whose nearest "
        "neighbours among the training images, by the features, are of their class."
    )
    lines = [
        nearest if results.get("score") == "kNN" else classified,
        f"± after a mean is the standard deviation over {counted_seeds(results)}; after a gain it is half of the 95 % "
        "interval of the differences paired by seed. An interval that contains zero shows no difference.",
        "The order of the images and their augmentation are the same for all mixups with the same seed.",
        "Seconds are of training without evaluation; runs side by side slow each other. Runs of different machines or "
        "numbers of threads are not compared in time.",
    ]
    if last >= epochs:
        lines.append(f"These runs have {epochs} epochs only, so the median is over all of them.")
    if results["overrides"] and any(entry["published"] is not None for entry in results["mixups"].values()):
        lines.append("Published values are of the whole recipe, not of the changed one that was run here.")
    if results["memory_of"] == "process":
        lines.append("Memory is the peak of the whole process, Python and libraries included.")
    return lines


def variants(results: Results) -> list[tuple[str, str]]:
    """Returns name and options of the rows whose name does not give the options."""
    return [(label, e["spec"]) for label, e in results["mixups"].items() if e.get("spec", label) != label]


def variant_lines(results: Results) -> list[str]:
    """Returns the same as a list in Markdown with a blank line at its end."""
    lines = [f"- {label}: `{spec}`" for label, spec in variants(results)]
    return [*lines, ""] if lines else []


def heading(results: Results) -> str:
    """Says in a line what was run."""
    changed = ", ".join(f"{k} {v}" for k, v in results["overrides"].items())
    name = f"recipe {results['recipe']}" + (f" with {changed}" if changed else "")
    return (
        f"{name}: {results['model']} on {results['data']} at {results['size']} px, {results['epochs']} epochs, "
        f"{counted_seeds(results)}"
    )


def ablation_lines(results: Results) -> list[str]:
    """Returns the question of each ablation and the published conclusion."""
    return [
        f"Ablation {a['name']}: {a['question']} Published, without figures that we could check: {a['published']}"
        for a in results.get("ablations", [])
    ]


def rows_of(columns: Sequence[Column]) -> list[list[str]]:
    """Returns the cells line by line."""
    return [list(row) for row in zip(*[cells for _, cells in columns], strict=True)]


def markdown_table(columns: Sequence[Column]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [[head for head, _ in columns], ["---"] * len(columns), *rows_of(columns)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def markdown(results: Results, command: str) -> str:
    """Returns table.md: the table, what was run above it, and what the figures mean below."""
    run = heading(results)
    lines = [f"{run[0].upper()}{run[1:]}. {results['device']}.", "", f"`{command}`", ""]
    lines += [*markdown_table(cells_of(results)), "", *variant_lines(results)]
    if differences := difference_cells(results):
        lines += ["Paired differences, with 95 % intervals:", "", *markdown_table(differences), ""]
    lines += [*ablation_lines(results), *about(results), "", *failed_lines(results)]
    return "\n".join(lines).rstrip("\n") + "\n"


def plain(results: Results) -> str:
    """Returns the table for a terminal."""
    columns = cells_of(results)
    widths = [max(map(len, [head, *cells])) for head, cells in columns]
    rows = [[head for head, _ in columns], *rows_of(columns)]
    lines = ["   ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *[f"FAILED  {line}" for line in failures(results)]])


def comma_separated(results: Results) -> str:
    """Returns table.csv: all figures, not rounded, a line for each mixup."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = [part for name in PAIRS for part in (name, f"{name}_std")]
    gains = ["gain", "gain_low", "gain_high"]
    writer.writerow(["mixup", "runs", "failed", *heads, *gains, "published", "time_x", "memory_x", *MEANS])
    for label, e in results["mixups"].items():
        pairs = [e[name][key] if e[name] else None for name in PAIRS for key in ("mean", "std")]
        gained = [e["gain"][key] for key in ("mean", "low", "high")] if e["gain"] else [None] * 3
        masks = [e[name]["mean"] if e[name] else None for name in MEANS]
        ratios = [e["relative_seconds"], e["relative_memory"]]
        writer.writerow([label, len(e["runs"]), len(e["failed"]), *pairs, *gained, e["published"], *ratios, *masks])
    return stream.getvalue()
