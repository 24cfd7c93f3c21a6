"""Un-Mix: the batch is mixed with itself in reverse (Shen et al. 2022, arXiv:2003.05438)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samix.losses.contrastive import normalized
from samix.methods.contrastive.queue_mix import QueueMix, QueueMixOptions, check_even
from samix.mixups.base import Augmentation
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import MixUp, RandomChoice
from samix.runtime.typed_options import Share


@dataclass(frozen=True)
class UnMixOptions(QueueMixOptions):
    """Options of Un-Mix; the defaults are those of its ImageNet run.

    Args:
        alpha: lam ~ Beta(alpha, alpha), one for the batch.
        global_share: probability that a batch is mixed whole, by MixUp; else by region, by CutMix.

    Example:
        >>> samix.UnMixOptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "imagenet"
    alpha: float = 1.0
    global_share: Share = 0.0

    def build_mixup(self) -> Augmentation:
        choices = [MixUp(alpha=self.alpha), CutMix(alpha=self.alpha)]
        return RandomChoice(choices, [self.global_share, 1.0 - self.global_share])


UNMIX_PRESETS: dict[str, UnMixOptions] = {
    "imagenet": UnMixOptions(),
    "cifar": UnMixOptions(
        preset="cifar", projector="linear", queue=4096, temperature=0.1, ema_decay=0.99, global_share=0.5
    ),
}


class UnMix(QueueMix):
    """Learns as MoCo, with a further loss of the batch mixed with itself in reverse (Un-Mix).

    Shen et al. 2022, arXiv:2003.05438, Eq. (5), written from the equation: image b is mixed with image B - 1 - b, and

        L = L_clean + lam nce(z_m, key) + (1 - lam) nce(z_m reversed, key)

    with a softmax of its own for each. Where the released code cuts one box for the batch, we cut one for each image,
    of the same lam; its share of the loss is the area left to it.

    Args:
        options: an :class:`UnMixOptions`, or the name of a preset: ``imagenet``, ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.UnMix(encoder, samix.UnMixOptions(queue=64, groups=2))
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = UNMIX_PRESETS
    title = "Un-Mix"

    options: UnMixOptions

    def terms(self, view: Tensor, key: Tensor, negatives: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``nce`` and ``mixed``.

        Raises:
            ValueError: an odd batch, whose middle image would be mixed with itself.
        """
        check_even(len(view), "Un-Mix", "pairs each image with the one at the same place from the end")
        rows = torch.arange(len(view), device=view.device)
        batch = self.mixup.augmentation(view, rows, index=rows.flip(0))
        mixed = self.separate(normalized(self.encoder(batch.images)), batch, key, negatives)
        return self.beside_clean(mixed, 1.0, view, key, negatives)
