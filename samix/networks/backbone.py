"""One view of any classifier: its feature map at a stage, its pooled features, and its last linear layer.

timm networks offer all three by name; any other ``nn.Module`` is read by forward hooks, given the names of two layers.
This file does not import timm: it asks for timm's methods, so that ``import samix`` stays quick.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A classifier seen in three parts; the classifier itself is kept whole, as ``model``."""

    model: Any  # an nn.Module from (B, C, H, W) to (B, K)

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w), running the network only as far as needed, or ``whole``."""
        raise NotImplementedError

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F), the input of the last linear layer."""
        raise NotImplementedError

    def pooled_and_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, D, h, w) from one pass."""
        raise NotImplementedError

    @property
    def linear(self) -> nn.Linear:
        """The last linear layer, (B, F) -> (B, K)."""
        raise NotImplementedError


class TimmBackbone(Backbone):
    """A timm network, by its ``forward_intermediates``, ``forward_features`` and ``forward_head``.

    Args:
        model: a timm network with a linear classifier.
        feature: index into timm's list of intermediates; negative counts from the end. None chooses the third of four
            stages, or the middle block of a plain ViT, as AutoMix and SAMix do.
    """

    def __init__(self, model: Any, feature: int | None = None) -> None:
        super().__init__()
        self.model: Any = model
        count = len(model.feature_info)
        self.stage = default_stage(model.feature_info) if feature is None else feature
        if not -count <= self.stage < count:
            names = ", ".join(str(info["module"]) for info in list(model.feature_info))
            raise ValueError(
                f"feature stage {feature} is not there: this network has {count} stages, 0 to {count - 1} ({names})"
            )

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w); class and register tokens are left out."""
        if not whole:
            maps = self.model.forward_intermediates(
                x, indices=[self.stage], stop_early=True, output_fmt="NCHW", intermediates_only=True
            )
            return maps[-1]  # type: ignore[no-any-return]
        # Not intermediates_only: timm then leaves out what follows the last stage, such as EfficientNet's last norm.
        last, maps = self.model.forward_intermediates(x, indices=[self.stage, -1], output_fmt="NCHW")
        self.model.forward_head(last)
        return maps[0]  # type: ignore[no-any-return]

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F)."""
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)  # type: ignore[no-any-return]

    def pooled_and_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, D, h, w) from one pass."""
        # with -1: timm then runs what follows the last stage, such as EfficientNet's last norm
        last, maps = self.model.forward_intermediates(x, indices=[self.stage, -1], output_fmt="NCHW")
        return self.model.forward_head(last, pre_logits=True), maps[0]

    @property
    def linear(self) -> nn.Linear:
        """Timm's classifier layer."""
        return self.model.get_classifier()  # type: ignore[no-any-return]


def default_stage(feature_info: Any) -> int:
    """The third of four stages; the middle block where all stages have one resolution (plain ViTs)."""
    reductions = [int(info["reduction"]) for info in list(feature_info)]
    if len(set(reductions)) == 1:
        return len(reductions) // 2 - 1
    return max(len(reductions) - 2, 0)


class _Stop(Exception):
    """Leaves a forward pass once the feature map is there."""


class HookedBackbone(Backbone):
    """Any network, read by forward hooks.

    Args:
        model: maps (B, C, H, W) to (B, K).
        feature: dotted name of the layer whose output (B, D, h, w) guides the Mixer.
        classifier: dotted name of the last linear layer; None takes the last ``nn.Linear`` of the network.
    """

    def __init__(self, model: nn.Module, feature: str, classifier: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.feature = feature
        find_layer(model, feature, "feature")
        linears = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        if classifier is None and not linears:
            raise ValueError('this network has no nn.Linear to use as its classifier; give classifier="layer.name"')
        self.classifier = linears[-1] if classifier is None else classifier
        if not isinstance(find_layer(model, self.classifier, "classifier"), nn.Linear):
            raise ValueError(f"classifier {self.classifier!r} must be an nn.Linear; the linear layers are {linears}")

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w), by a hook on the named layer."""
        found: list[Tensor] = []

        def catch(_module: nn.Module, _args: Any, output: Tensor) -> None:
            # a clone, as the layers behind may work in place
            found.append(output.clone() if whole and isinstance(output, Tensor) else output)
            if not whole:
                raise _Stop

        with hooked(find_layer(self.model, self.feature, "feature").register_forward_hook(catch)), suppress(_Stop):
            self.model(x)
        if not found:
            raise ValueError(f"layer {self.feature!r} is not run by the network's forward; name another feature layer")
        if not isinstance(found[0], Tensor) or found[0].dim() != 4:
            got = tuple(found[0].shape) if isinstance(found[0], Tensor) else type(found[0]).__name__
            raise ValueError(
                f"feature layer {self.feature!r} must give a map (B, D, h, w), got {got}; name another layer"
            )
        return found[0]

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F), by a hook on the classifier's input."""
        found: list[Tensor] = []

        def catch(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found.append(args[0])

        with hooked(self.linear.register_forward_pre_hook(catch)):
            self.model(x)
        if not found or found[0].dim() != 2:
            raise ValueError(f"classifier {self.classifier!r} must be run once, on (B, F); name the last linear layer")
        return found[0]

    def pooled_and_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, D, h, w) from one pass, by hooks on both layers."""
        found: list[Tensor] = []

        def catch(_module: nn.Module, _args: Any, output: Tensor) -> None:
            found.append(output.clone())  # as the layers behind may work in place

        with hooked(find_layer(self.model, self.feature, "feature").register_forward_hook(catch)):
            pooled = self.pooled(x)
        if not found or found[0].dim() != 4:
            raise ValueError(f"feature layer {self.feature!r} must be run and give a map (B, D, h, w); name another")
        return pooled, found[0]

    @property
    def linear(self) -> nn.Linear:
        """The named linear layer."""
        return find_layer(self.model, self.classifier, "classifier")  # type: ignore[return-value]


@contextmanager
def hooked(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    """Removes a hook at the end, also when the network raises."""
    try:
        yield
    finally:
        handle.remove()


def find_layer(model: nn.Module, name: str, role: str) -> nn.Module:
    """The layer of that dotted name.

    Raises:
        ValueError: no such layer; the message lists the network's top layers.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = ", ".join(child for child, _ in model.named_children())
        raise ValueError(f"{role} layer {name!r} is not in the network; its top layers are: {known}") from None


