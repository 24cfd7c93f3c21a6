"""timm networks by name, with the stems that small images need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

SIZED = ("vit", "deit", "swin")  # networks that are told the size of their images


def create_network(
    architecture: str,
    num_classes: int,
    args: Mapping[str, Any],
    *,
    size: int,
    stem: str = "default",
    pretrained: bool = False,
) -> nn.Module:
    """A timm network.

    Args:
        architecture: its name in timm.
        num_classes: K of its classifier; 0 leaves it out.
        args: its keyword arguments.
        size: side of the images in pixels, for networks that must know it.
        stem: ``default``, ``small`` or ``half``, see :func:`small_stem`.
        pretrained: start from timm's weights (downloads them).

    Raises:
        ValueError: unknown name or arguments, or no small stem for it.
    """
    import timm

    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture.split('_')[0].split('.')[0]}*")[:8]
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ValueError(f"timm has no network {architecture!r}{hint}; timm.list_models() lists them all")
    try:
        model: nn.Module = timm.create_model(
            architecture, pretrained=pretrained, num_classes=num_classes, **sized_args(architecture, args, size)
        )
    except TypeError as error:
        raise ValueError(f"{architecture} does not take model_args {dict(args)}: {error}") from None
    return model if stem == "default" else small_stem(model, stride=1 if stem == "small" else 2)


def sized_args(architecture: str, args: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The arguments, with ``img_size`` for networks that must know it."""
    sized = {"img_size": size} if any(word in architecture for word in SIZED) else {}
    return {**sized, **args}


def small_stem(model: nn.Module, stride: int = 1) -> nn.Module:
    """Gives a ResNet the stem of the CIFAR benchmarks: a 3x3 stride-1 first convolution, and no pooling.

    Three-convolution ("deep") stems keep their form.

    Args:
        model: a timm ResNet; changed in place.
        stride: of the first convolution; 2 keeps the network's own and takes away the pooling only.

    Raises:
        ValueError: a network without ``conv1`` and ``maxpool``.
    """
    conv, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if conv is None or pool is None:
        raise ValueError(f'this stem is for ResNets; {type(model).__name__} has no conv1 and maxpool; use "default"')
    if stride == 1 and isinstance(conv, nn.Sequential):
        first: Any = conv[0]
        first.stride = (1, 1)
    elif stride == 1:
        model.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


@torch.no_grad()
def prune_after(model: nn.Module, stage: int) -> nn.Module:
    """Takes away what a timm network has behind a stage of its list of intermediates, in place; returns it."""
    prune = getattr(model, "prune_intermediate_layers", None)
    if prune is not None:
        prune([stage], prune_norm=True, prune_head=True)
    return model
