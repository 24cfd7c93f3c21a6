"""MixCo: the halves of a batch are mixed with each other (Kim et al. 2020, arXiv:2010.06300)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samix.losses.contrastive import in_batch_info_nce, normalized
from samix.methods.contrastive.queue_mix import QueueMix, QueueMixOptions, check_even
from samix.mixups.base import Augmentation, sample_lam, to_device
from samix.mixups.handmade import MixUp, mixup
from samix.runtime import distributed
from samix.runtime.typed_options import Positive


@dataclass(frozen=True)
class MixCoOptions(QueueMixOptions):
    """Options of MixCo; the defaults are the paper's but for the mixes' temperature on ImageNet.

    Args:
        mixed_temperature: of the softmax of the mixes.

    Example:
        >>> samix.MixCoOptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "v2"
    mixed_temperature: Positive = 0.05

    def build_mixup(self) -> Augmentation:
        """MixUp; for pictures, as the step itself mixes half a batch."""
        return MixUp(per_sample=True)


MIXCO_PRESETS: dict[str, MixCoOptions] = {
    "v2": MixCoOptions(),
    "imagenet": MixCoOptions(preset="imagenet", mixed_temperature=1.0),
    "cifar": MixCoOptions(preset="cifar", projector="linear", queue=4096, ema_decay=0.99),
}


class MixCo(QueueMix):
    """Learns as MoCo, with a further loss of the halves of the batch mixed with each other (MixCo).

    Kim et al. 2020, arXiv:2010.06300, section 3, with the released code's settings, in the form for MoCo:
    ``lam_b x_b + (1 - lam_b) x_{b+N/2}``, b < N/2, lam_b ~ U(0, 1); ``L = L_MoCo + beta CE(soft target)`` over the N
    keys of the batch, of all processes, and the K of the queue; beta is ``mixed_weight``.

    Args:
        options: a :class:`MixCoOptions`, or the name of a preset: ``v2``, ``imagenet``, ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.MixCo(encoder, samix.MixCoOptions(queue=64, groups=1))
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = MIXCO_PRESETS
    title = "MixCo"

    options: MixCoOptions

    def terms(self, view: Tensor, key: Tensor, negatives: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``nce``, and ``mixed`` of N / 2 mixes.

        Raises:
            ValueError: an odd batch, which has no halves.
        """
        check_even(len(view), "MixCo", "mixes the halves of the batch")
        half = len(view) // 2
        lam = to_device(sample_lam(1.0, half, per_sample=True, generator=self.generator), view.device)
        z = normalized(self.encoder(mixup(view[:half], view[half:], lam).images))  # (N / 2, D)
        first = distributed.rank() * len(view) + torch.arange(half, device=view.device)
        targets, weights = torch.stack([first, first + half], 1), torch.stack([lam, 1.0 - lam], 1)
        keys, t = distributed.gather(key), self.options.mixed_temperature
        mixed = in_batch_info_nce(z, keys, targets, t, weights, negatives).mean()
        return self.beside_clean(mixed, 1.0, view, key, negatives)
