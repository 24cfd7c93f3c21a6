"""Adversarial AutoMix (Qin et al., ICLR 2024, arXiv:2312.11954): mix several images, and make it hard every other step.

The step is AutoMix's, with three changes: S images share each pixel; there is no mask loss; and at every second step
the generator is trained against the classifier instead of for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.batch import MixedBatch, TargetKind
from samix.methods.learned import Draw, LearnedMixup, mask_report
from samix.methods.options import StepOptions
from samix.mixers.adversarial import AdversarialMixer, AdversarialMixerConfig
from samix.mixups.base import sample_lam, sample_partners, to_device
from samix.runtime.checks import Range
from samix.runtime.typed_options import AtLeast2, CountOr0, Positive, Share


@dataclass(frozen=True)
class AdAutoMixOptions(StepOptions, AdversarialMixerConfig):
    """Options of Adversarial AutoMix: those of the step and of its generator (:class:`AdversarialMixerConfig`).

    Args:
        alpha: each of the S shares is a draw of Beta(alpha, alpha), over their sum; for two, lam is the draw itself.
        lam_margin: plain mixing where the own share or the rest is at most this; negative switches it off.
        samples: S, images per mix; 3, or 2 on ImageNet [released code].
        linear_weight: rho, for more than two images: the clean loss counts 1 - rho, that of plain linear mixes rho.
        beta: weight of cross-entropy in an adversarial step, in [0, 1]; 1 - beta is the cosine's. 0.3 on CIFAR.
        interval: every how many steps one is adversarial; 1 makes all so, 0 none.
        cos_sign: 1 lowers the similarity of the mix's logits to its sources' [released code]; -1 raises it, which keeps
            the mix's meaning, the purpose that the paper states.

    Example:
        >>> samix.AdAutoMixOptions(samples=2).samples
        2
    """

    alpha: Positive = 1.0
    lam_margin: Annotated[float, Range(high=0.5)] = 0.03
    samples: AtLeast2 = 3
    linear_weight: Share = 0.5
    beta: Share = 0.3
    interval: CountOr0 = 2
    cos_sign: Literal[-1, 1] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples > 2 and self.pairing not in ("randperm", "cycle"):
            raise ValueError(
                f"{self.pairing} gives an image the same partner every time: with {self.samples} samples choose "
                "randperm or cycle"
            )


ADAUTOMIX_PRESETS: dict[str, AdAutoMixOptions] = {
    "reference": AdAutoMixOptions(),
    "paper": AdAutoMixOptions(preset="paper", ema_decay_end=1.0, cos_sign=-1),
}


class AdAutoMix(LearnedMixup[AdAutoMixOptions]):
    """Trains a network together with a generator of masks that also trains against it (Adversarial AutoMix).

    Args:
        options: an :class:`AdAutoMixOptions`, or the name of a preset: ``reference`` (as the released code trains) or
            ``paper`` (the mix is kept similar to its sources, its EMA decay ends at 1).

    Example:
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> method = samix.AdAutoMix(model, num_classes=10, feature=2)
        >>> loss, parts = method(torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
    """

    presets = ADAUTOMIX_PRESETS
    loss_parts = ("clean", "linear", "mixed", "generation", "mask_std", "mask_error")

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes both branches (arXiv:2312.11954, Algorithm 1).

        Returns:
            Loss, and its parts ``clean``, ``mixed``, for more than two images ``linear``, and ``generation`` (the
            cross-entropy of the generator's mix, whether it is to fall or to rise), with ``mask_std`` and
            ``mask_error``.
        """
        projected = self.project(images)
        clean = self.cross_entropy(images, labels)
        mixed, linear = self.classification_losses(images, labels, projected.detach())
        generation, loss, report = self.adversarial_losses(images, labels, projected)
        parts = {"clean": clean, "mixed": mixed, "generation": generation, **report}
        if linear is not None:
            rho, parts["linear"] = self.options.linear_weight, linear
            clean = (1.0 - rho) * clean + rho * linear
        return clean + mixed + loss, parts

    def classification_losses(self, images: Tensor, labels: Tensor, projected: Tensor) -> tuple[Tensor, Tensor | None]:
        """Trains the network on generated mixes, and for more than two images on linear ones; no graph to the Mixer."""
        draw = self.draw(len(images), images.device)
        with torch.no_grad():
            masks = self.predict_masks(projected, draw, images)
            shares = draw.lam[:, :, None, None].expand_as(masks)
            own = draw.lam[:, 0]
            plain = torch.minimum(own, 1.0 - own) <= self.options.lam_margin
            masks = torch.where(plain.view(-1, 1, 1, 1), shares, masks)
            batch = mix_sources(images, labels, draw, masks, self.kind)
            linear = mix_sources(images, labels, draw, shares, self.kind) if self.options.samples > 2 else None
        mixed = batch.loss(self.model.mixed(batch.images), self.options.smoothing)
        if linear is None:
            return mixed, None
        return mixed, linear.loss(self.model.mixed(linear.images), self.options.smoothing)

    def adversarial_losses(
        self, images: Tensor, labels: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Trains the generator by the frozen averaged copy: for its cross-entropy, or against it.

        ``CE`` in a cooperative step; ``-beta CE + (1 - beta) cos_sign cos`` in an adversarial one, where cos is the
        mean of ``sum_i lam_i cos(logits of the mix, logits of image i)``. One head reads both, so that the cosine of
        equal images is 1.

        Returns:
            The cross-entropy, the generator's loss, and statistics of the masks.
        """
        draw = self.draw(len(images), images.device)
        masks = self.predict_masks(projected, draw, images)  # (B, S, H, W), with their graph
        batch = mix_sources(images, labels, draw, masks, self.kind)
        logits = self.teacher_logits(batch.images)
        generation = loss = batch.loss(logits, self.options.smoothing)
        if self.adversarial:
            with torch.no_grad():
                sources = self.teacher_logits(images).float()[draw.index]  # (B, S, K): the clean batch, gathered
            cosine = F.cosine_similarity(logits.float().unsqueeze(1), sources, dim=2)  # (B, S)
            similar = (draw.lam * cosine).sum(1).mean()
            o = self.options
            loss = -o.beta * generation + (1.0 - o.beta) * o.cos_sign * similar
        return generation, loss, mask_report(masks, draw.lam)

    @property
    def adversarial(self) -> bool:
        """Whether this step trains the generator against the classifier: the first of every ``interval`` does."""
        return self.options.interval > 0 and self.step % self.options.interval == 0

    # Its parts --------------------------------------------------------------------------------------------------------

    def draw(self, batch_size: int, device: torch.device) -> Draw:
        """Fresh shares lam (B, S) and images index (B, S) for one branch; the first image of each mix is the own."""
        o = self.options
        shares = [
            sample_lam(o.alpha, batch_size, per_sample=o.per_sample, generator=self.generator)
            for _ in range(o.samples if o.samples > 2 else 1)
        ]
        index = [torch.arange(batch_size)]
        index += [sample_partners(batch_size, o.pairing, generator=self.generator) for _ in range(o.samples - 1)]
        lam = torch.stack([shares[0], 1.0 - shares[0]] if o.samples == 2 else shares, dim=1)
        return Draw(to_device(normalised(lam), device), to_device(torch.stack(index, dim=1), device))

    def predict_masks(self, projected: Tensor, draw: Draw, images: Tensor) -> Tensor:
        """Returns masks (B, S, H, W) of a draw's images."""
        mixer = self.mixer
        assert isinstance(mixer, AdversarialMixer)
        sources = [projected[rows] for rows in draw.index.unbind(1)]
        masks = mixer.predict_masks(sources, draw.lam, (images.shape[-2], images.shape[-1]))
        return draw.lam[:, :, None, None] + 0.0 * masks if self.options.constant_masks else masks


def normalised(lam: Tensor) -> Tensor:
    """Rows (B, S) over their sums; equal shares where all draws are 0, as for a very small alpha."""
    total = lam.sum(1, keepdim=True)
    return torch.where(total > 0.0, lam / total.clamp(min=torch.finfo(lam.dtype).tiny), 1.0 / lam.shape[1])


def mix_sources(
    images: Tensor, labels: Tensor, draw: Draw, masks: Tensor, kind: TargetKind | None = None
) -> MixedBatch:
    """``sum_i mask_i x_i`` of S images, and its labels.

    Args:
        images: (B, C, H, W).
        labels: (B,) int64, or (B, K) float.
        draw: lam (B, S) and index (B, S).
        masks: (B, S, H, W) float32, at every pixel of sum 1.
        kind: of (B, K) labels.

    Returns:
        MixedBatch with k = S; its ``mask`` is the own image's.
    """
    mixed = torch.zeros((), device=images.device)
    for i, rows in enumerate(draw.index.unbind(1)):
        mixed = mixed + masks[:, i : i + 1] * images[rows]
    return MixedBatch(
        images=mixed.to(images.dtype),
        labels=labels[draw.index],
        weights=draw.lam,
        index=draw.index,
        mask=masks[:, :1],
        kind=kind if labels.dim() == 2 else "class",
    )
