"""The batches of a recipe for one process of a run, and reports of bad images and batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from samix.data import ImageData, ImageSet, TrainBatches, load_data
from samix.data.replacements import OnBadImage, name_of, report
from samix.recipes import Recipe
from samix.runtime.atomic_files import write_text, write_whole
from samix.runtime.checks import Values
from samix.runtime.console import tell
from samix.runtime.distributed import set_of_all
from samix.runtime.environment import usable_cores
from samix.runtime.nonfinite import NonFiniteStep
from samix.train.options import RunOptions

BatchPart = Tensor | tuple[Tensor, ...]  # images, labels, views, rows; further views are a tuple


def load_recipe_data(recipe: Recipe, options: RunOptions) -> ImageData:
    """Returns the data set of a recipe."""
    limit = recipe.limit or None
    return load_data(recipe.data, root=options.data_root, download=options.download, limit=limit, seed=recipe.seed)


def batch_of_pass(recipe: Recipe, world_size: int) -> int:
    """Returns the number of images of one pass on one process."""
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
) -> Values:
    """Returns options that training and held-out batches share."""
    return {
        "size": recipe.size,
        "rank": rank,
        "world_size": world_size,
        "workers": 0 if recipe.device_data else min(recipe.workers, usable_cores()),
        "device": device,
        "on_device": recipe.device_data,
        "on_bad_image": on_bad_image,
    }


def channels_last(batch: tuple[BatchPart, ...]) -> tuple[BatchPart, ...]:
    """Returns the batch with its images in that memory layout."""
    return tuple(map(_channels_last, batch))


def _channels_last(part: BatchPart) -> BatchPart:
    if isinstance(part, tuple):
        return tuple(one.contiguous(memory_format=torch.channels_last) for one in part)
    return part.contiguous(memory_format=torch.channels_last) if part.dim() == 4 else part


class BadImages:
    """Counts the images of a run that cannot be read, over all processes, and names them to the user."""

    def __init__(self, data: ImageData, folder: Path, speaks: bool) -> None:
        self.data, self.folder, self.speaks = data, folder, speaks
        self.held_out: set[int] = set()  # named before

    def report_training(self, rows: set[int], epoch: int) -> int:
        """Counts an epoch's unreadable images, and names them on the terminal and in a file."""
        bad = sorted(set_of_all(rows))
        if bad and self.speaks:
            line = report(
                self.data.train, bad, f"training images could not be read in epoch {epoch} and were replaced by others"
            )
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
    """Writes a step's batches of this process for inspection: plain tensors, numbers and names."""
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
        write_whole(path, lambda temporary: torch.save(content, temporary))
    except RuntimeError as error:  # the disk, or torch about it
        return f"its batch could not be saved ({error})"
    return f"its batch is in {path}"


def plain_tensors(batch: Iterable[BatchPart]) -> list[object]:
    """Returns a batch on the host, tuples as lists."""
    return [part.cpu() if isinstance(part, Tensor) else plain_tensors(part) for part in batch]
