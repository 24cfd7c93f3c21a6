"""The results as text: Markdown, CSV, and what the terminal shows at the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from samix.compare.results import Found

NONE = "–"
Column = tuple[str, list[str]]


def score_name(results: Found) -> str:
    """What the score of a run is called."""
    return f"{results.get('score', 'top-1')} %"


def cells_of(results: Found) -> list[Column]:
    """The columns of the table; those that nothing is known of are left out. The first is the mixup."""
    mixups: dict[str, Found] = results["mixups"]
    found = list(mixups.values())
    columns = [
        ("mixup", list(mixups)),
        (score_name(results), [spread(f["top1"], 2) for f in found]),
        ("gain over vanilla", [gain(f["gain"]) for f in found]),
        ("published", [NONE if f["published"] is None else f"{f['published']:.2f}" for f in found]),
        ("NLL, nats", [spread(f["nll"], 3) for f in found]),
        ("ECE %", [spread(f["ece"], 2) for f in found]),
        ("s per run", [seconds(f["seconds"]) for f in found]),
        ("time ×", [times(f["relative_seconds"]) for f in found]),
        ("memory ×", [times(f["relative_memory"]) for f in found]),
        ("mask spread", [mean(f["mask_std"], 2) for f in found]),
        ("mask corr.", [mean(f["mask_correlation"], 3) for f in found]),
        ("runs", [state(f) for f in found]),
    ]
    return [(head, cells) for head, cells in columns if set(cells) != {NONE}]


def spread(value: Found | None, digits: int) -> str:
    """Mean ± standard deviation; the mean alone of one run."""
    if value is None:
        return NONE
    std = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{std}"


def gain(value: Found | None) -> str:
    """Difference ± half of its 95 % interval, with its sign."""
    if value is None:
        return NONE
    error = "" if value["high"] is None else f" ± {value['high'] - value['mean']:.2f}"
    return f"{value['mean']:+.2f}{error}".replace("-", "−")


def mean(value: Found | None, digits: int) -> str:
    """The mean alone."""
    return NONE if value is None else f"{value['mean']:.{digits}f}"


def seconds(value: Found | None) -> str:
    """Seconds, with a decimal where they are few."""
    return mean(value, 1 if value and value["mean"] < 20 else 0)


def times(value: float | None) -> str:
    """A ratio."""
    return NONE if value is None else f"{value:.2f}"


def state(found: Found) -> str:
    """How many runs are finished, and how many failed or are still to come."""
    told = [f"{len(found['runs'])}"]
    told += [f"{len(found['failed'])} failed"] if found["failed"] else []
    told += [f"{found['missing']} to come"] if found["missing"] else []
    return ", ".join(told)


def failures(results: Found) -> list[str]:
    """A line for each failed run."""
    return [
        f"{label}{'' if failed['seed'] is None else ', seed ' + str(failed['seed'])}: {failed['error']}"
        for label, found in results["mixups"].items()
        for failed in found["failed"]
    ]


def counted_seeds(results: Found) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{results['seeds']} seed{'s' if results['seeds'] > 1 else ''}"


def about(results: Found) -> list[str]:
    """What the figures are, in sentences."""
    last, epochs = results["median_of_last"], results["epochs"]
    seeds = counted_seeds(results)
    classified = (
        f"Accuracy of a run: median of the held-out top-1 over its last {last} evaluations, of the reported classifier "
        "(for methods with an averaged copy, that copy with its clean head); NLL and ECE (15 bins) likewise."
    )
    nearest = (
        f"Accuracy of a run: median over its last {last} evaluations of the share of held-out images whose nearest "
        "neighbours among the training images, by the features, are of their class."
    )
    told = [
        nearest if results.get("score") == "kNN" else classified,
        f"± after a mean is the standard deviation over {seeds}; after a gain it is half of the 95 % interval of "
        "the differences paired by seed. An interval that contains zero shows no difference.",
        "The order of the images and their augmentation are the same for all mixups with the same seed.",
    ]
    told.append("Seconds are of training without evaluation; runs that go side by side slow each other.")
    if last >= epochs:
        told.append(f"These runs have {epochs} epochs only, so the median is over all of them.")
    if results["overrides"] and any(f["published"] is not None for f in results["mixups"].values()):
        told.append("Published values are of the whole recipe, not of the changed one that was run here.")
    if results["memory_of"] == "process":
        told.append("Memory is the most that the whole process had, Python and libraries included.")
    return told


def variants(results: Found) -> list[tuple[str, str]]:
    """Those rows whose name does not say what they are, and what they are."""
    return [(label, f["spec"]) for label, f in results["mixups"].items() if f.get("spec", label) != label]


def variant_lines(results: Found) -> list[str]:
    """The same as a list in Markdown, with a blank line at its end; nothing where all names speak for themselves."""
    lines = [f"- {label}: `{spec}`" for label, spec in variants(results)]
    return [*lines, ""] if lines else []


def heading(results: Found) -> str:
    """What was run, in a line."""
    changed = ", ".join(f"{k} {v}" for k, v in results["overrides"].items())
    name = f"recipe {results['recipe']}" + (f" with {changed}" if changed else "")
    return (
        f"{name}: {results['model']} on {results['data']} at {results['size']} px, {results['epochs']} epochs, "
        f"{counted_seeds(results)}"
    )


def ablation_lines(results: Found) -> list[str]:
    """What each ablation asks, and what is published of it."""
    return [
        f"Ablation {found['name']}: {found['question']} Published, without figures that we could check: "
        f"{found['published']}"
        for found in results.get("ablations", [])
    ]


def markdown(results: Found, command: str) -> str:
    """The table as Markdown, with what it is above and below."""
    columns = cells_of(results)
    lines = [f"{heading(results)[0].upper()}{heading(results)[1:]}. {results['device']}.", "", f"`{command}`", ""]
    lines.append("| " + " | ".join(head for head, _ in columns) + " |")
    lines.append("|---" * len(columns) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows_of(columns)]
    lines += ["", *variant_lines(results), *ablation_lines(results), *about(results)]
    failed = failures(results)
    lines += ["", "Failed:", "", *[f"- {line}" for line in failed]] if failed else []
    return "\n".join(lines) + "\n"


def rows_of(columns: Sequence[Column]) -> list[list[str]]:
    """The cells line by line."""
    return [list(row) for row in zip(*[cells for _, cells in columns], strict=True)]


def plain(results: Found) -> str:
    """The table for a terminal."""
    columns = cells_of(results)
    widths = [max(map(len, [head, *cells])) for head, cells in columns]
    lines = [[head for head, _ in columns], *rows_of(columns)]
    told = ["   ".join(f"{cell:{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*told, *[f"FAILED  {line}" for line in failures(results)]])


PAIRS = ("top1", "top5", "nll", "ece", "top1_end", "top1_best", "seconds", "memory")
MEANS = ("mask_std", "mask_correlation", "mask_error")


def comma_separated(results: Found) -> str:
    """All figures, not rounded, a line for each mixup."""
    found = io.StringIO()
    writer = csv.writer(found, lineterminator="\n")
    heads = [part for name in PAIRS for part in (name, f"{name}_std")]
    writer.writerow(
        ["mixup", "runs", "failed", *heads, "gain", "gain_low", "gain_high", "published", "time_x", "memory_x", *MEANS]
    )
    for label, f in results["mixups"].items():
        pairs = [f[name][key] if f[name] else None for name in PAIRS for key in ("mean", "std")]
        gained = [f["gain"][key] for key in ("mean", "low", "high")] if f["gain"] else [None] * 3
        masks = [f[name]["mean"] if f[name] else None for name in MEANS]
        ratios = [f["relative_seconds"], f["relative_memory"]]
        writer.writerow([label, len(f["runs"]), len(f["failed"]), *pairs, *gained, f["published"], *ratios, *masks])
    return found.getvalue()
