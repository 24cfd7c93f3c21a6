"""Order of images and seeds of random numbers: pure functions of (seed, epoch, place).

Nothing here depends on the number of worker processes or on what was drawn before, so that a run resumed in the middle
of an epoch, or spread over more ranks, sees the same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


def stream_seed(purpose: str, *parts: int) -> int:
    """Returns a seed in [0, 2^63) for each purpose and each tuple of whole numbers."""
    text = ",".join([purpose, *map(str, parts)]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Returns the permutation of 0..count - 1 that an epoch visits, (count,) int64."""
    generator = torch.Generator().manual_seed(stream_seed("order", seed, epoch))
    return torch.randperm(count, generator=generator)


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Returns rows that an epoch visits where every class is seen equally often, (N,) int64 for N labels.

    A class with more images than its share is seen in part, another part in each epoch; one with fewer is repeated,
    each of its images equally often but for one.
    """
    generator = torch.Generator().manual_seed(stream_seed("balance", seed, epoch))
    classes = labels.bincount().nonzero().squeeze(1)
    classes = classes[torch.randperm(len(classes), generator=generator)]  # the first ones get what does not divide
    share, rest = divmod(len(labels), len(classes))
    chosen = []
    for number, one in enumerate(classes.tolist()):
        rows = (labels == one).nonzero().squeeze(1)
        wanted = share + (number < rest)
        turns = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-wanted // len(rows)))]
        chosen += [row[:wanted] for row in [torch.cat(turns)] if wanted]
    rows = torch.cat(chosen)
    return rows[torch.randperm(len(rows), generator=generator)]


def replacement_of(count: int, seed: int, epoch: int, index: int, attempt: int) -> int:
    """Chooses the image in 0..count - 1 that replaces one that cannot be read, as a function of all arguments."""
    return stream_seed("stand-in", seed, epoch, index, attempt) % count


def rank_rows(order: Tensor, step: int, batch_size: int, rank: int, world_size: int) -> Tensor:
    """Returns the rows of one step on one rank, (batch_size,).

    The ranks together take order[step * batch_size * world_size : (step + 1) * batch_size * world_size], one after
    the other, so that W ranks with B / W images each see what one rank sees with B.
    """
    first = (step * world_size + rank) * batch_size
    return order[first : first + batch_size]


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one rank; `epoch` and `start_step` are set before each pass."""

    def __init__(
        self, count: int, batch_size: int, seed: int, rank: int, world_size: int, labels: Tensor | None = None
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world_size, self.labels = rank, world_size, labels
        self.epoch, self.start_step = 0, 0

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world_size)

    def order(self, epoch: int) -> Tensor:
        """Returns rows that an epoch visits on all ranks together, (count,) int64."""
        if self.labels is None:
            return epoch_order(self.count, self.seed, epoch)
        return balanced_order(self.labels, self.seed, epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(self.epoch, self.start_step)  # read now, not when the first batch is asked for

    def _batches(self, epoch: int, start_step: int) -> Iterator[list[tuple[int, int]]]:
        order = self.order(epoch)
        for step in range(start_step, len(self)):
            rows = rank_rows(order, step, self.batch_size, self.rank, self.world_size)
            yield [(epoch, index) for index in rows.tolist()]
