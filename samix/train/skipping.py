"""Steps with numbers that are not finite: what is kept of them, and which weights they spoilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samix.data import ImageSet, TrainBatches
from samix.data.replacements import name_of
from samix.runtime.atomic_files import write_whole
from samix.runtime.nonfinite import BadStep


def save_bad_batch(
    path: Path, bad: BadStep, epoch: int, number: int, passes: int, train: TrainBatches, images: ImageSet
) -> str:
    """Writes a step's batches of this process for inspection: plain tensors, numbers and names.

    Args:
        path: of the file.
        bad: the step.
        epoch: from 0.
        number: of the step in its epoch, from 0.
        passes: batches of a step.
        train: makes them once more.
        images: whose names are noted.

    Returns:
        Where they are, or why they could not be saved, in words.
    """
    rows = torch.stack([train.rows(epoch, number * passes + part) for part in range(passes)])
    batches = train.epoch(epoch, number * passes)
    content = {
        "step": bad.step,
        "epoch": epoch + 1,
        "parts": list(bad.parts),
        "batches": [plain_tensors(next(batches)) for _ in range(passes)],
        "rows": rows,
        "names": [name_of(images, row) for row in rows.flatten().tolist()],
    }
    try:
        write_whole(path, lambda place: torch.save(content, place))
    except RuntimeError as error:  # the disk, or torch about it
        return f"its batch could not be saved ({error})"
    return f"its batch is in {path}"


def plain_tensors(batch: Any) -> Any:
    """A batch on the host, tuples as lists."""
    return batch.cpu() if isinstance(batch, Tensor) else [plain_tensors(part) for part in batch]


def bad_weights(module: nn.Module) -> list[str]:
    """Names of weights and buffers that are not finite; one look at the device for all."""
    weights = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
    return [name for name, good in zip(weights, finite, strict=True) if not good]
