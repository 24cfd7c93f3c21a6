"""BatchNorm over groups of a batch: what several GPUs give by themselves, on one.

With plain BatchNorm a query and its key share batch statistics, by which a network can tell the positive without
looking at the image (MoCo, arXiv:1911.05722, section 3.3). Statistics over groups, and keys in another order, break
that.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with the statistics of ``groups`` equal parts of the batch in training.

    The running statistics are those of the groups' mean, of C channels, so the state dict is that of BatchNorm2d.

    Args:
        num_features: C.
        groups: G; the batch must be divisible by it.
        kwargs: of BatchNorm2d.
    """

    def __init__(self, num_features: int, groups: int, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        if groups < 1:
            raise ValueError(f"groups must be at least 1, got {groups}")
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        if not self.training or self.groups == 1:
            return super().forward(input)
        batch, channels, *size = input.shape
        if batch % self.groups:
            raise ValueError(
                f"split BatchNorm needs a batch divisible by its {self.groups} groups, got {batch}; change batch_size"
            )
        if batch * math.prod(size) == self.groups:
            raise ValueError(
                f"split BatchNorm over {self.groups} groups has one value per channel in each: {batch} images with "
                f"maps of {tuple(size)}; take a larger batch or images, fewer groups (--method.groups), or a small stem"
            )
        groups, rows = self.groups, batch // self.groups
        kept = self.running_mean if self.track_running_stats else None
        mean, var = (None if kept is None else kept.new_zeros(groups * channels) for _ in range(2))
        weight = None if self.weight is None else self.weight.repeat(groups)
        bias = None if self.bias is None else self.bias.repeat(groups)
        # the groups side by side, as channels: row r of group g stands in row r
        apart = input.view(groups, rows, channels, *size).transpose(0, 1).reshape(rows, groups * channels, *size)
        result = F.batch_norm(apart, mean, var, weight, bias, True, 1.0, self.eps)
        if mean is not None and var is not None:
            self._track(mean.view(groups, channels).mean(0), var.view(groups, channels).mean(0))
        return result.view(rows, groups, channels, *size).transpose(0, 1).reshape(batch, channels, *size)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Moves the running statistics towards those of this batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            share = 1.0 / self.num_batches_tracked.to(mean.dtype)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var, share)
        else:
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var, momentum)


def split_batchnorm(model: nn.Module, groups: int) -> nn.Module:
    """Gives every BatchNorm2d of a network the statistics of ``groups`` parts of the batch, in place; returns it.

    Classes derived from BatchNorm2d, as timm's with an activation, keep their class and are given the split forward.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if type(module) is not nn.BatchNorm2d and type(module) is not SplitBatchNorm2d:
                raise ValueError(
                    f"split BatchNorm is for networks of nn.BatchNorm2d, this one has {type(module).__name__}; "
                    'use key_bn="none", or shuffle with several processes'
                )
            module.__class__ = SplitBatchNorm2d
            module.groups = groups  # type: ignore[assignment]  # now one of ours
    return model


def plain_batchnorm(model: nn.Module) -> nn.Module:
    """Takes :func:`split_batchnorm` back, in place; returns the network. The state dict is the same."""
    for module in model.modules():
        if isinstance(module, SplitBatchNorm2d):
            del module.groups
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # what it was
    return model
