"""BSIM and WBSIM: a mix is a spurious positive of both its images (Chu et al. 2020, arXiv:2012.09387)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samix.methods.contrastive.mixup import mix_views
from samix.methods.contrastive.queue_mix import QueueMix, QueueMixOptions
from samix.mixups.base import Augmentation
from samix.mixups.boxes import CutMix
from samix.runtime.typed_options import Weight


@dataclass(frozen=True)
class BSIMOptions(QueueMixOptions):
    """Options of BSIM and WBSIM.

    Args:
        alpha: lam ~ Beta(alpha, alpha), one for the batch.
        clean_weight: weight of the clean loss: 0 is BSIM, and 1 WBSIM (the published weights are not known to us).

    Example:
        >>> samix.BSIMOptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "bsim"
    alpha: float = 1.0
    clean_weight: Weight = 0.0

    def build_mixup(self) -> Augmentation:
        return CutMix(alpha=self.alpha)


BSIM_PRESETS: dict[str, BSIMOptions] = {
    "bsim": BSIMOptions(),
    "wbsim": BSIMOptions(preset="wbsim", clean_weight=1.0),
    "cifar": BSIMOptions(preset="cifar", projector="linear", queue=4096, temperature=0.1, ema_decay=0.99),
}


class BSIM(QueueMix):
    """Learns as MoCo, from CutMix of queries that are attracted to both images (BSIM, and WBSIM with a clean loss).

    Chu et al. 2020, arXiv:2012.09387. There is no official code, and this is reconstructed:
    ``L = lam nce(z_m, key) + (1 - lam) nce(z_m, partner's key)``, with a softmax for each. Beside BYOL and SimSiam, the
    form is that of :func:`samix.losses.contrastive.mixed_regression_loss`: ``BYOL(model, mixup=CutMix())`` is WBSIM.

    Args:
        options: a :class:`BSIMOptions`, or the name of a preset: ``bsim``, ``wbsim``, ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.BSIM(encoder, samix.BSIMOptions(queue=64, groups=2))
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = BSIM_PRESETS
    title = "BSIM"

    options: BSIMOptions

    def terms(self, view: Tensor, key: Tensor, negatives: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z, batch = mix_views(self.mixup.augmentation, self.encoder, view)
        mixed = self.separate(z, batch, key, negatives)
        return self.beside_clean(mixed, self.options.clean_weight, view, key, negatives)
