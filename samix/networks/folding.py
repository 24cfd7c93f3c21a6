"""BatchNorm folded into the convolution before it: the same numbers in eval mode, without the norm's passes.

In eval mode a norm multiplies each channel by ``s = weight / sqrt(var + eps)`` and adds ``bias - s mean``, so that
``norm(conv(x))`` is a convolution with the weights ``s W`` and the bias ``s (b - mean) + bias``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samix.networks.backbone import Backbone, hooked
from samix.networks.inference import looking

CONVOLUTIONS = ("Conv2d", "Conv2dSame")  # by name, the second being timm's: they use their weight as it is
SAME = 1e-6  # largest difference of features in float64, relative to the largest feature


@dataclass(frozen=True)
class Pair:
    """Dotted names, in one network, of a convolution and the norm that alone reads what it gives."""

    conv: str
    norm: str


@contextmanager
def folded(net: nn.Module, pairs: Sequence[Pair]) -> Iterator[None]:
    """Inside, those norms are part of their convolutions, with the weights and statistics of this moment.

    Gradients reach the network's input, not the parameters of those layers. The state of the network, as its state
    dict, is as before afterwards, also when the network raises.

    Args:
        net: in eval mode; weights and statistics must not be changed inside.
        pairs: as :func:`foldable` found them.
    """
    changed: list[tuple[dict[str, Any], str, Any]] = []  # a module's dictionary, a name in it, what was there

    def put(places: dict[str, Any], name: str, value: Any) -> None:
        changed.append((places, name, places[name]))
        places[name] = value

    try:
        for pair in pairs:
            conv, norm = net.get_submodule(pair.conv), net.get_submodule(pair.norm)
            weight, bias = folded_weights(conv, norm)
            put(conv._parameters, "weight", weight)
            put(conv._parameters, "bias", bias)
            parent, _, name = pair.norm.rpartition(".")
            put(net.get_submodule(parent)._modules, name, behind(norm))
        yield
    finally:
        for places, name, value in reversed(changed):
            places[name] = value


@torch.no_grad()
def folded_weights(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight (O, I/groups, h, w) and bias (O,) of the convolution that does the work of both."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale)
    return conv.weight * scale.view(-1, 1, 1, 1), bias


def behind(norm: nn.Module) -> nn.Module:
    """What a norm does beside normalising: the activation of timm's norms, nothing for others."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def foldable(backbone: Backbone, images: Tensor) -> list[Pair]:
    """The convolutions of a network and the norms behind them that can be folded without changing what it gives.

    A copy in float64 with random statistics is run on one image, as it is and folded; where its feature map or its
    pooled features differ, nothing is to be folded.

    Args:
        backbone: the wrapped network; its state is left as it was.
        images: (B, C, H, W), of the size and on the device at which it is used.

    Returns:
        The pairs, named from the backbone on; empty for a network without such norms.
    """
    if not any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        return []
    trial, image = copy.deepcopy(backbone).double(), images[:1].double()
    with looking(trial), torch.autocast(images.device.type, enabled=False):
        randomise_norms(trial)
        pairs = neighbours(trial, image)
        plain = seen(trial, image)
        with folded(trial, pairs):
            other = seen(trial, image)
    equal = all(float((a - b).abs().max()) <= SAME * float(a.abs().max()) for a, b in zip(plain, other, strict=True))
    return pairs if equal else []


def seen(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """Feature map and pooled features; by the class's methods, as an object's own may be compiled for another."""
    kind = type(backbone)
    return [kind.feature_map(backbone, images), kind.pooled(backbone, images)]


def neighbours(backbone: Backbone, images: Tensor) -> list[Pair]:
    """Convolutions whose output, unchanged, is the input of a norm; both are run once in a pass."""
    made: dict[int, tuple[str, Tensor, int]] = {}  # by the identity of a tensor: who made it, itself, its version
    pairs: list[Pair] = []
    runs: dict[str, int] = {}

    def listen_to_conv(name: str) -> Any:
        def after(_module: nn.Module, _args: Any, output: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            made[id(output)] = name, output, output._version

        return after

    def listen_to_norm(name: str) -> Any:
        def before(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            conv, output, version = made.get(id(args[0]), ("", args[0], -1))
            if conv and output._version == version:
                pairs.append(Pair(conv, name))

        return before

    with ExitStack() as hooks:
        for name, module in backbone.named_modules():
            if type(module).__name__ in CONVOLUTIONS:
                hooks.enter_context(hooked(module.register_forward_hook(listen_to_conv(name))))
            elif isinstance(module, _BatchNorm) and module.running_var is not None:
                hooks.enter_context(hooked(module.register_forward_pre_hook(listen_to_norm(name))))
        backbone.model(images)
    return [pair for pair in pairs if runs[pair.conv] == runs[pair.norm] == 1]


def randomise_norms(net: nn.Module) -> None:
    """Gives every BatchNorm random statistics and weights, so that leaving one out is seen."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
