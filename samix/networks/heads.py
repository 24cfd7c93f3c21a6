"""Projectors and predictors of learning without labels, as their papers build them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp_projector(width: int, dim: int, hidden: int | None = None) -> nn.Module:
    """Linear, ReLU, linear, with biases and without norm: MoCo v2 (arXiv:2003.04297). ``hidden`` None is ``width``."""
    hidden = width if hidden is None else hidden
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))


def normed_mlp(
    widths: tuple[int, ...],
    *,
    bias: bool = False,
    last_norm: bool = True,
    last_affine: bool = True,
    last_bias: bool | None = None,
) -> nn.Module:
    """Linear layers with BatchNorm and ReLU between.

    Args:
        widths: of input, hidden layers and output; at least two.
        bias: of the linear layers.
        last_norm: BatchNorm after the last layer too.
        last_affine: with its scale and shift.
        last_bias: of the last linear layer; None is ``bias``.
    """
    if len(widths) < 2:
        raise ValueError(f"an MLP needs the widths of its input and its output, got {widths}")
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        last = number == len(widths) - 2
        layers.append(nn.Linear(before, after, bias=last_bias if last and last_bias is not None else bias))
        if not last:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        elif last_norm:
            layers.append(nn.BatchNorm1d(after, affine=last_affine))
    return nn.Sequential(*layers)


def idle(module: nn.Module) -> Tensor:
    """A scalar 0 that depends on every parameter of a module, for steps that do not train it.

    DistributedDataParallel waits for the gradient of every parameter, in every step.
    """
    return torch.stack([p.float().sum() for p in module.parameters()]).sum() * 0.0
