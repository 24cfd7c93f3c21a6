"""SAMix-I: a Mixer learned without labels, beside MoCo (Li et al. 2022, arXiv:2111.15454, section 3.3).

As in AutoMix there are two branches, each with its own draw of lam and partners. The encoder branch trains the query
encoder on images mixed by masks without a graph. The Mixer branch trains the Mixer through the frozen EMA encoder: the
embedding of the mix must lie between the keys of its two sources, in lam's proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.batch import Mixed, MixedBatch, pair_batch
from samix.losses.contrastive import local_bce, normalized
from samix.losses.supervised import mask_loss
from samix.methods.contrastive.mixup import Attachment, ContrastiveMixup, MoCoStep, wrong_options
from samix.methods.learned import Draw, mask_report
from samix.methods.options import MaskSchedule, mask_schedule
from samix.mixers.base import MaskGenerator, adjust_mask, margin_mask
from samix.mixers.samix import SAMixer, SAMixerConfig
from samix.mixups.base import Augmentation, as_lam, blend, sample_lam, sample_partners, to_device
from samix.networks.ema import untracked_batchnorm
from samix.networks.encoder import Encoder
from samix.runtime.checks import Range
from samix.runtime.typed_options import Positive, Share, Weight


@dataclass(frozen=True)
class SAMixIOptions(SAMixerConfig):
    """Options of SAMix-I, a Mixer that learns beside MoCo: these, and those of the Mixer, see :class:`SAMixerConfig`.

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
        local_schedule: schedule of the local term's weight: ``constant`` [paper], ``linear``, ``cosine`` or ``warmup``.
        mask_weight: weight of the mask loss.
        mask_schedule: schedule of that weight.
        mask_margin: deviation of the mask's mean from lam that costs nothing.
        mask_variance: weight, inside the mask loss, of the mask's variance, which is maximised.
        mask_over_batch: mean and variance over the whole batch [released code] instead of per sample [paper].
        adjust_margin: the encoder branch's masks are brought to mean lam where they are further from it than this;
            negative switches that off.
        lam_margin: plain MixUp in the encoder branch where min(lam, 1 - lam) is at most this.

    Example:
        >>> samix.SAMixIOptions(mask_weight=0.5).mask_weight
        0.5
    """

    preset: str = "paper"
    alpha: Positive = 2.0
    per_sample: bool = False
    pair: Literal["same", "cross"] = "same"
    local_weight: Weight = 1.0
    global_weight: Weight = 0.5
    extended: bool = False
    local_schedule: MaskSchedule = "constant"
    mask_weight: Weight = 0.1
    mask_schedule: MaskSchedule = "linear"
    mask_margin: Share = 0.1
    mask_variance: Weight = 2.0
    mask_over_batch: bool = False
    adjust_margin: Annotated[float, Range(high=1)] = 0.1
    lam_margin: Annotated[float, Range(high=1)] = 0.08

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extended and self.pair != "cross":
            raise ValueError('extended positives need the keys of both views: pair="cross"')

    def build_mixer(self, dim: int) -> SAMixer:
        """SAMix's Mixer for feature maps of ``dim`` channels."""
        return SAMixer(dim, SAMixerConfig.of(self))

    def attach(self, mixup: Augmentation | MaskGenerator, to: Attachment) -> ContrastiveMixup:
        """Returns SAMix-I's part of MoCo's step."""
        if not isinstance(mixup, MaskGenerator):
            raise wrong_options(self, mixup)
        return SAMixIMixup(mixup, to.encoder, self, to.generator)


RELEASED: dict[str, Any] = {  # where the released code differs from the paper
    "preset": "reference",
    "pair": "cross",
    "extended": True,
    "local_schedule": "warmup",
    "global_weight": 1.0,
    "mask_schedule": "warmup",
    "mask_over_batch": True,
    "adjust_margin": 0.05,
    "lam_margin": 0.10,
    "dropout": 0.1,
}
SAMIX_I_PRESETS: dict[str, SAMixIOptions] = {"paper": SAMixIOptions(), "reference": SAMixIOptions(**RELEASED)}


class PairSources(NamedTuple):
    """Images, maps and keys of both sides of the pairs; ``partner_*`` are in the batch's order, not yet paired."""

    image: Tensor  # (B, C, H, W)
    partner_image: Tensor
    z: Tensor  # (B, P, h, w) the Mixer's projections
    partner_z: Tensor
    key: Tensor  # (B, D) of the other view of the image
    partner_key: Tensor  # (B, D) of the other view of the partner image
    label: Tensor | None = None  # (B,) int64 cluster of the image, for SAMix-C


