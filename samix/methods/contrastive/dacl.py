"""DACL: two noisy versions of an image are positives, the noise being a little of other images.

Verma et al. 2021, arXiv:2011.04419. There is no official code, and this is reconstructed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from samix.methods.contrastive.mixup import Views, check_views
from samix.methods.contrastive.simclr import SimCLR, SimCLROptions
from samix.mixups.base import choose, sample_partners, to_device
from samix.mixups.handmade import mixup
from samix.runtime.typed_options import Share


@dataclass(frozen=True)
class DACLOptions(SimCLROptions):
    """Options of DACL; those of its SimCLR are SimCLR's.

    Args:
        noise: ``linear``, the MixUp noise that SAMix's comparison calls vanilla mixup, or ``binary``, pixels of the
            other image at random places.
        least: a, smallest share of the own image: lam ~ U(a, 1) for each image and view; about 0.9, as far as we know.

    Example:
        >>> samix.DACLOptions(temperature=0.5).temperature
        0.5
    """

    mixed_weight: ClassVar[float] = 0.0  # type: ignore[misc]  # no option here: there is no mixed loss beside the loss

    preset: str = "imagenet"
    noise: Literal["linear", "binary"] = "linear"
    least: Share = 0.9


DACL_PRESETS: dict[str, DACLOptions] = {
    "imagenet": DACLOptions(),
    "cifar": DACLOptions(preset="cifar", temperature=0.5),
}


class DACL(SimCLR):
    """Learns as SimCLR, on views into which a little of another image is mixed (DACL).

    Each view is mixed by draws of its own, ``lam x + (1 - lam) x~``, and the loss is NT-Xent of the two.

    Args:
        options: a :class:`DACLOptions`, or the name of a preset: ``imagenet``, ``cifar``.
        mixup: None; DACL mixes by itself.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.DACL(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = DACL_PRESETS
    title = "DACL"
    fixed_mixing = "it fixes how images are mixed"

    options: DACLOptions

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        view_1, view_2, _ = check_views(batch)
        return super().training_step((self.noisy(view_1), self.noisy(view_2)))

    def noisy(self, view: Tensor) -> Tensor:
        """Images (B, C, H, W) with a little of the others in them."""
        o, g = self.options, self.generator
        lam = o.least + (1.0 - o.least) * torch.rand(len(view), generator=g)
        lam, index = (to_device(draw, view.device) for draw in (lam, sample_partners(len(view), "cycle", generator=g)))
        if o.noise == "linear":
            return mixup(view, view[index], lam).images
        places = to_device(torch.rand(len(view), 1, *view.shape[2:], generator=g), view.device)
        return choose(view, view[index], (places < lam.view(-1, 1, 1, 1)).float()).images
