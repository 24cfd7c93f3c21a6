"""Feature maps of any network, at one of its stages or layers.

timm networks name their stages; any other ``nn.Module`` is read by a forward hook on a layer. This file does not import
timm: it asks for timm's methods, so that ``import samix`` stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from samix.networks.inference import evaluating

PROBE_SIZES = (64, 224, 256, 96, 384)  # image sides tried where a network does not say its own
MAX_PREFIX = 8  # class, distillation and register tokens that are looked for before a map's tokens
REFUSALS = (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError)  # of a size that does not fit


class StageInfo(TypedDict):
    """What timm says of a stage."""

    module: str  # its dotted name
    reduction: int  # image side over the map's
    num_chs: int


def stages_of(model: nn.Module) -> list[StageInfo]:
    """Returns what a timm network says of its stages, in order."""
    return list(model.feature_info)  # type: ignore[arg-type]  # timm's own list type


class Backbone(nn.Module):
    """A network with a feature map; the network itself is kept whole, as ``model``."""

    model: nn.Module  # (B, C, H, W) -> logits or features
    dim: int  # D, channels of the feature map

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Returns the map (B, D, h, w) of images (B, C, H, W), running the network as far as needed, or ``whole``."""
        raise NotImplementedError


class TimmBackbone(Backbone):
    """A timm network, by its ``forward_intermediates``.

    Args:
        model: a timm network.
        feature: index into timm's list of intermediates; negative counts from the end. None chooses the third of four
            stages, or the middle block of a plain ViT, as AutoMix and SAMix do.
    """

    model: Any  # timm's methods have no types

    def __init__(self, model: nn.Module, feature: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.stage = checked_stage(model, feature)
        self.dim = stages_of(model)[self.stage]["num_chs"]

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        if not whole:
            maps = self.model.forward_intermediates(
                x, indices=[self.stage], stop_early=True, output_fmt="NCHW", intermediates_only=True
            )
            return maps[-1]  # type: ignore[no-any-return]
        # Not intermediates_only: timm then leaves out what follows the last stage, such as EfficientNet's last norm.
        last, maps = self.model.forward_intermediates(x, indices=[self.stage, -1], output_fmt="NCHW")
        self.model.forward_head(last)
        return maps[0]  # type: ignore[no-any-return]


def checked_stage(model: nn.Module, feature: int | None) -> int:
    """Returns the index of a stage of a timm network; None is the default one."""
    stages = stages_of(model)
    count, stage = len(stages), default_stage(stages) if feature is None else feature
    if not -count <= stage < count:
        names = ", ".join(info["module"] for info in stages)
        raise ValueError(
            f"feature stage {feature} is not there: this network has {count} stages, 0 to {count - 1} ({names})"
        )
    return stage


def default_stage(stages: Sequence[StageInfo]) -> int:
    """Returns the third of four stages, or the middle block where all stages have one resolution (plain ViTs)."""
    reductions = [info["reduction"] for info in stages]
    if len(set(reductions)) == 1:
        return max(len(reductions) // 2 - 1, 0)
    return max(len(reductions) - 2, 0)


# Any network, by a hook ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds its map.

    Args:
        order: ``NCHW``, ``NHWC``, or ``tokens`` (B, N, D).
        dim: D.
        prefix: tokens before those of the map: class, distillation and register tokens.
    """

    order: Literal["NCHW", "NHWC", "tokens"]
    dim: int
    prefix: int = 0

    def as_map(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns the output as a map (B, D, h, w), of images of H x W pixels."""
        if self.order == "NCHW":
            return raw
        if self.order == "NHWC":
            return raw.permute(0, 3, 1, 2)
        count = raw.shape[1] - self.prefix
        height = round(math.sqrt(count * size[0] / size[1]))
        if height < 1 or count % height or abs(height / (count // height) - size[0] / size[1]) > 0.25:
            raise ValueError(
                f"{count} tokens fill no grid of a {size[0]} x {size[1]} image; name another feature layer"
            )
        return raw[:, self.prefix :].transpose(1, 2).reshape(len(raw), -1, height, count // height)


class _Stop(Exception):
    """Leaves a forward pass once the feature map is there."""


class HookedBackbone(Backbone):
    """Any network, read by a forward hook.

    The layout of the layer's output is measured by passes of black images in eval mode, which leave no trace.

    Args:
        model: any network of images (B, C, H, W).
        feature: dotted name of the layer whose output guides the Mixer: a map (B, D, h, w) or (B, h, w, D), or tokens
            (B, N, D), those that are no part of the map first.
        image_size: side, or height and width, of the images, for networks that take one size only and do not say it.
    """

    def __init__(self, model: nn.Module, feature: str, image_size: int | tuple[int, int] | None = None) -> None:
        super().__init__()
        self.model = model
        self.feature = feature
        find_layer(model, feature, "feature")
        self.layout = self._measure(probe_sizes(model, image_size))
        self.dim = self.layout.dim

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        return self.layout.as_map(self._run(x, whole), (x.shape[2], x.shape[3]))

    def _run(self, x: Tensor, whole: bool) -> Tensor:
        """The named layer's output."""
        caught: list[object] = []

        def catch(_module: nn.Module, _args: object, output: object) -> None:
            # a clone, as the layers behind may work in place
            caught.append(output.clone() if whole and isinstance(output, Tensor) else output)
            if not whole:
                raise _Stop

        with find_layer(self.model, self.feature, "feature").register_forward_hook(catch), suppress(_Stop):
            self.model(x)
        if not caught:
            raise LayerError(f"layer {self.feature!r} is not run by the network's forward; name another feature layer")
        if not isinstance(caught[0], Tensor) or caught[0].dim() not in (3, 4) or len(caught[0]) != len(x):
            got = tuple(caught[0].shape) if isinstance(caught[0], Tensor) else type(caught[0]).__name__
            raise LayerError(
                f"feature layer {self.feature!r} must give a map (B, D, h, w) or tokens (B, N, D), got {got}; name "
                "another layer"
            )
        return caught[0]

    def _measure(self, sizes: Sequence[tuple[int, int]]) -> Layout:
        """Finds the layout from the outputs at one or two sizes."""
        parameter = next(self.model.parameters(), torch.zeros(()))
        in_chans = next((m.in_channels for m in self.model.modules() if isinstance(m, nn.Conv2d)), 3)
        seen: list[tuple[tuple[int, int], torch.Size]] = []
        reason: Exception | None = None
        with evaluating(self.model), torch.random.fork_rng(devices=[]):
            for size in sizes:
                try:
                    seen.append((size, self._run(parameter.new_zeros(1, in_chans, *size), False).shape))
                except LayerError:
                    raise
                except REFUSALS as error:
                    reason = error
                    continue
                layout = read_layout(self.model, seen)
                if layout is not None and len(seen) > 1:
                    return layout
        layout = read_layout(self.model, seen) if seen else None
        if layout is not None:
            return layout
        if not seen:
            tried = ", ".join(f"{height} x {width}" for height, width in sizes)
            raise ValueError(
                f"{type(self.model).__name__} does not run at {tried} pixels ({reason}); give image_size=, the size of "
                "your images"
            )
        raise ValueError(
            f"feature layer {self.feature!r} gives {tuple(seen[0][1])}, which does not tell channels from positions; "
            "name another layer"
        )


class LayerError(ValueError):
    """A named layer is of no use, whatever the images' size."""


def probe_sizes(model: nn.Module, image_size: int | tuple[int, int] | None) -> list[tuple[int, int]]:
    """Returns the sizes to try: the one given, or the network's own by what it says, and some usual ones."""
    if image_size is not None:
        return [(image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])]
    config = getattr(model, "pretrained_cfg", None) or {}
    own = [
        getattr(getattr(model, "patch_embed", None), "img_size", None),
        getattr(model, "image_size", None),  # torchvision's VisionTransformer
        getattr(model, "img_size", None),
        tuple(config.get("input_size") or ())[1:] or None,
    ]
    sizes = [size if isinstance(size, tuple | list) else (size, size) for size in (*own, *PROBE_SIZES) if size]
    return list(dict.fromkeys((int(size[0]), int(size[-1])) for size in sizes))


def read_layout(model: nn.Module, seen: Sequence[tuple[tuple[int, int], torch.Size]]) -> Layout | None:
    """Tells positions from channels, by what changes with the image's size, or by what is as square as the image.

    Args:
        model: may say how many tokens are no part of the map, as ``num_prefix_tokens``.
        seen: sizes of images, and the shapes of the layer's outputs.

    Returns:
        The layout, or None where the shapes do not tell.
    """
    (size, shape), shapes = seen[0], [shape for _, shape in seen]
    changing = {axis for other in shapes for axis in range(1, len(shape)) if other[axis] != shape[axis]}
    if len(shape) == 4:
        square = size[0] == size[1]
        if changing == {2, 3} or (not changing and square and shape[2] == shape[3] != shape[1]):
            return Layout("NCHW", shape[1])
        if changing == {1, 2} or (not changing and square and shape[1] == shape[2] != shape[3]):
            return Layout("NHWC", shape[3])
        if not changing and not square:  # the axes whose ratio is the image's
            first, last = (abs(shape[a] / shape[a + 1] - size[0] / size[1]) for a in (1, 2))
            return Layout("NCHW", shape[1]) if last < first else Layout("NHWC", shape[3]) if first < last else None
        return None
    if changing - {1}:
        return None
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None:
        prefix = next((n for n in range(MAX_PREFIX + 1) if fills_grid(shape[1] - n, size)), None)
    return None if prefix is None else Layout("tokens", shape[2], int(prefix))


def fills_grid(count: int, size: tuple[int, int]) -> bool:
    """Whether so many cells are a grid of the image's ratio."""
    rows = round(math.sqrt(max(count, 0) * size[0] / size[1]))
    return rows > 0 and count % rows == 0 and rows * size[1] == count // rows * size[0]


def find_layer(model: nn.Module, name: str, role: str) -> nn.Module:
    """Returns the layer of that dotted name."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = ", ".join(child for child, _ in model.named_children())
        raise ValueError(f"{role} layer {name!r} is not in the network; its top layers are: {known}") from None


def is_timm(model: nn.Module) -> bool:
    """Whether a network has timm's interface to its stages."""
    return all(hasattr(model, name) for name in ("forward_features", "forward_head", "feature_info"))


def not_timm(model: nn.Module, advice: str) -> ValueError:
    """Makes the error for a network that timm knows nothing of; the advice says which layer to name."""
    layers = ", ".join(name for name, _ in model.named_children())
    return ValueError(f"{type(model).__name__} is not a timm network: {advice}; its top layers are: {layers}")


def as_backbone(
    model: nn.Module, feature: int | str | None = None, image_size: int | tuple[int, int] | None = None
) -> Backbone:
    """Wraps a network so that its feature map can be read.

    Args:
        model: a timm network, or any ``nn.Module`` of images (B, C, H, W).
        feature: stage index (timm) or dotted layer name (any network); None is the default stage of a timm network.
    """
    if isinstance(feature, str):
        return HookedBackbone(model, feature, image_size)
    if not is_timm(model):
        raise not_timm(
            model, 'give feature="layer.name", a layer whose output is a map (B, D, h, w) or tokens (B, N, D)'
        )
    if hasattr(model, "forward_intermediates"):
        return TimmBackbone(model, feature)
    stage = checked_stage(model, feature)
    return HookedBackbone(model, stages_of(model)[stage]["module"], image_size)
