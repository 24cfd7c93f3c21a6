"""SimCLR: each vector finds its other view among all vectors of the batch (Chen et al. 2020, arXiv:2002.05709).

With a mixup, a mixed first view finds the second views of its sources, in their shares, among all second views; that
loss is added to the clean one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from samix.losses.contrastive import in_batch_info_nce, normalized, nt_xent
from samix.methods.contrastive.base import FixedMixupMethod
from samix.methods.contrastive.mixup import Views, check_views, mix_views
from samix.networks.encoder import Encoder
from samix.networks.heads import normed_mlp
from samix.runtime import distributed
from samix.runtime.typed_options import CheckedOptions, Count, Positive, Weight


@dataclass(frozen=True)
class SimCLROptions(CheckedOptions):
    """Options of SimCLR; the defaults are those for ImageNet.

    Args:
        preset: name of the preset these values come from.
        hidden: width of the projector's hidden layer; None is that of the features.
        dim: D of the embedding.
        temperature: of the softmax.
        mixed_weight: weight of the mixed loss.

    Example:
        >>> samix.SimCLROptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "imagenet"
    hidden: Count | None = None
    dim: Count = 128
    temperature: Positive = 0.1
    mixed_weight: Weight = 1.0


SIMCLR_PRESETS: dict[str, SimCLROptions] = {
    "imagenet": SimCLROptions(),
    "cifar": SimCLROptions(preset="cifar", temperature=0.5),
}


class SimCLR(FixedMixupMethod[SimCLROptions]):
    """Learns by comparing two views of each image among all views of the batch (SimCLR).

    Args:
        options: a :class:`SimCLROptions`, or the name of a preset: ``imagenet``, ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.SimCLR(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets: ClassVar[Mapping[str, SimCLROptions]] = SIMCLR_PRESETS
    title = "SimCLR"

    def build(self, model: nn.Module) -> None:
        o = self.options
        self.encoder = Encoder(model, lambda width: normed_mlp((width, o.hidden or width, o.dim)))

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step (arXiv:2002.05709, Algorithm 1)."""
        view_1, view_2, _ = check_views(batch)
        z1, z2 = normalized(self.encoder(torch.cat([view_1, view_2]))).chunk(2)
        everyone = distributed.gather_with_gradient(z1), distributed.gather_with_gradient(z2)
        first = distributed.rank() * len(z1)
        nce = nt_xent(z1, z2, self.options.temperature, everyone, first).mean()
        mixed: list[Tensor] = []
        if self.mixup is not None:
            z, batch_m = mix_views(self.mixup.augmentation, self.encoder, view_1)
            targets = batch_m.index + first  # (B, k) rows of the sources' second views
            each = in_batch_info_nce(z, everyone[1], targets, self.options.temperature, batch_m.weights)
            mixed.append(each.mean())
        return self.total(nce, mixed, self.options.mixed_weight, z2)
