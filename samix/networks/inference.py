"""Looking at a network without leaving a trace: modes, statistics, gradients and random numbers stay as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; afterwards every submodule is back in the mode it had."""
    with eval_mode(*modules), torch.no_grad():
        yield


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards, also when the network raises, every submodule is back in the mode it had."""
    modes = [(m, m.training) for module in modules for m in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def inspecting(model: nn.Module, *, grad: bool = False) -> Iterator[nn.Module]:
    """An extra pass that leaves no trace: eval mode, random states as before, also when the network raises.

    Eval mode leaves BatchNorm's statistics alone. Gradients of the parameters are not touched as long as they are asked
    for by ``torch.autograd.grad`` with respect to something else.

    Args:
        model: the network; a DistributedDataParallel is looked into, so that no process waits for another.
        grad: record a graph inside, whatever the mode outside.

    Yields:
        The network itself, without its wrapper.
    """
    inner = unwrap(model)
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), eval_mode(inner), torch.inference_mode(False):
        with torch.set_grad_enabled(grad):
            yield inner


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel, or the network."""
    return model.module if isinstance(model, DistributedDataParallel) else model
