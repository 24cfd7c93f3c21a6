"""The last feature map of a forward pass, read on its way to the classifier, for heads that are trained beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from samix.networks.backbone import HookedBackbone, find_layer, not_timm
from samix.networks.inference import in_place_of, inspecting, unwrap

SCALE = 1024.0  # of the logits whose gradient is taken, so that it does not vanish in fp16


class LastMap:
    """What :func:`catch_last_map` found, once the network has run."""

    def __init__(self) -> None:
        self.found: Any = None

    def read(self, model: nn.Module) -> Tensor:
        """(B, D, h, w), with its graph: tokens and channels-last maps brought into this form."""
        inner: Any = unwrap(model)
        x = self.found
        if isinstance(x, Tensor) and x.dim() == 3:  # tokens (B, N, D), class and register tokens first
            x = x[:, int(getattr(inner, "num_prefix_tokens", 0)) :]
            height, width = grid_of(inner, x.shape[1])
            x = x.transpose(1, 2).reshape(len(x), -1, height, width)
        elif isinstance(x, Tensor) and x.dim() == 4 and getattr(inner, "output_fmt", "NCHW") == "NHWC":
            x = x.permute(0, 3, 1, 2)
        if not isinstance(x, Tensor) or x.dim() != 4:
            got = "nothing" if x is None else tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f'the last feature map must be (B, D, h, w), got {got}; name its layer, layer="layer.name"'
            )
        return x


@contextmanager
def catch_last_map(model: nn.Module, layer: str = "") -> Iterator[LastMap]:
    """Inside, a pass of the model leaves its last feature map; nothing is run twice, and nothing stays behind.

    Args:
        model: a timm network, whose ``forward_features`` is listened to, or any network if the layer is named.
        layer: dotted name of the layer whose output is the map; empty for timm networks.

    Yields:
        Where the map will be.
    """
    inner: Any = unwrap(model)
    caught = LastMap()
    if layer:

        def keep_output(_layer: nn.Module, _args: Any, output: Any) -> Any:
            caught.found = output
            return output.clone() if isinstance(output, Tensor) else None  # the layers behind may work in place

        with find_layer(inner, layer, "feature").register_forward_hook(keep_output):
            yield caught
        return
    check_timm(inner)
    forward_features = inner.forward_features

    def listen(*args: Any, **kwargs: Any) -> Any:
        caught.found = forward_features(*args, **kwargs)
        return caught.found

    with in_place_of(inner, "forward_features", listen):
        yield caught


def grad_cam(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    layer: str = "",
    classify: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes the last feature map, each channel weighed by the mean gradient of the class's logit, positive part.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), Eq. (1) and (2). One pass in eval mode that leaves no trace: the
    gradient is taken down to the map and no further, and none is left in any parameter.

    Args:
        model: maps (B, C, H, W) to logits (B, K), or to the features (B, F) that ``classify`` takes.
        images: (B, C, H, W). Not modified.
        classes: (B,) class ids, whose logits are explained.
        layer: dotted name of the layer of the map; empty for timm networks.
        classify: maps features (B, F) to logits (B, K).

    Returns:
        Maps (B, h, w) float32, at least 0, and what the network gives, without a graph.
    """
    with inspecting(model, grad=True) as net:
        leaf, output = _cut_at_map(net, images, layer)
        logits = output if classify is None else classify(output)
        chosen = logits.float().gather(1, classes.long().clone().unsqueeze(1)).sum()
        caught, slope = LastMap(), LastMap()
        (slope.found,) = torch.autograd.grad(chosen * SCALE, leaf)
        caught.found = leaf.detach()
        activation, gradient = caught.read(net).float(), slope.read(net).float() / SCALE
    cam = (activation * gradient.mean((2, 3), keepdim=True)).sum(1).clamp(min=0.0)
    return torch.where(cam.isfinite(), cam, 0.0), output.detach()


def _cut_at_map(net: Any, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The last feature map as a leaf, and what the network gives, with the graph from it."""
    if not layer:
        check_timm(net)
        with torch.no_grad():
            features = net.forward_features(images)
        leaf = features.detach().requires_grad_()
        return leaf, net.forward_head(leaf)
    leaves: list[Tensor] = []

    def cut(_layer: nn.Module, _args: object, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"layer {layer!r} must give a map (B, D, h, w), got {type(output).__name__}")
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # layers behind may work in place

    with find_layer(net, layer, "feature").register_forward_hook(cut):
        output = net(images)
    if len(leaves) != 1:
        raise ValueError(f"layer {layer!r} must be run once by the network, was run {len(leaves)} times; name another")
    return leaves[0], output


def last_width(model: nn.Module, layer: str = "") -> int:
    """D, the channels of the map that :func:`catch_last_map` finds."""
    inner: Any = unwrap(model)
    if layer:
        find_layer(inner, layer, "feature")
        return HookedBackbone(inner, layer).dim
    check_timm(inner)
    return int(inner.num_features)


def check_timm(model: nn.Module) -> None:
    """Raises ValueError unless this is a timm network, whose last feature map is known by name."""
    if not hasattr(model, "forward_features") or not hasattr(model, "num_features"):
        raise not_timm(model, 'name the layer of its last feature map, layer="layer.name"')


def grid_of(model: nn.Module, tokens: int) -> tuple[int, int]:
    """Rows and columns of a ViT's patch tokens."""
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is not None and grid[0] * grid[1] == tokens:
        return int(grid[0]), int(grid[1])
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"{tokens} patch tokens are no square, and the network names no grid_size")
    return side, side
