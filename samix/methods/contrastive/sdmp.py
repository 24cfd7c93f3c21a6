"""SDMP: mixes that share images are positives of each other, in proportion to what they share.

Ren et al. 2022, arXiv:2206.07692, on MoCo v3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from samix.losses.contrastive import mixture_info_nce, normalized
from samix.methods.base import detached
from samix.methods.contrastive.base import spread
from samix.methods.contrastive.mixup import AugmentationMixup, Views, check_views
from samix.methods.contrastive.moco_v3 import MoCoV3, MoCoV3Options
from samix.methods.contrastive.queue_mix import check_even
from samix.mixups.base import Augmentation, sample_lam, to_device
from samix.mixups.boxes import CutMix, ResizeMix
from samix.mixups.handmade import MixUp, RandomChoice
from samix.runtime import distributed
from samix.runtime.checks import Range

ImageMix = Literal["random", "mixup", "cutmix", "resizemix"]
KINDS: dict[str, type[Augmentation]] = {"mixup": MixUp, "cutmix": CutMix, "resizemix": ResizeMix}


@dataclass(frozen=True)
class SDMPOptions(MoCoV3Options):
    """Options of SDMP; those of its MoCo v3 are MoCo v3's for a ResNet-50.

    Args:
        image_mix: ``mixup``, ``cutmix``, ``resizemix``, or one of the three at ``random`` in each step [paper].
        alpha: lam ~ Beta(alpha, alpha) for each image, shared by its views.
        margin: lam is brought into [margin, 1 - margin].

    Example:
        >>> samix.SDMPOptions(temperature=0.5).temperature
        0.5
    """

    image_mix: ImageMix = "random"
    alpha: float = 1.0
    margin: Annotated[float, Range(0, 0.5)] = 0.0


SDMP_PRESETS: dict[str, SDMPOptions] = {
    "resnet": SDMPOptions(),
    "vit": SDMPOptions(preset="vit", layers=3, predictor_norm=True, temperature=0.2),
    "vit-released": SDMPOptions(
        preset="vit-released", layers=3, predictor_norm=True, temperature=0.2, image_mix="resizemix", margin=0.1
    ),
    "cifar": SDMPOptions(preset="cifar", temperature=0.2),
}


class SDMP(MoCoV3):
    """Learns as MoCo v3, with two further terms of mixed queries (SDMP).

    Image i is mixed with image i', the one at the same place from the end of the batch over all processes. Both views
    of an image have the same lam and the same box. With p the softmax of the mixed query over the keys:

        source      CE(q_a, k_b), one direction, the views swapped with probability 1/2
        mix_source  mean -log(lam p_i + (1 - lam) p_i') / 2,   keys of the other view
        mix_mix     mean -log((p_i + c p_i') / (1 + c)) / 2,   keys of the mixed other view,
                    c = min(lam_i, 1 - lam_i') + min(1 - lam_i, lam_i'), what mix i shares with mix i'

    each times 2 temperature. Source: the paper, and its released code, from which we differ in that images are really
    mixed: the code's test of which rows are its own is never true, so that it pastes nothing while its targets are
    those of mixes. The code also mixes by ResizeMix alone, with lam in [0.1, 0.9] (preset ``vit-released``).

    Args:
        options: an :class:`SDMPOptions`, or the name of a preset: ``resnet``, ``vit``, ``vit-released``, ``cifar``.
        mixup: None; SDMP mixes by itself.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.SDMP(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = SDMP_PRESETS
    title = "SDMP"
    fixed_mixing = "it fixes how images are mixed"

    options: SDMPOptions
    mixup: AugmentationMixup

    def __init__(
        self,
        model: nn.Module,
        options: SDMPOptions | str | None = None,
        *,
        mixup: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, options, mixup=mixup, generator=generator)
        name = self.options.image_mix
        kinds = KINDS.values() if name == "random" else [KINDS[name]]
        self.kinds = [kind(generator=self.generator) for kind in kinds]
        self.mixup = AugmentationMixup(RandomChoice(self.kinds), self.generator)  # for pictures

    @property
    def loss_parts(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("nce", "mix_source", "mix_mix", "key_std")

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step: ``nce`` is the source term, ``mix_source`` and ``mix_mix`` are the other two."""
        view_a, view_b, _ = check_views(batch)
        rows = len(view_a) * distributed.world_size()
        check_even(rows, "SDMP", "pairs each image with the one at the same place from the end")
        swap, kind = self.draw_step(view_a.device)
        if swap:
            view_a, view_b = view_b, view_a
        own = distributed.rank() * len(view_a) + torch.arange(len(view_a), device=view_a.device)
        other = rows - 1 - own
        mixed_a, mixed_b, lam = self.mix_pair(kind, view_a, view_b, other)
        key_a, key_b, key_mixed = self.keys(view_a), self.keys(view_b), self.keys(mixed_a)  # (W B, D)
        nce = self.contrast(self.encoder(view_a), key_b, own)
        query = normalized(self.predictor(self.encoder(mixed_b)))
        targets = torch.stack([own, other], dim=1)
        mix_source = self.contrast_mixture(query, key_a, targets, torch.stack([lam, 1.0 - lam], dim=1))
        mix_mix = self.contrast_mixture(query, key_mixed, targets, shared_weights(lam, distributed.gather(lam)[other]))
        parts = {"nce": nce, "mix_source": mix_source, "mix_mix": mix_mix, "key_std": spread(key_b)}
        return nce + self.options.mixed_weight * (mix_source + mix_mix), detached(parts)

    def draw_step(self, device: torch.device) -> tuple[bool, Augmentation]:
        """Whether the views are swapped, and what mixes them: the same on all processes, whose keys are shared."""
        draws = torch.rand(2, generator=self.generator)
        if distributed.world_size() > 1:
            draws = distributed.from_first(draws.to(device)).cpu()
        return bool(draws[0] < 0.5), self.kinds[int(draws[1] * len(self.kinds))]

    def mix_pair(
        self, kind: Augmentation, view_a: Tensor, view_b: Tensor, other: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both views mixed by the same lam and box, and lam (B,), what is really left of the own image.

        Args:
            kind: what mixes.
            view_a: (B, C, H, W).
            view_b: (B, C, H, W).
            other: (B,) rows of the partners among the images of all processes.
        """
        o = self.options
        lam = sample_lam(o.alpha, len(view_a), per_sample=True, generator=self.generator)
        lam = to_device(o.margin + (1.0 - 2.0 * o.margin) * lam, view_a.device)
        extras = {name: to_device(draw, view_a.device) for name, draw in kind.draw_extras(view_a.shape).items()}
        first, second = (kind.apply(v, distributed.gather(v)[other], lam, None, **extras) for v in (view_a, view_b))
        return first.images, second.images, first.lam

    def contrast_mixture(self, query: Tensor, keys: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Half of ``2 temperature`` times the mean ``-log`` of the weighed probabilities of the targets (B, 2)."""
        t = self.options.temperature
        return t * mixture_info_nce(query, keys, targets, weights, t).mean()


def shared_weights(lam: Tensor, partner_lam: Tensor) -> Tensor:
    """``(1, c) / (1 + c)``, c what two mixes of the same two images have in common.

    Args:
        lam: (B,) share of image i in mix i.
        partner_lam: (B,) share of image i' in mix i'.

    Returns:
        (B, 2) weights of mix i itself and of mix i'; the second is at most 1/2.
    """
    c = torch.minimum(lam, 1.0 - partner_lam) + torch.minimum(1.0 - lam, partner_lam)
    return torch.stack([torch.ones_like(c), c], dim=1) / (1.0 + c).unsqueeze(1)
