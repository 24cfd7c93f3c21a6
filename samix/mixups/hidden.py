"""Mixing inside the network: any policy at any layer, and ManifoldMix, which draws the layer.

A hook does it, on the layer's first call only, and is always removed, also when the network raises. Two things to
know: a layer inside a block with gradient checkpointing is run again in the backward pass, without the hook, so choose
layers outside; and a network that is compiled as a whole is compiled anew for the hook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels, pair_batch
from samix.mixups.base import Augmentation, Guides, Requirements, as_map
from samix.mixups.handmade import mixup
from samix.networks.backbone import find_layer, not_timm, stages_of
from samix.networks.inference import unwrap

Policy = Callable[[Tensor, Tensor, Tensor], Mixed]  # (x, partner, lam) -> Mixed
INPUT = "input"


def forward_mixed_at(
    layer: nn.Module, mix: Policy, model: nn.Module, images: Tensor, lam: Tensor, index: Tensor
) -> tuple[Tensor, Mixed]:
    """Runs the model and mixes the *input* of one of its layers, on the layer's first call.

    Gradients flow to both images of each pair. With ``layer = model`` the images themselves are mixed.

    Args:
        layer: the model, or a layer of it whose first argument is (B, ...).
        mix: the policy, e.g. :func:`mixup`, or one whose other draws are bound by ``functools.partial``.
        model: maps (B, C, H, W) to (B, K).
        images: (B, C, H, W). Not modified.
        lam: (B,) share of the own activations, in [0, 1].
        index: (B,) int64 partner of each row.

    Returns:
        The logits (B, K) and the mix, whose images are the mixed activations.

    Raises:
        ValueError: the layer is not run, or does not take one row per image as its first argument.
    """
    mixes: list[Mixed] = []

    def on_input(_layer: nn.Module, args: tuple[object, ...]) -> tuple[object, ...] | None:
        if mixes:
            return None
        mixes.append(_mix_rows(args[0] if args else None, mix, lam, index))
        return (mixes[0].images, *args[1:])

    with layer.register_forward_pre_hook(on_input):
        logits = model(images)
    return logits, _only(mixes, layer)


def forward_mixed_after(
    layer: nn.Module, mix: Policy, model: nn.Module, images: Tensor, lam: Tensor, index: Tensor
) -> tuple[Tensor, Mixed]:
    """As :func:`forward_mixed_at`, but mixes the *output* of the layer: one tensor with a row per image."""
    mixes: list[Mixed] = []

    def on_output(_layer: nn.Module, _args: object, output: object) -> Tensor | None:
        if mixes:
            return None
        mixes.append(_mix_rows(output, mix, lam, index))
        return mixes[0].images

    with layer.register_forward_hook(on_output):
        logits = model(images)
    return logits, _only(mixes, layer)


def _mix_rows(x: object, mix: Policy, lam: Tensor, index: Tensor) -> Mixed:
    """Mixes activations (B, ...) with their partners'."""
    if not isinstance(x, Tensor) or x.dim() < 2 or len(x) != len(lam) or not x.is_floating_point():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"a layer can be mixed at float activations with {len(lam)} rows, got {got}; name another layer"
        )
    return mix(x, x[index], lam)


def _only(mixes: list[Mixed], layer: nn.Module) -> Mixed:
    """The mix that the hook made."""
    if not mixes:
        raise ValueError(f"the network's forward does not run this {type(layer).__name__}; name another layer")
    return mixes[0]


def default_layers(model: nn.Module) -> list[str]:
    """Where ManifoldMix mixes: the input, and the outputs of a timm network's first stages.

    Of four stages, as in a ResNet, these are the first two; of a network with one resolution, as a plain ViT, the first
    third of its blocks.
    """
    if not hasattr(model, "feature_info"):
        raise not_timm(model, 'name the layers to mix after, layers="input,layer.name"')
    stages = stages_of(model)
    names = [stage["module"] for stage in stages]
    if len({stage["reduction"] for stage in stages}) == 1:
        return [INPUT, *names[: len(names) // 3]]
    return [INPUT, *names[max(len(names) - 4, 0) : -2]]


@dataclass
class ManifoldMix(Augmentation):
    """Does MixUp at a random layer of the network (Verma et al., ICML 2019, arXiv:1806.05236).

    Manifold Mixup (Verma et al. 2019, arXiv:1806.05236). The reference code trains with binary cross-entropy
    on softmax outputs; here the loss is the batch's, as for every mixup. Called on images alone, without a network, it
    is MixUp.

    Args:
        alpha: 2 for CIFAR and 0.2 for ImageNet in the published tables.
        layers: dotted names, by commas, of the layers after which to mix, each step at one of them; ``input`` is the
            image. Empty takes :func:`default_layers` of the network.

    Example:
        >>> logits, batch = samix.ManifoldMix().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "manifoldmix"
    family: ClassVar[str] = "In hidden layers"
    requirements = Requirements(preserves_geometry=False, inside_network=True)

    alpha: float = 2.0
    layers: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers and not all(name.strip() for name in self.layers.split(",")):
            raise ValueError(f'layers must be names with commas between, as "input,layer1", got {self.layers!r}')

    def describe(self) -> str:
        return "mixed at the input, where it is mixup"

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return mixup(x, partner, lam)

    def candidates(self, model: nn.Module) -> list[str]:
        """The names of the layers that one is drawn from."""
        return [name.strip() for name in self.layers.split(",")] if self.layers else default_layers(model)

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Draws a layer, and runs the network with its activations mixed after that layer."""
        check_images(images)
        check_labels(labels, len(images))
        inner = unwrap(model)
        names = self.candidates(inner)
        lam, index = self.draw(images)
        name = names[int(torch.randint(len(names), (1,), generator=self.generator))]
        if name == INPUT:
            logits, mixed = forward_mixed_at(model, mixup, model, images, lam, index)
        else:
            layer = find_layer(inner, name, "mixed")
            logits, mixed = forward_mixed_after(layer, mixup, model, images, lam, index)
        mixed = Mixed(mixed.images.detach(), lam, as_map(lam, images))
        return logits, pair_batch(mixed, labels, index, self.targets)