def as_backbone(
    model: nn.Module, num_classes: int, feature: int | str | None = None, classifier: str | None = None
) -> Backbone:
    """Wraps a classifier so that its feature map, pooled features and linear layer can be reached.

    Args:
        model: a timm network, or any ``nn.Module`` from (B, C, H, W) to (B, num_classes).
        num_classes: what its last linear layer must give.
        feature: stage index (timm) or dotted layer name (any network); None is the default stage of a timm network.
        classifier: dotted name of the last linear layer, for networks that are not timm's.

    Raises:
        ValueError: the stage or layer is not there, or the classifier has another width; says what the network has.
    """
    is_timm = all(hasattr(model, name) for name in ("forward_intermediates", "forward_head", "feature_info"))
    if is_timm and not isinstance(feature, str):
        backbone: Backbone = TimmBackbone(model, feature)
    elif isinstance(feature, str):
        backbone = HookedBackbone(model, feature, classifier)
    else:
        layers = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f'{type(model).__name__} is not a timm network: give feature="layer.name", a layer whose output is a map '
            f"(B, D, h, w); its top layers are: {layers}"
        )
    if not isinstance(backbone.linear, nn.Linear):
        raise ValueError(f"the classifier must be one nn.Linear, this network has {type(backbone.linear).__name__}")
    if backbone.linear.out_features != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the network's classifier gives {backbone.linear.out_features}; "
            "create the network with the same num_classes"
        )
    return backbone


@torch.no_grad()
def feature_dim(backbone: Backbone, example: Tensor | None = None, in_chans: int | None = None) -> int:
    """D, the channels of the feature map: what timm says of the stage, else measured by a pass in eval mode.

    Args:
        backbone: the wrapped network; its state is left as it was.
        example: (B, C, H, W) images for networks that say nothing; None tries 32 and 224 pixels.
        in_chans: channels of the example when none is given; None takes those of the first convolution, else 3.
    """
    if isinstance(backbone, TimmBackbone):
        return int(list(backbone.model.feature_info)[backbone.stage]["num_chs"])
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        device = next(backbone.parameters()).device
        if in_chans is None:
            in_chans = next((m.in_channels for m in backbone.modules() if isinstance(m, nn.Conv2d)), 3)
        tries = [example] if example is not None else [torch.zeros(1, in_chans, s, s, device=device) for s in (32, 224)]
        return run_first(backbone.feature_map, [t for t in tries if t is not None]).shape[1]
    finally:
        for module, training in modes.items():
            module.training = training


def run_first(function: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Tensor:
    """The first result that does not raise a size error; raises the last one."""
    for number, value in enumerate(inputs):
        try:
            return function(value)
        except RuntimeError:
            if number == len(inputs) - 1:
                raise
    raise AssertionError("no inputs")


class TwoHeads(nn.Module):
    """A network with two linear heads on one trunk: its own for clean images, a second one for mixed images.

    AutoMix's released code trains separate one-hot and mixed heads; the papers write one. Inference uses the clean one.

    Args:
        backbone: the wrapped network; its linear layer is the clean head.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.mixed_head = copy.deepcopy(backbone.linear)
        nn.init.normal_(self.mixed_head.weight, std=0.01)  # as the released code starts both heads
        if self.mixed_head.bias is not None:
            nn.init.zeros_(self.mixed_head.bias)

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w); ``whole`` runs the network to its end, for BatchNorm's statistics."""
        return self.backbone.feature_map(x, whole=whole)

    def clean(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) by the network's own classifier."""
        return self.backbone.linear(self.backbone.pooled(x))  # type: ignore[no-any-return]

    def clean_and_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Clean logits (B, K) and the feature map (B, D, h, w) from one pass."""
        pooled, z = self.backbone.pooled_and_map(x)
        return self.backbone.linear(pooled), z

    def mixed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) by the head of the mixed images."""
        return self.mixed_head(self.backbone.pooled(x))  # type: ignore[no-any-return]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Clean and mixed logits (B, K) from one pass."""
        pooled = self.backbone.pooled(x)
        return self.backbone.linear(pooled), self.mixed_head(pooled)
