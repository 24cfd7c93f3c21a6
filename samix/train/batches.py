"""The batches of a recipe for one process of a run, and what cannot be read or computed of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samix.data import EvalBatches, ImageData, ImageSet, TrainBatches
from samix.data.replacements import OnBadImage, name_of, report
from samix.recipes import Recipe
from samix.recipes.build import build_augment
from samix.runtime.atomic_files import write_text, write_whole
from samix.runtime.console import tell
from samix.runtime.distributed import set_of_all
from samix.runtime.environment import usable_cores
from samix.runtime.nonfinite import NonFiniteStep


def build_batches(
    recipe: Recipe,
    data: ImageData,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    on_bad_image: OnBadImage = "stop",
) -> tuple[TrainBatches, EvalBatches]:
    """The training and held-out batches of a recipe, for one rank.

    Raises:
        ValueError: batch_size is not divisible by processes times accumulated passes.
    """
    size = batch_of_pass(recipe, world_size)
    common = common_options(recipe, device, rank, world_size, on_bad_image)
    common["augment"] = build_augment(recipe, data)
    balanced = recipe.class_balance == "sampling"
    train = TrainBatches(data, batch_size=size, seed=recipe.seed, balanced=balanced, **common)
    return train, EvalBatches(data, batch_size=max(size, 100), **common)


def batch_of_pass(recipe: Recipe, world_size: int) -> int:
    """Images of one pass on one process.

    Raises:
        ValueError: batch_size is not divisible by processes times accumulated passes.
    """
    parts = world_size * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size {recipe.batch_size} must be divisible by {parts} ({world_size} processes x accumulate "
            f"{recipe.accumulate})"
        )
    return recipe.batch_size // parts


def common_options(
    recipe: Recipe,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    on_bad_image: OnBadImage = "stop",
) -> dict[str, Any]:
    """Options that training and held-out batches share."""
    return {
        "size": recipe.size,
        "rank": rank,
        "world_size": world_size,
        "workers": 0 if recipe.device_data else min(recipe.workers, usable_cores()),
        "device": device,
        "on_device": recipe.device_data,
        "on_bad_image": on_bad_image,
    }


def channels_last(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """The batch with its images in that memory layout."""
    return tuple(
        channels_last(part)
        if isinstance(part, tuple)
        else part.contiguous(memory_format=torch.channels_last)
        if part.dim() == 4
        else part
        for part in batch
    )


class BadImages:
    """Counts the images of a run that cannot be read, over all processes, and names them to the user.

    Args:
        data: of the run.
        folder: of the run; ``bad-images.txt`` there names those of the last epoch that had some.
        speaks: whether this process is the one that writes and prints.
    """

    def __init__(self, data: ImageData, folder: Path, speaks: bool) -> None:
        self.data, self.folder, self.speaks = data, folder, speaks
        self.held_out: set[int] = set()  # named before

    def report_training(self, rows: set[int], epoch: int) -> int:
        """Counts an epoch's unreadable images, and names them on the terminal and in a file."""
        bad = sorted(set_of_all(rows))
        if bad and self.speaks:
            line = report(self.data.train, bad, f"training images could not be read in epoch {epoch}; others stood in")
            tell(f"samix: {line}")
            names = "".join(f"{name_of(self.data.train, row)}\n" for row in bad)
            write_text(self.folder / "bad-images.txt", names)
        return len(bad)

    def report_held_out(self, rows: set[int]) -> None:
        """Names the unreadable held-out images, once."""
        bad = set_of_all(rows)
        if bad - self.held_out and self.speaks:
            tell("samix: " + report(self.data.val, sorted(bad), "held-out images could not be read and are left out"))
        self.held_out |= bad


def save_bad_batch(
    path: Path, bad: NonFiniteStep, epoch: int, number: int, passes: int, train: TrainBatches, images: ImageSet
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
