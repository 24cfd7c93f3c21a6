"""AutoMix (Liu et al., ECCV 2022, arXiv:2103.13027): mix by a network that is trained to mix.

A step has two branches with a draw of lam and pairs each. In the *classification* branch the Mixer's masks, cut from
the graph, mix images that train the network. In the *generation* branch the masks keep their graph, and the mixed
images are judged by the network's averaged copy, which is frozen: its gradient reaches the Mixer through the pixels
alone. One ``backward`` serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samix.batch import MixedBatch, TargetKind
from samix.losses.supervised import local_cross_entropy, mask_loss, mixed_cross_entropy
from samix.methods.base import Batch
from samix.methods.learned import Draw, LearnedMixup, mask_report
from samix.methods.options import LearnedOptions, mask_schedule
from samix.mixers.automix import AutoMixerConfig
from samix.mixers.base import adjust_mask, margin_mask
from samix.mixups.base import blend, to_device
from samix.networks.early_backward import gradients_now
from samix.networks.heads import idle


@dataclass(frozen=True)
class AutoMixOptions(LearnedOptions, AutoMixerConfig):
    """Options of AutoMix: those of the step, and those of its Mixer, see :class:`AutoMixerConfig`.

    Example:
        >>> samix.AutoMixOptions(mask_weight=0.5).mask_weight
        0.5
    """


AUTOMIX_PRESETS: dict[str, AutoMixOptions] = {
    "reference": AutoMixOptions(),
    "paper": AutoMixOptions(preset="paper", ema_decay_end=1.0, mask_over_batch=False, mask_schedule="linear"),
    "fast": AutoMixOptions(preset="fast", mixed_share=0.5, generator_share=0.5, generator_every=2),
}


class AutoMix(LearnedMixup[LearnedOptions]):
    """Trains a network together with AutoMix's Mixer, which learns to mix its images.

    Args:
        options: an :class:`AutoMixOptions`, or the name of a preset: ``reference``, ``paper`` or ``fast``. Options of
            another mask generator train that one: a dataclass that derives from :class:`LearnedOptions` and its config.

    Example:
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> method = samix.AutoMix(model, num_classes=10, feature=2)
        >>> loss, parts = method(torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
        >>> loss.backward()  # then optimizer.step(), optimizer.zero_grad(), method.after_step(progress)
    """

    presets: ClassVar[Mapping[str, LearnedOptions]] = AUTOMIX_PRESETS
    loss_parts = ("clean", "mixed", "generation", "mask", "mask_std", "mask_error")

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes both branches (arXiv:2103.13027, Eq. 8 and Algorithm 1).

        Returns:
            Loss, and its parts ``clean``, ``mixed``, ``generation``, ``mask``, with the masks' ``mask_std`` and
            ``mask_error`` (mean distance of a mask's mean from lam); the last four only in steps that train the Mixer.
        """
        projected = self.project(images)
        clean = self.clean_loss(images, labels)
        mixed = self.classification_loss(images, labels, projected.detach())
        parts = {"clean": clean, "mixed": mixed}
        if not self.trains_mixer:
            return clean + mixed + idle(self.mixer), parts
        generation, mask, report = self.generation_losses(images, labels, projected)
        loss = clean + mixed + generation + self.mask_weight() * mask
        return loss, {**parts, "generation": generation, "mask": mask, **report}

    def clean_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross-entropy of the clean images by the network's own head."""
        rows = slice(0, part_of(len(images), self.options.clean_share))
        return self.early(self.cross_entropy(images[rows], labels[rows]))

    def classification_loss(self, images: Tensor, labels: Tensor, projected: Tensor) -> Tensor:
        """Trains the network on images mixed by masks without a graph: no gradient of this reaches the Mixer."""
        o, count = self.options, len(images)
        draw = self.draw(count, images.device).part(slice(count - part_of(count, o.mixed_share), count))
        with torch.no_grad():
            mask = self.predict_mask(projected, draw, images)
            mask = torch.where(self.bernoulli(o.adjust_prob, images.device), adjust_mask(mask, draw.lam), mask)
            batch = mix_pairs(images, labels, draw, margin_mask(mask, draw.lam, o.lam_margin), self.kind)
        return self.early(batch.loss(self.model.mixed(batch.images), o.smoothing))

    def generation_losses(
        self, images: Tensor, labels: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Trains the Mixer: the frozen averaged copy must find both labels in the mix, in lam's proportion."""
        o, count = self.options, len(images)
        draw = self.draw(count, images.device).part(slice(0, part_of(count, o.generator_share)))
        mask = self.predict_mask(projected, draw, images)  # (B, 1, H, W), with its graph
        batch = mix_pairs(images, labels, draw, mask, self.kind)
        generation = self.generator_loss(self.teacher_logits(batch.images), batch)
        if o.early_backward:
            generation = gradients_now(generation, [mask])
        of_mask = mask_loss(mask, draw.lam, o.mask_margin, o.mask_variance, over_batch=o.mask_over_batch)
        return generation, of_mask, mask_report(mask, draw.lam[:, None])

    def generator_loss(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        """Returns mixed cross-entropy, or SAMix's eta balance ``l_+ + eta l_-`` (arXiv:2111.15454, section 3.2)."""
        if batch.labels.dim() == 3:  # (B, 2, K)
            return batch.loss(logits, self.options.smoothing)
        own, partner = batch.labels.unbind(1)
        lam = batch.weights[:, 0]
        mixed = mixed_cross_entropy(logits, own, partner, lam, self.options.smoothing)
        if self.options.eta is None:
            return mixed
        return local_cross_entropy(logits, own, partner, lam) + self.options.eta * mixed

    # Its parts --------------------------------------------------------------------------------------------------------

    def checked(self, batch: Batch) -> Batch:
        images, labels = super().checked(batch)
        if labels.dim() == 2 and self.options.eta is not None:
            raise ValueError(
                "eta balances the two classes of a pair, so it needs class ids; set eta to none, or give labels (B,)"
            )
        return images, labels

    @property
    def trains_mixer(self) -> bool:
        return self.step % self.options.generator_every == 0

    def early(self, loss: Tensor) -> Tensor:
        """Returns the network's loss; with ``early_backward`` its graph is used now, and gone."""
        return gradients_now(loss, self.model.parameters()) if self.options.early_backward else loss

    def bernoulli(self, prob: float, device: torch.device) -> Tensor:
        """Draws a boolean tensor () that is true with this probability."""
        return to_device(torch.rand((), generator=self.generator) < prob, device)

    def mask_weight(self) -> float:
        """Returns the weight of the mask loss at this progress."""
        return self.options.mask_weight * mask_schedule(self.options.mask_schedule, self.progress, self.step)


def part_of(count: int, share: float) -> int:
    """Returns how many of ``count`` images a share in (0, 1] is: at least one."""
    return max(1, round(share * count))


def mix_pairs(images: Tensor, labels: Tensor, draw: Draw, mask: Tensor, kind: TargetKind | None = None) -> MixedBatch:
    """Returns the images of a draw's rows and their partners, mixed by masks (B, 1, H, W); kind of (B, K) labels."""
    return MixedBatch(
        images=blend(images[draw.rows], images[draw.index], mask),
        labels=torch.stack([labels[draw.rows], labels[draw.index]], dim=1),
        weights=torch.stack([draw.lam, 1.0 - draw.lam], dim=1),
        index=draw.index,
        mask=mask,
        kind=kind if labels.dim() == 2 else "class",
    )
