"""SAMix-I: a Mixer learned without labels, beside MoCo (Li et al. 2022, arXiv:2111.15454, section 3.3).

As in AutoMix there are two branches with a draw each. The encoder branch trains the query encoder on images mixed by
masks without a graph. The Mixer branch trains the Mixer through the frozen momentum encoder: the embedding of the mix
must lie between the keys of its two sources, in lam's proportion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.batch import Mixed, MixedBatch, pair_batch
from samix.losses.contrastive import local_bce, mixed_info_nce, normalized
from samix.losses.supervised import mask_mean_loss, mask_variance
from samix.methods.automix import Draw
from samix.methods.contrastive.mixup import Mixing, Seen
from samix.methods.options import MaskSchedule, mask_schedule, samixer_of
from samix.mixers.learned import (
    Attention,
    Content,
    MaskGenerator,
    SAMixer,
    Upsample,
    adjust_mask,
    check_choice,
    margin_mask,
)
from samix.mixups.base import as_lam, blend, sample_lam, sample_partners, to_device
from samix.networks.ema import untracked_batchnorm
from samix.networks.encoder import Encoder

if TYPE_CHECKING:
    from samix.methods.contrastive.moco import MoCo


@dataclass(frozen=True)
class SAMixIOptions:
    """Options of a Mixer's training without labels.

    Args:
        preset: name of the preset these values come from.
        alpha: lam ~ Beta(alpha, alpha).
        per_sample: one lam per sample instead of one per batch and branch.
        pair: ``same`` mixes two query views and contrasts with key views [paper]; ``cross`` mixes a query view with a
            key view and contrasts each source with its other view [released code].
        local_weight: weight of the local term in the Mixer's loss.
        global_weight: weight of the mixed infoNCE in it, eta.
        extended: the local term's positives are random inter- or extrapolations of an image's two keys [released code;
            needs ``pair="cross"``].
        local_schedule: course of the local term's weight: ``constant`` [paper], ``linear``, ``cosine`` or ``warmup``.
        mask_weight: weight of the mask loss.
        mask_schedule: its course.
        mask_margin: deviation of the mask's mean from lam that costs nothing.
        mask_variance: weight, inside the mask loss, of the mask's variance, which is maximised.
        adjust_margin: the encoder branch's masks are brought to mean lam where they are further from it than this;
            negative switches that off.
        lam_margin: plain MixUp in the encoder branch where min(lam, 1 - lam) is at most this.
        gamma: strength of the Mixer's lam encoding; None learns it.
        lam_scale: k of lam' = f(lam; k).
        dropout: on the Mixer's content map.
        activation: of its content branch.
        norm: of its content branch.
        upsample: of the mask.
        attention: ``mixing``, or AutoMix's ``cross``, for ablations.
        content: ``nonlinear``, or AutoMix's ``linear``, for ablations.
    """

    name: ClassVar[str] = "samix"

    preset: str = "paper"
    alpha: float = 2.0
    per_sample: bool = False
    pair: Literal["same", "cross"] = "same"
    local_weight: float = 1.0
    global_weight: float = 0.5
    extended: bool = False
    local_schedule: MaskSchedule = "constant"
    mask_weight: float = 0.1
    mask_schedule: MaskSchedule = "linear"
    mask_margin: float = 0.1
    mask_variance: float = 2.0
    adjust_margin: float = 0.1
    lam_margin: float = 0.08
    gamma: float | None = 1.0
    lam_scale: float = -1.0
    dropout: float = 0.0
    activation: Literal["elu", "relu"] = "elu"
    norm: Literal["batch", "layer"] = "batch"
    upsample: Upsample = "bilinear"
    attention: Attention = "mixing"
    content: Content = "nonlinear"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(
                f"alpha must be a positive number, got {self.alpha}; learned mixup needs lam inside (0, 1)"
            )
        check_choice("pair", self.pair, ("same", "cross"))
        for name in ("local_schedule", "mask_schedule"):
            check_choice(name, getattr(self, name), ("constant", "linear", "cosine", "warmup"))
        if self.extended and self.pair != "cross":
            raise ValueError('extended positives need the keys of both views: pair="cross"')

    def build_mixer(self, dim: int) -> SAMixer:
        """SAMix's Mixer for feature maps of ``dim`` channels."""
        return samixer_of(self, dim)


RELEASED: dict[str, Any] = {  # what the released code has otherwise than the paper
    "preset": "reference",
    "pair": "cross",
    "extended": True,
    "local_schedule": "warmup",
    "global_weight": 1.0,
    "mask_schedule": "warmup",
    "adjust_margin": 0.05,
    "lam_margin": 0.10,
    "dropout": 0.1,
}
SAMIX_I_PRESETS: dict[str, SAMixIOptions] = {"paper": SAMixIOptions(), "reference": SAMixIOptions(**RELEASED)}


