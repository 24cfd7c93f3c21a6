"""What a run writes down of itself, and what of it must be the same when it is continued."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samix.data import ImageData
from samix.recipes import Recipe
from samix.recipes.pretrain_recipe import recipe_of


def describe_data(data: ImageData) -> dict[str, Any]:
    """What a checkpoint remembers of its data."""
    return {
        "name": data.name,
        "images": len(data.train),
        "classes": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def check_same(state: Mapping[str, Any], recipe: Recipe, data: ImageData, path: Path) -> None:
    """Compares a checkpoint with the run that is to continue it.

    Args:
        state: of the checkpoint.
        recipe: of the run.
        data: of the run.
        path: of the checkpoint, for the message.

    Raises:
        ValueError: it is of another recipe or of other data; names what differs.
    """
    # Fields that are newer than the checkpoint were then what their defaults are.
    old, new = (json.loads(json.dumps(r.to_dict())) for r in (recipe_of(state["recipe"]), recipe))
    differing = [f"{k} was {old.get(k)!r}, is {new[k]!r}" for k in new if old.get(k) != new[k]]
    if differing:
        raise ValueError(f"{path} is of another recipe ({'; '.join(differing)}); resume with the same options")
    now = describe_data(data)
    changed = [f"{k} was {v!r}, is {now.get(k)!r}" for k, v in state["data"].items() if now.get(k) != v]
    if changed:
        raise ValueError(f"{path} was trained on other data ({'; '.join(changed)}); restore it, or start another run")


def summarise(rows: Sequence[Mapping[str, float]], score: str, headline: Sequence[str]) -> dict[str, float]:
    """The figures of a finished run.

    Args:
        rows: of its epochs; not every one has a score.
        score: the metric that the best checkpoint is kept by.
        headline: names of the metrics to give of the last epoch.
    """
    final = rows[-1]
    scores = [row[score] for row in rows if score in row]
    best = {f"{score}_best": max(scores), f"{score}_median_last_10": statistics.median(scores[-10:])} if scores else {}
    return {
        **{key: final[key] for key in headline if key in final},
        **best,
        **{key: value for key, value in final.items() if key.startswith("top1_")},
    }


def log_to_tensorboard(folder: Path, row: Mapping[str, float]) -> None:
    """Adds the figures of an epoch to a TensorBoard log.

    Raises:
        ValueError: the package is missing; names the extra that brings it.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError('--tensorboard needs the package: pip install "samix[tensorboard]"') from None
    with SummaryWriter(str(folder), purge_step=int(row["step"])) as writer:
        for key, value in row.items():
            writer.add_scalar(key, value, int(row["step"]))
