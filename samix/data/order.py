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


def stand_in(count: int, seed: int, epoch: int, index: int, attempt: int) -> int:
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
    """Batches of (epoch, index) for one rank; `epoch` and `start_step` are set before each pass.

    Args:
        count: number of images.
        batch_size: images of a step on this rank.
        seed: of the order.
        rank: this process, 0..world_size - 1.
        world_size: number of processes.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start_step = 0, 0

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(self.epoch, self.start_step)  # read now, not when the first batch is asked for

    def _batches(self, epoch: int, start_step: int) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.count, self.seed, epoch)
        for step in range(start_step, len(self)):
            rows = rank_rows(order, step, self.batch_size, self.rank, self.world_size)
            yield [(epoch, index) for index in rows.tolist()]
