"""Reading the attention of a timm ViT while it runs, with fused attention left on.

Hooks catch the queries and keys as each block uses them (after their norms), and the product and the softmax are made
once more beside it, in float32 and without a graph. Nothing in the network is switched or replaced, and the hooks are
always removed, also when the network raises.

Two things to know: a network that was compiled as a whole before may run without the hooks, which is noticed and
refused; and with gradient checkpointing the attention is that of the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from samix.networks.inference import unwrap


class PatchEmbed(Protocol):
    """What is read of the patch embedding of a timm ViT."""

    grid_size: tuple[int, int]
    proj: nn.Conv2d


class AttentionLayer(Protocol):
    """What is read of an attention layer of a timm ViT."""

    q_norm: nn.Module
    k_norm: nn.Module
    scale: float


class ViT(Protocol):
    """What is read of a timm ViT."""

    num_features: int
    num_prefix_tokens: int
    patch_embed: PatchEmbed
    pos_embed: nn.Parameter
    norm: nn.Module
    fc_norm: nn.Module


def as_vit(model: nn.Module) -> ViT:
    """A network, or the one inside a DistributedDataParallel, by the types of a timm ViT."""
    return cast(ViT, unwrap(model))


OnAttention = Callable[[Tensor], None]  # is given a block's attention (B, heads, queries, T), float32
Rows = Literal["all", "class"]


# What is known of a network before it runs ----------------------------------------------------------------------------


def attention_layers(model: nn.Module) -> list[AttentionLayer]:
    """The attention layers of a timm ViT, one for each block, in order."""
    from timm.layers import Attention  # here, so that `import samix` stays quick

    net = unwrap(model)
    layers = [getattr(block, "attn", None) for block in getattr(net, "blocks", ())]
    plain = all(isinstance(layer, Attention) and type(layer).forward is Attention.forward for layer in layers)
    if not layers or not plain or not hasattr(net, "patch_embed") or not hasattr(net, "num_prefix_tokens"):
        raise ValueError(
            f"the attention of {type(net).__name__} cannot be read: this needs a plain ViT of timm (VisionTransformer, "
            "as vit_small_patch16_224 or deit_small_patch16_224), each of whose blocks has an `attn` of type "
            "timm.layers.Attention; use such a network, or hand in maps of your own where the mixup takes them"
        )
    return cast(list[AttentionLayer], layers)


def patch_grid(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patches that a timm ViT makes of images of size (H, W)."""
    embed = as_vit(model).patch_embed
    rows, columns = embed.dynamic_feat_size(tuple(size)) if hasattr(embed, "dynamic_feat_size") else embed.grid_size
    return int(rows), int(columns)


def prefix_tokens(model: nn.Module) -> int:
    """How many tokens (class, distillation, registers) stand before the patches."""
    return as_vit(model).num_prefix_tokens


def predicts_from_class_token(model: nn.Module) -> bool:
    """Whether the classifier reads the class token; a pooled ViT may have one that nothing trains in the last block."""
    net = unwrap(model)
    return getattr(net, "cls_token", None) is not None and getattr(net, "global_pool", "token") == "token"


# Watching it run ------------------------------------------------------------------------------------------------------


@contextmanager
def watching(model: nn.Module, on_attention: OnAttention, *, last: bool = False, rows: Rows = "all") -> Iterator[None]:
    """Hands each block's attention to ``on_attention`` while the network runs inside.

    Attention is softmax(q k^T / sqrt(d)) before dropout: each row sums to 1.

    Args:
        model: a timm ViT, see :func:`attention_layers`.
        on_attention: is given (B, heads, T, T) float32 without a graph, block after block.
        last: only the last block.
        rows: ``class`` makes only the class token's row, (B, heads, 1, T).
    """
    watches = [_Watch(layer, on_attention, rows) for layer in attention_layers(model)[-1 if last else 0 :]]
    with ExitStack() as hooks:
        for watch in watches:
            hooks.enter_context(watch.layer.q_norm.register_forward_hook(watch.on_query))
            hooks.enter_context(watch.layer.k_norm.register_forward_hook(watch.on_key))
        yield
    missed = sum(not watch.done for watch in watches)
    if missed:
        raise ValueError(
            f"{missed} of {len(watches)} attention layers did not run where they were watched; run the network "
            "inside, and where it is compiled, give the network from before torch.compile"
        )


