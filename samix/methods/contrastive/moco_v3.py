"""MoCo v3: an EMA encoder and a predictor, and the keys of the batch instead of a queue.

MoCo v3 (Chen et al. 2021, arXiv:2104.02057). With a mixup, the query of a mixed view finds the keys of the other views
of its sources, in their shares, in one softmax; both directions, by the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from samix.losses.contrastive import in_batch_info_nce, normalized
from samix.methods.contrastive.base import EMAEncoderMethod, FixedMixupMethod
from samix.methods.contrastive.mixup import Views, check_views
from samix.networks.attention import as_vit
from samix.networks.ema import ema_copy
from samix.networks.encoder import Encoder
from samix.networks.heads import normed_mlp
from samix.networks.vit_init import fix_positions, freeze_patches, is_vit
from samix.runtime import distributed
from samix.runtime.typed_options import CheckedOptions, Count, Positive, Share, Weight


@dataclass(frozen=True)
class MoCoV3Options(CheckedOptions):
    """Options of MoCo v3; the defaults are those of its ResNet-50.

    Args:
        preset: name of the preset these values come from.
        layers: of the projector; 2 for ResNets, 3 for ViTs.
        hidden: width of the hidden layers of projector and predictor.
        dim: D of the embedding.
        predictor_norm: BatchNorm without scale and shift after the predictor's last layer too; for ViTs.
        temperature: of the softmax.
        ema_decay: of the EMA encoder at the start (the paper's momentum m), in [0, 1].
        ema_decay_end: its value at the end, by a cosine.
        fixed_positions: a ViT gets sine-cosine positions that are not trained.
        frozen_patches: a ViT gets a random patch projection that is not trained.
        mixed_weight: weight of the mixed loss.

    Example:
        >>> samix.MoCoV3Options(temperature=0.5).temperature
        0.5
    """

    preset: str = "resnet"
    layers: Count = 2
    hidden: Count = 4096
    dim: Count = 256
    predictor_norm: bool = False
    temperature: Positive = 1.0
    ema_decay: Share = 0.99
    ema_decay_end: Share = 1.0
    fixed_positions: bool = True
    frozen_patches: bool = True
    mixed_weight: Weight = 1.0


MOCO_V3_PRESETS: dict[str, MoCoV3Options] = {
    "resnet": MoCoV3Options(),
    "vit": MoCoV3Options(preset="vit", layers=3, predictor_norm=True, temperature=0.2),
    "cifar": MoCoV3Options(preset="cifar", temperature=0.2),
}


class MoCoV3(EMAEncoderMethod, FixedMixupMethod[MoCoV3Options]):
    """Learns by predicting the other view's key among those of the batch (MoCo v3).

    A ViT is made as the paper's by ``timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12,
    weight_init="moco")``: timm's own ViT-S has 6 heads. Its positions and its patch projection are set here.

    Args:
        options: a :class:`MoCoV3Options`, or the name of a preset: ``resnet``, ``vit``, ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.MoCoV3(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets: ClassVar[Mapping[str, MoCoV3Options]] = MOCO_V3_PRESETS
    title = "MoCo v3"

    def build(self, model: nn.Module) -> None:
        o = self.options
        if is_vit(model) and o.fixed_positions:
            fix_positions(model)
        if is_vit(model) and o.frozen_patches:
            freeze_patches(model)
        hidden = (o.hidden,) * (o.layers - 1)
        self.encoder = Encoder(model, lambda width: normed_mlp((width, *hidden, o.dim), last_affine=False))
        predictor = normed_mlp((o.dim, o.hidden, o.dim), last_norm=o.predictor_norm, last_affine=False)
        self.predictor = predictor.to(next(model.parameters()).device)
        self.ema_encoder = ema_copy(self.encoder)

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step (arXiv:2104.02057, Algorithm 1), both directions added."""
        view_1, view_2, _ = check_views(batch)
        key_1, key_2 = self.keys(view_1), self.keys(view_2)  # of all processes, (W B, D)
        first = distributed.rank() * len(view_1)
        own = torch.arange(first, first + len(view_1), device=view_1.device)
        nce = self.contrast(self.encoder(view_1), key_2, own) + self.contrast(self.encoder(view_2), key_1, own)
        mixed = self.mixed_terms(
            (view_1, view_2),
            (key_2, key_1),
            lambda z, m, keys: self.contrast(z, keys, m.index + first, m.weights),
        )
        return self.total(nce, mixed, self.options.mixed_weight, key_2)

    def contrast(self, z: Tensor, keys: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """``2 temperature`` times the mean cross-entropy of the predictions of embeddings (B, D) over all keys."""
        t = self.options.temperature
        return 2.0 * t * in_batch_info_nce(normalized(self.predictor(z)), keys, targets, t, weights).mean()

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        """Unit keys of a view by the EMA encoder, without gradient: (B, C, H, W) -> (W B, D)."""
        return distributed.gather(normalized(self.ema_encoder(view)))

    def export(self) -> nn.Module:
        """The backbone; the frozen parts of a ViT can be trained again."""
        net = super().export()
        if is_vit(net):
            as_vit(net).pos_embed.requires_grad_(True)
            net.get_submodule("patch_embed").requires_grad_(True)
        return net