class Sources(NamedTuple):
    """Where a mix and its targets come from; ``partner_*`` are of the whole batch, not yet paired."""

    image: Tensor  # (B, C, H, W)
    partner_image: Tensor
    z: Tensor  # (B, P, h, w) the Mixer's projections
    partner_z: Tensor
    key: Tensor  # (B, D) of the own image's other view
    partner_key: Tensor  # (B, D) of the partner's other view
    label: Tensor | None = None  # (B,) int64 cluster of the image, for SAMix-C


class SAMixIMixup(Mixing):
    """A Mixer trained beside MoCo.

    Args:
        mixer: reads the momentum encoder's feature maps.
        encoder: gives their width.
        options: a :class:`SAMixIOptions`, or the name of a preset: ``paper`` (also for None) or ``reference``.
        generator: of lam and pairs.

    Raises:
        ValueError: unknown preset, or a Mixer of another width.
    """

    def __init__(self, mixer: MaskGenerator, encoder: Encoder, options: Any, generator: torch.Generator) -> None:
        super().__init__()
        name = "paper" if options is None else options
        if isinstance(name, str) and name not in SAMIX_I_PRESETS:
            raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(SAMIX_I_PRESETS)}")
        self.options: SAMixIOptions = SAMIX_I_PRESETS[name] if isinstance(name, str) else name
        if mixer.dim != encoder.dim:
            raise ValueError(
                f"the Mixer reads maps of {mixer.dim} channels, the encoder's stage gives {encoder.dim}; "
                f"make it for {encoder.dim}, or choose another feature stage"
            )
        self.mixer = mixer.to(next(encoder.parameters()).device)
        self.generator = generator

    # The step ---------------------------------------------------------------------------------------------------------

    def losses(self, method: MoCo, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """Both branches; see the head of this file."""
        sources = self.sources(method, seen.view_q, seen.view_k, seen.key)
        mixed = self.encoder_loss(method, sources, seen.negatives)
        generation, mask, report = self.mixer_losses(method, sources, seen.negatives)
        weight = self.options.mask_weight * mask_schedule(self.options.mask_schedule, method.progress, method.step)
        loss = method.options.mixed_weight * mixed + generation + weight * mask
        return loss, {"mixed": mixed, "generation": generation, "mask": mask, **report}

    def sources(self, method: MoCo, view_q: Tensor, view_k: Tensor, key: Tensor) -> Sources:
        """Images, guides and keys of both sides of every pair."""
        z = self.mixer.project(method.guides(view_q))
        if self.options.pair == "same":
            return Sources(view_q, view_q, z, z, key, key)
        return Sources(view_q, view_k, z, self.mixer.project(method.guides(view_k)), key, method.keys(view_q))

    def encoder_loss(self, method: MoCo, sources: Sources, negatives: Tensor) -> Tensor:
        """Trains the query encoder; the masks have no graph."""
        draw = self.draw(len(sources.image), sources.image.device)
        with torch.no_grad():
            mask = self.paint(sources, draw)
            mask = self.finish(mask, sources, draw)
            mixed = blend(sources.image, sources.partner_image[draw.index], mask)
        z = normalized(method.online(mixed))
        return self.global_loss(method, z, sources, draw, negatives)

    def mixer_losses(
        self, method: MoCo, sources: Sources, negatives: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Trains the Mixer through the pixels alone: the momentum encoder is frozen."""
        draw = self.draw(len(sources.image), sources.image.device)
        mask, embedding = self.judge(method, sources, draw)
        generation = self.generation_loss(method, embedding, sources, draw, negatives)
        mask_loss, report = self.mask_loss(mask, draw)
        return generation, mask_loss, report

    def judge(self, method: MoCo, sources: Sources, draw: Draw) -> tuple[Tensor, Tensor]:
        """Masks with their graph, and the frozen momentum encoder's embedding (B, D) of the mix, not of unit length."""
        mask = self.paint(sources, draw)
        mixed = blend(sources.image, sources.partner_image[draw.index], mask)
        with untracked_batchnorm(method.momentum):
            return mask, method.momentum(mixed)

    def mask_loss(self, mask: Tensor, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the masks alone, and how they are."""
        mask_loss = mask_mean_loss(mask, draw.lam, self.options.mask_margin)
        if self.options.mask_variance:
            mask_loss = mask_loss - self.options.mask_variance * mask_variance(mask)
        report = {
            "mask_std": mask.detach().std(dim=(1, 2, 3)).mean(),
            "mask_error": (mask.detach().mean(dim=(1, 2, 3)) - draw.lam).abs().mean(),
        }
        return mask_loss, report

    def generation_loss(
        self, method: MoCo, embedding: Tensor, sources: Sources, draw: Draw, negatives: Tensor
    ) -> Tensor:
        """``local_weight * l_+ + global_weight * l_-`` on the momentum embedding (B, D) of the mix."""
        z = normalized(embedding)
        local = self.local_loss(method, z, sources, draw)
        local_weight = self.options.local_weight * mask_schedule(
            self.options.local_schedule, method.progress, method.step
        )
        total = local_weight * local
        if self.options.global_weight:
            total = total + self.options.global_weight * self.global_loss(method, z, sources, draw, negatives)
        return total

    def local_loss(self, method: MoCo, z: Tensor, sources: Sources, draw: Draw) -> Tensor:
        """BCE of how unit embeddings (B, D) of mixed images lie between the keys of both sources."""
        own, other = sources.key, sources.partner_key[draw.index]
        if self.options.extended:
            own, other = self.extend(sources, draw)
        return local_bce(z, own, other, draw.lam, method.options.temperature).mean()

    def global_loss(self, method: MoCo, z: Tensor, sources: Sources, draw: Draw, negatives: Tensor) -> Tensor:
        """Mixed infoNCE of unit embeddings (B, D) of mixed images with the keys of both sources."""
        keys = torch.stack([sources.key, sources.partner_key[draw.index]], dim=1)
        weights = torch.stack([draw.lam, 1.0 - draw.lam], dim=1)
        return mixed_info_nce(z, keys, weights, negatives, method.options.temperature).mean()

    def extend(self, sources: Sources, draw: Draw) -> tuple[Tensor, Tensor]:
        """Positives of the released code: w ~ Beta(2, 2) or 1 + w per element, between an image's two keys."""
        count, dim = sources.key.shape
        share = sample_lam(2.0, count * dim, per_sample=True, generator=self.generator).view(count, dim)
        share = share + (torch.rand((), generator=self.generator) < 0.5)
        share = to_device(share, sources.key.device)
        # with cross pairs, ``key`` is the key view's and ``partner_key`` the query view's, of every image
        own = F.normalize(torch.lerp(sources.partner_key, sources.key, share), dim=1)
        other = F.normalize(torch.lerp(sources.key, sources.partner_key, share), dim=1)
        return own, other[draw.index]

    # Its parts --------------------------------------------------------------------------------------------------------

    def draw(self, batch_size: int, device: torch.device) -> Draw:
        """A fresh lam and pairing for one branch.

        Raises:
            ValueError: a batch of one, which has no partner.
        """
        if batch_size < 2:
            raise ValueError("a Mixer needs at least two images in a batch: one has no partner")
        o = self.options
        lam = sample_lam(o.alpha, batch_size, per_sample=o.per_sample, generator=self.generator)
        index = sample_partners(batch_size, "cycle", generator=self.generator)
        return Draw(to_device(lam, device), to_device(index, device))

    def paint(self, sources: Sources, draw: Draw) -> Tensor:
        """Masks (B, 1, H, W); the partner's guide is taken by the very index that takes its image."""
        size = (sources.image.shape[-2], sources.image.shape[-1])
        return self.mixer.predict_mask(sources.z, sources.partner_z[draw.index], draw.lam, size)

    def finish(self, mask: Tensor, sources: Sources, draw: Draw) -> Tensor:
        """What is done to the encoder branch's masks."""
        return margin_mask(self.adjust(mask, draw.lam), draw.lam, self.options.lam_margin)

    def adjust(self, mask: Tensor, lam: Tensor) -> Tensor:
        """Brings masks to mean lam where they are off by more than the margin."""
        if self.options.adjust_margin < 0:
            return mask
        off = (mask.mean(dim=(1, 2, 3)) - lam).abs() > self.options.adjust_margin
        return torch.where(off.view(-1, 1, 1, 1), adjust_mask(mask, lam), mask)

    def after_step(self, progress: float) -> None:
        """Keeps the Mixer's parameters in range."""
        self.mixer.after_step()

    def preview(
        self, method: Any, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor
    ) -> MixedBatch | None:
        """What the Mixer paints, without adjustment or margin."""
        index = to_device(index, images.device)
        given = to_device(as_lam(lam, len(images)), images.device)
        z = self.mixer.project(method.momentum.feature_map(images))
        mask = self.mixer.predict_mask(z, z[index], given, (images.shape[-2], images.shape[-1]))
        return pair_batch(Mixed(blend(images, images[index], mask), given, mask), labels, index)
