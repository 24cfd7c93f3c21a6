"""Gradients taken early, so that a loss's graph is gone before the next loss is computed.

A step that sums losses of several passes holds the graphs of all passes until one ``backward``. :func:`gradients_now`
runs a loss's backward pass at once and returns a scalar of the same value whose own backward pass hands those
gradients on. Peak memory is then that of the largest pass, at no further arithmetic, and wrappers that gather
gradients over processes see them in the one ``backward`` that they expect.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

HALF_SCALE = 2.0**12  # keeps fp16's small gradients from vanishing, as a loss scaler does


class _Carried(torch.autograd.Function):
    """The value of a loss, with gradients that are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *_tensors: Tensor) -> Tensor:
        ctx.gradients = gradients  # ours alone: not saved, so that they are handed on without a copy
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "backward runs a second time through gradients that were used; set early_backward=False to keep the "
                "graph of a step"
            )
        factor = outer[0]
        if not is_one(factor):
            gradients = [gradient * factor.to(gradient.dtype) for gradient in gradients]
        return None, None, *gradients


def is_one(factor: Tensor) -> bool:
    """Whether a scalar is 1, as far as the host knows without waiting for a device."""
    return factor.device.type == "cpu" and float(factor) == 1.0


def gradients_now(loss: Tensor, inputs: Iterable[Tensor]) -> Tensor:
    """Returns the same loss, its graph already used: ``backward`` on it gives the inputs the gradients found now.

    Gradients are the same as without, up to the order of additions. Only first derivatives are known, and ``backward``
    runs once.

    Args:
        loss: a scalar. Without a graph it is returned as it is.
        inputs: leaves or inner tensors, of which some may be unused; nothing else gets a gradient.

    Returns:
        A scalar of the loss's value.
    """
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not (loss.requires_grad and wanted):
        return loss
    kind = loss.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    scale = HALF_SCALE if half else 1.0
    taken = torch.autograd.grad(loss * scale, wanted, allow_unused=True)
    used = [tensor for tensor, gradient in zip(wanted, taken, strict=True) if gradient is not None]
    gradients = [gradient if scale == 1.0 else gradient / scale for gradient in taken if gradient is not None]
    del taken
    carried: Tensor = _Carried.apply(loss.detach(), gradients, *used)
    return carried
