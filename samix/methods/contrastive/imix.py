"""i-Mix: a mix's virtual label is predicted among the keys of the batch (Lee et al. 2021, arXiv:2010.08887)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samix.losses.contrastive import in_batch_info_nce
from samix.methods.contrastive.mixup import mix_views
from samix.methods.contrastive.queue_mix import QueueMix, QueueMixOptions
from samix.mixups.base import Augmentation
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import MixUp
from samix.mixups.hidden import ManifoldMix
from samix.runtime import distributed
from samix.runtime.typed_options import Weight


class LargerShare(Augmentation):
    """A mixup whose own image has the larger share: ``max(lam, 1 - lam)``."""

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) in [1/2, 1]."""
        lam = super().draw_lam(batch_size)
        return torch.maximum(lam, 1.0 - lam)


class LargerMixUp(LargerShare, MixUp):
    """MixUp whose own image has the larger share."""


class LargerCutMix(LargerShare, CutMix):
    """CutMix whose own image has the larger share; a box cut off by the border makes it larger still."""


class LargerManifoldMix(LargerShare, ManifoldMix):
    """ManifoldMix whose own image has the larger share."""


@dataclass(frozen=True)
class IMixOptions(QueueMixOptions):
    """Options of i-Mix; the defaults are those of its ImageNet run.

    Args:
        image_mix: ``cutmix`` (ImageNet), ``mixup`` (CIFAR), or ``manifoldmix``: MixUp at a random layer.
        alpha: lam ~ Beta(alpha, alpha) for each image, and then the larger of lam and 1 - lam.
        layers: of ``manifoldmix``, dotted names by commas; empty takes the first stages of a timm network.
        clean_weight: weight of the clean loss; 0, as published, leaves it out.

    Example:
        >>> samix.IMixOptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "imagenet"
    image_mix: Literal["cutmix", "mixup", "manifoldmix"] = "cutmix"
    alpha: float = 1.0
    layers: str = ""
    clean_weight: Weight = 0.0

    def build_mixup(self) -> Augmentation:
        if self.image_mix == "manifoldmix":
            return LargerManifoldMix(alpha=self.alpha, per_sample=True, layers=self.layers)
        cls = LargerCutMix if self.image_mix == "cutmix" else LargerMixUp
        return cls(alpha=self.alpha, per_sample=True)


IMIX_PRESETS: dict[str, IMixOptions] = {
    "imagenet": IMixOptions(),
    "cifar": IMixOptions(preset="cifar", image_mix="mixup", queue=4096),
}


class IMix(QueueMix):
    """Learns as MoCo, from mixed queries with a shared label (i-Mix).

    Lee et al. 2021, arXiv:2010.08887, section 3, with the released code's settings, in the form for MoCo: the query
    view is mixed, and ``L = mean_b lam_b CE(b) + (1 - lam_b) CE(b')`` over the N keys of the batch, of all processes,
    and the K of the queue, in one softmax. It replaces the clean loss.

    Args:
        options: an :class:`IMixOptions`, or the name of a preset: ``imagenet``, ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.IMix(encoder, samix.IMixOptions(queue=64, groups=2))
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = IMIX_PRESETS
    title = "i-Mix"

    options: IMixOptions

    def terms(self, view: Tensor, key: Tensor, negatives: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        o = self.options
        z, batch = mix_views(self.mixup.augmentation, self.encoder, view)
        targets = batch.index + distributed.rank() * len(view)
        keys = distributed.gather(key)  # (W B, D)
        mixed = in_batch_info_nce(z, keys, targets, o.temperature, batch.weights, negatives).mean()
        return self.beside_clean(mixed, o.clean_weight, view, key, negatives)
