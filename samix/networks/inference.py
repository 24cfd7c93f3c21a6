"""Looking at a network without leaving a trace: modes, statistics, gradients and random numbers stay as they were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
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


@contextmanager
def in_place_of(module: nn.Module, name: str, function: Callable[..., object]) -> Iterator[None]:
    """Inside, an object's method is another function."""
    own = dict(module.__dict__)
    module.__dict__[name] = function
    try:
        yield
    finally:
        del module.__dict__[name]
        if name in own:  # somebody else had put one there
            module.__dict__[name] = own[name]


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel, or the network."""
    return model.module if isinstance(model, DistributedDataParallel) else model


# Images that do not fit ----------------------------------------------------------------------------------------------

OTHER_CHANNELS = re.compile(r"expected input\[[\d, ]+\] to have (\d+) channels, but got (\d+) channels")  # of torch


def channel_misfit(error: BaseException, channels: int) -> str:
    """Says what to do about torch's error for images of other channels than the network takes; empty for others.

    Args:
        error: of a pass.
        channels: of the images.
    """
    sizes = OTHER_CHANNELS.search(str(error))
    if sizes is None or int(sizes[2]) != channels:  # of a layer inside
        return ""
    return (
        f"the network takes {sizes[1]}-channel images, got {channels}-channel ones; create it for them "
        f"(in_chans={channels} in timm), or give {sizes[1]}-channel images"
    )


@contextmanager
def plain_errors(images: object, network: nn.Module) -> Iterator[None]:
    """Inside, torch's errors for images of other channels or another type than the network's say what to do.

    Args:
        images: (B, C, H, W), or a batch that begins with them.
        network: that they are given to.
    """
    try:
        yield
    except RuntimeError as error:
        while isinstance(images, Sequence) and images:
            images = images[0]
        if not isinstance(images, Tensor) or images.dim() != 4:
            raise
        message, own = channel_misfit(error, images.shape[1]), next((p.dtype for p in network.parameters()), None)
        if own is not None and own != images.dtype and "type" in str(error):
            message = f"images are {images.dtype}, the network is {own}; use images.to({own}), or torch.autocast"
        if not message:
            raise
        raise ValueError(message) from error