class MixerBranch(NamedTuple):
    """What the Mixer's losses are computed from."""

    draw: Draw
    mask: Tensor  # (B, 1, H, W) with its graph
    embedding: Tensor  # (B, D) of the mix by the frozen EMA encoder, not of unit length


class SAMixIMixup(ContrastiveMixup):
    """A Mixer trained beside MoCo.

    Args:
        mixer: reads the EMA encoder's feature maps.
        encoder: gives their width.
        options: see :class:`SAMixIOptions`.
        generator: of lam and pairs.
    """

    extrapolates: ClassVar[bool] = True  # whether extended positives may lie beyond an image's two keys

    def __init__(
        self, mixer: MaskGenerator, encoder: Encoder, options: SAMixIOptions, generator: torch.Generator
    ) -> None:
        super().__init__()
        if mixer.dim != encoder.dim:
            raise ValueError(
                f"the Mixer reads maps of {mixer.dim} channels, the encoder's stage gives {encoder.dim}; "
                f"make it for {encoder.dim}, or choose another feature stage"
            )
        self.options = options
        self.mixer = mixer.to(next(encoder.parameters()).device)
        self.generator = generator

    @property
    def loss_parts(self) -> tuple[str, ...]:
        return ("mixed", "generation", "mask", "mask_std", "mask_error")

    # The step ---------------------------------------------------------------------------------------------------------

    def losses(self, step: MoCoStep) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts, _ = self.both_branches(step, self.pair_sources(step))
        return loss, parts

    def both_branches(self, step: MoCoStep, sources: PairSources) -> tuple[Tensor, dict[str, Tensor], MixerBranch]:
        """The weighted loss of both branches, its parts, and what the Mixer branch has computed."""
        mixed = self.encoder_loss(step, sources)
        branch = self.mixer_branch(step, sources)
        generation = self.generation_loss(step, sources, branch)
        mask, report = self.mask_loss(branch)
        weight = self.options.mask_weight * mask_schedule(self.options.mask_schedule, step.progress, step.done)
        loss = step.mixed_weight * mixed + generation + weight * mask
        return loss, {"mixed": mixed, "generation": generation, "mask": mask, **report}, branch

    def pair_sources(self, step: MoCoStep) -> PairSources:
        """Images, projected maps and keys of both sides of every pair."""
        z = self.mixer.project(step.feature_maps(step.view_q))
        if self.options.pair == "same":
            return PairSources(step.view_q, step.view_q, z, z, step.key, step.key)
        partner_z = self.mixer.project(step.feature_maps(step.view_k))
        return PairSources(step.view_q, step.view_k, z, partner_z, step.key, step.keys(step.view_q))

    def encoder_loss(self, step: MoCoStep, sources: PairSources) -> Tensor:
        """Trains the query encoder; the masks have no graph."""
        draw = self.draw(len(sources.image), sources.image.device)
        with torch.no_grad():
            mask = self.finish_mask(self.predict_mask(sources, draw), sources, draw)
            mixed = blend(sources.image, sources.partner_image[draw.index], mask)
        return self.global_loss(step, normalized(step.encoder(mixed)), sources, draw)

    def mixer_branch(self, step: MoCoStep, sources: PairSources) -> MixerBranch:
        """Masks with their graph, and what the EMA encoder makes of the mix: its gradient passes the pixels alone."""
        draw = self.draw(len(sources.image), sources.image.device)
        mask = self.predict_mask(sources, draw)
        mixed = blend(sources.image, sources.partner_image[draw.index], mask)
        with untracked_batchnorm(step.ema_encoder):
            return MixerBranch(draw, mask, step.ema_encoder(mixed))

    def mask_loss(self, branch: MixerBranch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the masks alone, and their standard deviation and distance from lam for the log."""
        o, mask, lam = self.options, branch.mask, branch.draw.lam
        loss = mask_loss(mask, lam, o.mask_margin, o.mask_variance, over_batch=o.mask_over_batch)
        return loss, mask_report(mask, lam[:, None])

    def generation_loss(self, step: MoCoStep, sources: PairSources, branch: MixerBranch) -> Tensor:
        """``local_weight * l_+ + global_weight * l_-`` of the embeddings of the mix."""
        z = normalized(branch.embedding)
        total = self.local_weight(step) * self.local_loss(step, z, sources, branch.draw)
        if self.options.global_weight:
            total = total + self.options.global_weight * self.global_loss(step, z, sources, branch.draw)
        return total

    def local_weight(self, step: MoCoStep) -> float:
        """The local term's weight by its schedule."""
        return self.options.local_weight * mask_schedule(self.options.local_schedule, step.progress, step.done)

    def local_loss(self, step: MoCoStep, z: Tensor, sources: PairSources, draw: Draw) -> Tensor:
        """BCE of how unit embeddings (B, D) of mixed images lie between the keys of both sources."""
        key, partner_key = sources.key, sources.partner_key[draw.index]
        if self.options.extended:
            key, partner_key = self.extend(sources, draw)
        return local_bce(z, key, partner_key, draw.lam, step.temperature).mean()

    def global_loss(self, step: MoCoStep, z: Tensor, sources: PairSources, draw: Draw) -> Tensor:
        """Mixed infoNCE of unit embeddings (B, D) of mixed images with the keys of both sources."""
        keys = torch.stack([sources.key, sources.partner_key[draw.index]], dim=1)
        return step.mixed_nce(z, keys, torch.stack([draw.lam, 1.0 - draw.lam], dim=1))

    def extend(self, sources: PairSources, draw: Draw) -> tuple[Tensor, Tensor]:
        """Positives of the released code, per element between an image's two keys, or beyond them.

        With w ~ Beta(2, 2), or, where :attr:`extrapolates`, 1 + w in half of the steps: ``w key + (1 - w) other key``,
        of unit length.
        """
        count, dim = sources.key.shape
        share = sample_lam(2.0, count * dim, per_sample=True, generator=self.generator).view(count, dim)
        if self.extrapolates:
            share = share + (torch.rand((), generator=self.generator) < 0.5)
        share = to_device(share, sources.key.device).to(sources.key.dtype)
        # with cross pairs, ``key`` is the key view's and ``partner_key`` the query view's, of every image
        key = F.normalize(torch.lerp(sources.partner_key, sources.key, share), dim=1)
        partner_key = F.normalize(torch.lerp(sources.key, sources.partner_key, share), dim=1)
        return key, partner_key[draw.index]

    # Draws and masks --------------------------------------------------------------------------------------------------

    def draw(self, batch_size: int, device: torch.device) -> Draw:
        """Draws lam and partners for one branch."""
        if batch_size < 2:
            raise ValueError("a Mixer needs at least two images in a batch: one has no partner")
        o = self.options
        lam = sample_lam(o.alpha, batch_size, per_sample=o.per_sample, generator=self.generator)
        index = sample_partners(batch_size, "cycle", generator=self.generator)
        return Draw(to_device(lam, device), to_device(index, device))

    def predict_mask(self, sources: PairSources, draw: Draw) -> Tensor:
        """Masks (B, 1, H, W); the partner's map is taken by the very index that takes its image."""
        size = (sources.image.shape[-2], sources.image.shape[-1])
        return self.mixer.predict_mask(sources.z, sources.partner_z[draw.index], draw.lam, size)

    def finish_mask(self, mask: Tensor, sources: PairSources, draw: Draw) -> Tensor:
        """The encoder branch's masks: adjusted to lam, and constant where lam is near 0 or 1."""
        return margin_mask(self.adjust(mask, draw.lam), draw.lam, self.options.lam_margin)

    def adjust(self, mask: Tensor, lam: Tensor) -> Tensor:
        """Brings masks to mean lam where they are off by more than the margin."""
        if self.options.adjust_margin < 0:
            return mask
        off = (mask.mean(dim=(1, 2, 3)) - lam).abs() > self.options.adjust_margin
        return torch.where(off.view(-1, 1, 1, 1), adjust_mask(mask, lam), mask)

    def after_step(self, progress: float) -> None:
        self.mixer.after_step()

    def preview(
        self, encoder: Encoder, teacher: Encoder, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor
    ) -> MixedBatch | None:
        """The mix by the Mixer's mask, without adjustment or margin."""
        index = to_device(index, images.device)
        given = to_device(as_lam(lam, len(images)), images.device)
        z = self.mixer.project(teacher.feature_map(images))
        mask = self.mixer.predict_mask(z, z[index], given, (images.shape[-2], images.shape[-1]))
        return pair_batch(Mixed(blend(images, images[index], mask), given, mask), labels, index)
