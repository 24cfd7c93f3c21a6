"""Rank and world size, right with and without a process group. The engine of the real thing is torch.distributed."""

from __future__ import annotations

import torch.distributed as dist


def rank() -> int:
    """This process's number, 0 on one process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, 1 on one process."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
