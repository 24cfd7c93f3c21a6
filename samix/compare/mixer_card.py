"""Writes a Mixer's card with figures that are read from result files, never typed."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from tyro.conf import Positional

from samix.compare.paired import PairedDifference, paired_difference
from samix.mixers.card import MEASURED, mixer_card
from samix.mixers.folder import CARD, MixerWithEncoder
from samix.runtime.atomic_files import write_text

EVAL_RESULTS = Path(".eval_results") / "samix.yaml"
TINY, CIFAR = "zh-plus/tiny-imagenet", "uoft-cs/cifar10"  # the data's names on the hub
RIVALS = ("vanilla", "mixup", "cutmix", "guidedmixup", "mixup-clean-ema", "cutmix-clean-ema", "samix-constant", "samix")


@dataclass(frozen=True)
class Figure:
    """A measured figure of a Mixer."""

    name: str  # of the figure
    value: float
    error: str  # in words, with the number of seeds or pairs
    others: str  # the same figure of others, in words
    data: str  # on which it was measured
    dataset_id: str  # of the data on the hub
    task: str  # on that data
    source: str  # file that it was read from


@dataclass(frozen=True)
class MixerCard:
    """Writes a Mixer's card again, and its figures as ``.eval_results`` of the hub.

    Args:
        folder: folder of the Mixer.
        licence: licence of the weights; empty keeps the one that is there.
        masks: JSON file of ``benchmarks/mixer_quality.py``: what the masks keep of the objects.
        gains: CSV file of ``benchmarks/worth.py``: accuracy with the Mixer, paired by seed with other mixups.
        method: name of the Mixer in these files; empty takes the folder's name.
        picture: PNG of its masks, such as ``samix show mixer:DIR a.jpg b.jpg`` writes; copied.
    """

    folder: Positional[Path]
    licence: str = ""
    masks: Path | None = None
    gains: Path | None = None
    method: str = ""
    picture: Path | None = None

    def run(self) -> tuple[str, int]:
        """Writes the card and the figures, and returns the card's text and 0.

        Raises:
            FileNotFoundError, ValueError: not a Mixer's folder, a file that cannot be read, or a method that it lacks.
        """
        network, name = MixerWithEncoder.read(self.folder), self.method or self.folder.name
        about = dict(network.config.about)
        if self.licence:
            about["licence"] = self.licence
        if self.picture is not None:
            shutil.copyfile(self.picture, self.folder / "masks.png")
            about["picture"] = "masks.png"
        figures = mask_figures(self.masks, name) if self.masks else []
        figures += gain_figures(self.gains, name) if self.gains else []
        if self.masks or self.gains:
            about[MEASURED] = [asdict(figure) for figure in figures]
        if about != network.config.about:
            network.config = replace(network.config, about=about)
            network.write_config(self.folder)
        if figures:
            (self.folder / EVAL_RESULTS).parent.mkdir(exist_ok=True)
            write_text(self.folder / EVAL_RESULTS, yaml.safe_dump(eval_results(figures), sort_keys=False))
        text = mixer_card(network.config)
        write_text(self.folder / CARD, text)
        return text, 0


def eval_results(figures: list[Figure]) -> list[dict[str, Any]]:
    """Figures in the form of the hub's ``.eval_results`` files."""
    return eval_result_entries_to_yaml(
        [
            EvalResultEntry(
                dataset_id=figure.dataset_id,
                task_id=figure.task,
                value=figure.value,
                notes=f"{figure.name}; {figure.error}; {figure.others}; {figure.source}",
            )
            for figure in figures
        ]
    )


def mask_figures(path: Path, name: str) -> list[Figure]:
    """Reads one Mixer's figures from a file of ``benchmarks/mixer_quality.py``."""
    results = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or "quality" not in results:
        raise ValueError(f"{path} is not a result of benchmarks/mixer_quality.py")
    rows = results["quality"]
    if name not in rows:
        raise ValueError(f"{path} has no Mixer {name!r}; say --method, one of {', '.join(rows)}")
    others = ", ".join(f"{other} {row['kept']:.3f}" for other, row in rows.items() if other != name)
    kept = Figure(
        "share of the object kept at lambda 0.5",
        round(rows[name]["kept"], 4),
        f"± {rows[name]['kept_error']:.3f}, standard error over pairs",
        others,
        "Tiny-ImageNet, boxes of validation images",
        TINY,
        "object_kept",
        path.name,
    )
    return [kept]


def gain_figures(path: Path, name: str) -> list[Figure]:
    """Reads top-1 with a Mixer by setting, with its differences from other methods paired by seed."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"setting", "method", "seed", "top1", "machine", "options"} <= set(rows[0]):
        raise ValueError(f"{path} is not a result of benchmarks/worth.py")
    if name not in {row["method"] for row in rows}:
        raise ValueError(
            f"{path} has no method {name!r}; say --method, one of {', '.join({r['method'] for r in rows})}"
        )
    figures = []
    for setting in sorted({row["setting"] for row in rows if row["method"] == name}):
        by_method: dict[str, dict[tuple[str, str], float]] = {}  # runs of two machines are no pair
        runs = [row for row in rows if row["setting"] == setting]
        for row in runs:
            by_method.setdefault(row["method"], {})[row["machine"], row["seed"]] = float(row["top1"])
        own = by_method[name]
        images = json.loads(runs[0]["options"])["limit"]
        differences = {m: paired_difference(own, by_method[m]) for m in RIVALS if m in by_method}
        figures.append(
            Figure(
                f"top-1 % in setting {setting} of benchmarks/worth.py",
                round(statistics.fmean(own.values()), 2),
                f"{len(own)} runs" if len(own) > 1 else "one run, no error known",
                "difference from " + ", ".join(f"{m} {in_words(d)}" for m, d in differences.items() if d),
                f"CIFAR-10, {images:,} training images",
                CIFAR,
                "image_classification",
                path.name,
            )
        )
    return figures


def in_words(difference: PairedDifference) -> str:
    """Writes a paired difference with its interval."""
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.2f} (one seed)"
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
