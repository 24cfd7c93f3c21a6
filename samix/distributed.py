"""Rank, world size and gathering, right with and without a process group. The engine is torch.distributed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number, 0 on one process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, 1 on one process."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, in order of rank, without a gradient: (B, ...) -> (W B, ...)."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """As :func:`gather`; the backward pass sums the gradients of all processes and keeps this one's rows."""
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]


@torch.no_grad()
def from_first(value: Tensor) -> Tensor:
    """Rank 0's value on every process, in place."""
    if world_size() > 1:
        dist.broadcast(value, 0)
    return value
