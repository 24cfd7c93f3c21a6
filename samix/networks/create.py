"""timm networks by name, with the stems that small images need."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import cache

import torch
from torch import nn


def create_network(
    architecture: str,
    num_classes: int,
    args: Mapping[str, object],
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
    """
    import timm

    check_name(architecture)
    try:
        model: nn.Module = timm.create_model(
            architecture, pretrained=pretrained, num_classes=num_classes, **sized_args(architecture, args, size)
        )
    except TypeError as error:
        raise ValueError(f"{architecture} does not take model_args {dict(args)}: {error}") from None
    except (AssertionError, RuntimeError, ZeroDivisionError, IndexError) as error:
        if pretrained:  # perhaps of its weights
            raise
        raise ValueError(
            f"{architecture} cannot be built for images of {size} pixels ({type(error).__name__}: {error}); take "
            "another size, or give its geometry by model_args"
        ) from error
    return model if stem == "default" else small_stem(model, stride=1 if stem == "small" else 2)


def check_name(architecture: str) -> None:
    """Raises ValueError unless timm has a network of that name; names close ones."""
    import timm

    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture.split('_')[0].split('.')[0]}*")[:8] if architecture else []
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ValueError(f"timm has no network {architecture!r}{hint}; timm.list_models() lists them all")


def sized_args(architecture: str, args: Mapping[str, object], size: int) -> dict[str, object]:
    """Returns the arguments, with ``img_size`` for networks that take it."""
    return {"img_size": size, **args} if "img_size" not in args and takes_image_size(architecture) else dict(args)


@cache
def takes_image_size(architecture: str) -> bool:
    """Whether a timm network is told the size of its images, by the signature of its class.

    The network is built without memory, to see its class.
    """
    import timm

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return takes_argument(type(timm.create_model(architecture)), "img_size")


def takes_argument(cls: type[object], name: str) -> bool:
    """Whether a class takes a keyword argument, itself or by handing it on to the class it derives from."""
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters
        if name in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def small_stem(model: nn.Module, stride: int = 1) -> nn.Module:
    """Gives a ResNet the stem of the CIFAR benchmarks: a 3x3 stride-1 first convolution, and no pooling.

    Three-convolution ("deep") stems keep their form.

    Args:
        model: a timm ResNet; changed in place.
        stride: of the first convolution; 2 keeps the network's own and takes away the pooling only.
    """
    conv, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if conv is None or pool is None:
        raise ValueError(f'this stem is for ResNets; {type(model).__name__} has no conv1 and maxpool; use "default"')
    if stride == 1 and isinstance(conv, nn.Sequential):
        conv[0].stride = (1, 1)  # type: ignore[assignment]  # a convolution's
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
