"""Gradients taken early, so that a loss's graph is gone before the next loss is computed.

A step that sums losses of several passes holds the graphs of all passes until one ``backward``. :func:`gradients_now`
runs a loss's backward pass at once and gives back a scalar of the same value whose own backward pass hands those
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
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[:count])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradients = [gradient * outer[0].to(gradient.dtype) for gradient in ctx.saved_tensors]
        return None, None, *([None] * len(gradients)), *gradients


def gradients_now(loss: Tensor, inputs: Iterable[Tensor]) -> Tensor:
    """The same loss, its graph already used: ``backward`` on it gives the inputs the gradients found now.

    Gradients are the same as without, up to the order of additions. Only first derivatives are known.

    Args:
        loss: a scalar. Without a graph it is given back as it is.
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
    found = torch.autograd.grad(loss * scale, wanted, allow_unused=True)
    used = [(tensor, gradient) for tensor, gradient in zip(wanted, found, strict=True) if gradient is not None]
    gradients = [gradient if scale == 1.0 else gradient / scale for _, gradient in used]
    carried: Tensor = _Carried.apply(loss.detach(), len(used), *gradients, *(tensor for tensor, _ in used))
    return carried
