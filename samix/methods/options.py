"""Options that the steps with a learned mixup have in common, SAMix's Mixer made by them, and a mask loss's course."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from samix.mixers.learned import SAMixer, check_choice
from samix.mixups.base import Pairing

MaskSchedule = Literal["constant", "linear", "cosine", "warmup"]
SHARES = ("clean_share", "mixed_share", "generator_share", "generator_until", "guide_scale", "generator_scale")


@dataclass(frozen=True)
class StepOptions:
    """Options of every step with a learned mixup.

    Args:
        preset: name of the preset these values come from: ``reference``, ``paper``; for AutoMix and SAMix also
            ``fast``.
        alpha: lam ~ Beta(alpha, alpha).
        per_sample: one lam per sample instead of one per batch and branch.
        pairing: ``randperm`` [released code], or ``cycle`` for small batches: no image is paired with itself.
        momentum: coefficient of the momentum copy at the start, in [0, 1].
        momentum_end: at the end; cosine between them.
        momentum_hold: share of the run in which ``momentum`` is held.
        lam_margin: plain MixUp where min(lam, 1 - lam) is at most this [released code]; negative switches it off.
        statistics: ``clean`` keeps the momentum copy's BatchNorm statistics of clean images only, and lets most clean
            passes stop at the feature map; ``both`` averages clean and mixed images [released code]; ``averaged`` runs
            the copy in eval mode, with averages of the network's own statistics, which are then of clean images only;
            its norms are then folded into the convolutions before them.
        smoothing: label smoothing of the classification losses, in [0, 1).
    """

    preset: str = "reference"
    alpha: float = 2.0
    per_sample: bool = False
    pairing: Pairing = "randperm"
    momentum: float = 0.999
    momentum_end: float = 0.999999
    momentum_hold: float = 0.1
    lam_margin: float = 0.08
    statistics: Literal["clean", "both", "averaged"] = "clean"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(
                f"alpha must be a positive number, got {self.alpha}; learned mixup needs lam inside (0, 1)"
            )
        check_choice("statistics", self.statistics, ("clean", "both", "averaged"))
        check_choice("pairing", self.pairing, ("randperm", "cycle", "flip", "roll"))
        for name in ("momentum", "momentum_end", "momentum_hold"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")


@dataclass(frozen=True)
class LearnedOptions(StepOptions):
    """Options of a step whose Mixer has a mask loss; the defaults are those common to all presets.

    The last nine trade mathematics, or memory, for time. Costs are counted in forward passes of a network of which the
    feature map takes the share f; a plain step has 3, the whole step 8 + f.

    Args:
        adjust_prob: probability, per step, that the classification masks are rescaled to mean lam (SAMix).
        mask_weight: weight of the mask loss.
        mask_schedule: its course: ``constant``, ``linear`` to 0 [paper], ``cosine`` to 0, or ``warmup``, which ends
        within 2 % of the run: what the released large-scale runs did in effect.
        mask_margin: deviation of the mask's mean from lam that costs nothing.
        mask_variance: weight, inside the mask loss, of the mask's variance, which is maximised.
        mask_over_batch: mean and variance over the whole batch [released code] instead of per sample [papers].
        eta: None trains the Mixer by mixed cross-entropy [released code]; a number by local + eta * global [SAMix].
        init: a Mixer to start from, see :meth:`samix.Mixer.from_pretrained`; empty starts from new weights.
        clean_share: share of the batch, its first images, in the clean loss, in (0, 1]; costs 3 times that.
        mixed_share: share of the batch, its last images, that is mixed in the classification branch, in (0, 1] (their
            partners are of the whole batch); costs 3 times that. Both at 0.5 show each image once.
        generator_share: share of the batch, its first images, that is mixed to train the Mixer, in (0, 1]; costs twice
            that.
        generator_every: train the Mixer in every n-th step only; costs 2 / n.
        generator_until: share of the run, in (0, 1], after which the Mixer is left as it is; costs 2 times that.
        guide: whose feature map the Mixer reads: the ``momentum`` copy's, by a pass of its own, or that of the
            ``online`` network's clean pass, which saves f but for one whole pass of the copy in four.
        guide_scale: scale of the images for that pass, in (0, 1]; costs f times its square.
        generator_scale: scale of the images that the momentum copy judges, in (0, 1]; costs 2 times its square.
        sequential: use each loss's graph before the next is made: the same step in a quarter to half less memory. Off,
            one backward pass serves all: for second derivatives, and where several processes exchange gradients over a
            slow network, which then overlaps with that pass.
    """

    adjust_prob: float = 0.0
    mask_weight: float = 0.1
    mask_schedule: MaskSchedule = "constant"
    mask_margin: float = 0.1
    mask_variance: float = 0.0
    mask_over_batch: bool = True
    eta: float | None = None
    init: str = ""
    clean_share: float = 1.0
    mixed_share: float = 1.0
    generator_share: float = 1.0
    generator_every: int = 1
    generator_until: float = 1.0
    guide: Literal["momentum", "online"] = "momentum"
    guide_scale: float = 1.0
    generator_scale: float = 1.0
    sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mask_schedule", self.mask_schedule, ("constant", "linear", "cosine", "warmup"))
        if not 0.0 <= self.adjust_prob <= 1.0:
            raise ValueError(f"adjust_prob must be in [0, 1], got {self.adjust_prob}")
        check_choice("guide", self.guide, ("momentum", "online"))
        for name in SHARES:
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}; 1 is the whole")
        if self.generator_every < 1:
            raise ValueError(f"generator_every must be at least 1 (every step), got {self.generator_every}")
        if self.guide == "online" and (self.clean_share < 1.0 or self.guide_scale < 1.0):
            raise ValueError(
                'guide="online" reads the clean pass of the whole batch, so clean_share and guide_scale must be 1, got '
                f"{self.clean_share} and {self.guide_scale}"
            )

    @property
    def rests(self) -> bool:
        """Whether there are steps that leave the Mixer as it is."""
        return self.generator_every > 1 or self.generator_until < 1.0


def samixer_of(options: Any, dim: int) -> SAMixer:
    """SAMix's Mixer for feature maps of ``dim`` channels, as the options of SAMix or of SAMix-I have it."""
    names = ("gamma", "lam_scale", "dropout", "activation", "norm", "upsample", "attention", "content")
    return SAMixer(dim, **{name: getattr(options, name) for name in names})


def mask_schedule(schedule: MaskSchedule, progress: float) -> float:
    """Factor of the mask loss's weight, from 1 at progress 0.

    ``warmup`` is the released code's hook in effect: it multiplies the *current* weight by a cosine at every iteration,
    so after p of an ImageNet run of 100 epochs (500,400 iterations) about exp(-(p / 0.0135)^3) is left.

    Raises:
        ValueError: unknown schedule.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return (1.0 + math.cos(math.pi * progress)) / 2.0
    if schedule == "warmup":
        return math.exp(-((progress / 0.0135) ** 3))
    raise ValueError(f"unknown mask_schedule {schedule!r}; choose constant, linear, cosine or warmup")
