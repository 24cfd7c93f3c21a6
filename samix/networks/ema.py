"""The slow copy of a network: made, updated, scheduled."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Network = TypeVar("Network", bound=nn.Module)


def ema_copy(net: Network) -> Network:
    """An equal copy, parameters and buffers, whose parameters never need a gradient."""
    return copy.deepcopy(net).requires_grad_(False)


@torch.no_grad()
def update_ema(net: nn.Module, slow: nn.Module, momentum: float) -> None:
    """``slow <- momentum * slow + (1 - momentum) * net`` in place, for parameters only.

    Buffers are left alone: the slow network runs in train mode and keeps BatchNorm statistics of its own.

    Args:
        net: the network that is trained.
        slow: its copy.
        momentum: in [0, 1]; 1 changes nothing, 0 copies.
    """
    torch._foreach_lerp_(list(slow.parameters()), list(net.parameters()), 1.0 - momentum)


@torch.no_grad()
def update_ema_buffers(net: nn.Module, slow: nn.Module, momentum: float) -> None:
    """``slow <- momentum * slow + (1 - momentum) * net`` in place, for buffers; those of whole numbers are copied.

    Args:
        net: the network that is trained.
        slow: its copy, which keeps no statistics of its own.
        momentum: in [0, 1].
    """
    pairs = list(zip(slow.buffers(), net.buffers(), strict=True))
    moving = [(old, new) for old, new in pairs if old.is_floating_point()]
    if moving:
        torch._foreach_lerp_([old for old, _ in moving], [new for _, new in moving], 1.0 - momentum)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)


def train_norms(slow: nn.Module, mode: bool = True) -> None:
    """Train mode for the norms of a slow network that keep statistics; everything else, as dropout, is in eval mode."""
    for module in slow.modules():
        module.training = mode and hasattr(module, "running_var")


def ema_decay_at(progress: float, start: float, end: float, hold: float) -> float:
    """The cosine schedule of the released code: held at ``start``, then towards ``end``.

    ``m(p) = end - (end - start) (cos(pi p) + 1) / 2`` for p >= hold, with p counted from the beginning, so there is a
    small jump at ``hold``.

    Args:
        progress: p, share of the run that is done, in [0, 1].
        start: value held for p < hold, in [0, 1].
        end: value at p = 1, in [0, 1].
        hold: share of the run that is held, in [0, 1].
    """
    if progress < hold:
        return start
    return end - (end - start) * (math.cos(math.pi * progress) + 1.0) / 2.0


def warmed_up(decay: float, step: int) -> float:
    """``min(decay, (1 + t) / (10 + t))``: a decay for a copy that starts at the initial weights.

    Args:
        decay: in [0, 1].
        step: t, optimiser steps that are done.
    """
    return min(decay, (1.0 + step) / (10.0 + step))


@contextmanager
def untracked_batchnorm(net: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm normalises by the batch but leaves its running statistics alone."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