class _Watch:
    """Makes a layer's attention from the queries and keys that its norms give, the first time that it runs."""

    def __init__(self, layer: AttentionLayer, on_attention: OnAttention, rows: Rows) -> None:
        self.layer, self.on_attention, self.rows = layer, on_attention, rows
        self.query: list[Tensor] = []  # (B, heads, T, d), until the keys are there
        self.done = False

    def on_query(self, _module: nn.Module, _args: object, query: Tensor) -> None:
        """Keeps the queries until the keys are there."""
        self.query = [query.detach()]

    def on_key(self, _module: nn.Module, _args: object, key: Tensor) -> None:
        """Gives the attention of the first pass to ``on_attention``."""
        query = self.query.pop()
        if self.done:
            return
        self.done = True
        with torch.no_grad(), torch.autocast(key.device.type, enabled=False):
            query = query[:, :, :1] if self.rows == "class" else query
            scores = (query.float() * self.layer.scale) @ key.detach().float().transpose(-2, -1)
            self.on_attention(scores.softmax(dim=-1))


@contextmanager
def capture_attention(model: nn.Module, *, last: bool = False) -> Iterator[list[Tensor]]:
    """Keeps the attention of every block, mean over heads, while the network runs inside.

    Args:
        model: a timm ViT, see :func:`attention_layers`.
        last: only the last block.

    Yields:
        A list that is filled, block after block, with (B, T, T) float32 without a graph; each row sums to 1.

    Raises:
        ValueError: as :func:`watching`.
    """
    kept: list[Tensor] = []
    with watching(model, lambda attention: kept.append(attention.mean(1)), last=last):
        yield kept


# Maps of the patches --------------------------------------------------------------------------------------------------


def class_attention(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the network, in the mode it is in, and gives where its last block looks.

    It is the class token's row, mean over heads, over the patches. A ViT that does not predict from a class token has
    no such row; there it is the attention that each patch receives, see :func:`received_attention`.

    Args:
        model: a timm ViT; wrapped in DistributedDataParallel or not.
        images: (B, C, H, W).

    Returns:
        What the network gives, with its graph, and the map (B, gh, gw) float32, without one, at least 0.

    Raises:
        ValueError: not a timm ViT, or one that drops or merges tokens on its way.
    """
    if not predicts_from_class_token(model):
        return received_attention(model, images)
    kept: list[Tensor] = []
    with watching(model, lambda attention: kept.append(attention.mean((1, 2))), last=True, rows="class"):
        logits = model(images)
    return logits, _as_map(kept[0], model, images)


def received_attention(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the network, in the mode it is in, and gives how much attention each patch of its last block receives.

    It is the mean over heads and over the patches that look; class and register tokens are left out on both sides.

    Args:
        model: a timm ViT; wrapped in DistributedDataParallel or not.
        images: (B, C, H, W).

    Returns:
        As :func:`class_attention`.
    """
    kept: list[Tensor] = []
    start = prefix_tokens(model) if attention_layers(model) else 0
    with watching(model, lambda attention: kept.append(attention[:, :, start:].mean((1, 2))), last=True):
        logits = model(images)
    return logits, _as_map(kept[0], model, images)


def _as_map(attention: Tensor, model: nn.Module, images: Tensor) -> Tensor:
    """(B, T) over all tokens -> (B, gh, gw) over the patches."""
    return patches_of(attention, model, images).reshape(len(images), *patch_grid(model, _size(images)))


def patches_of(tokens: Tensor, model: nn.Module, images: Tensor) -> Tensor:
    """(B, T, ...) over all tokens -> (B, gh gw, ...) over the patches."""
    grid, start = patch_grid(model, _size(images)), prefix_tokens(model)
    if tokens.shape[1] - start != math.prod(grid):
        raise ValueError(
            f"images of {images.shape[2]} x {images.shape[3]} have {grid[0]} x {grid[1]} patches, but the network has "
            f"{tokens.shape[1]} tokens, {start} of them before the patches; it must keep them all (patch_drop_rate=0)"
        )
    return tokens[:, start:]


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
