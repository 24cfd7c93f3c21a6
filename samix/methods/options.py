"""Options shared by the learned-mixup methods, and the mask-loss schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from samix.mixups.base import Pairing
from samix.runtime.checks import Range, check_choice
from samix.runtime.typed_options import CheckedOptions, Count, Positive, PositiveShare, Share, ShareBelow1, Weight

MaskSchedule = Literal["constant", "linear", "cosine", "warmup"]
BatchNormStatistics = Literal["clean", "both"]


@dataclass(frozen=True)
class StepOptions(CheckedOptions):
    """Options of every step with a learned mixup.

    Args:
        preset: name of the preset these values come from: ``reference``, ``paper``; for AutoMix and SAMix also
            ``fast``.
        alpha: lam ~ Beta(alpha, alpha).
        per_sample: one lam per sample instead of one per batch and branch.
        pairing: ``randperm`` [released code], or ``cycle`` for small batches: no image is paired with itself.
        ema_decay: decay of the averaged copy at the start, in [0, 1].
        ema_decay_end: at the end; cosine between them.
        ema_hold: share of the run in which ``ema_decay`` is held.
        ema_warmup: use a decay of at most ``(1 + t) / (10 + t)`` at step t, so that the averaged copy does not lag
            behind in short runs [ours; as in TensorFlow's ExponentialMovingAverage].
        lam_margin: plain MixUp where min(lam, 1 - lam) is at most this [released code]; negative switches it off.
        bn_statistics: ``clean`` keeps the averaged copy's BatchNorm statistics of clean images only, and lets most
            clean passes stop at the feature map; ``both`` averages clean and mixed images [released code].
        smoothing: label smoothing of all cross-entropies, in [0, 1).
        init: a Mixer to start from, see :meth:`samix.Mixer.from_pretrained`; empty starts from new weights.
        constant_masks: hold every mask at lam, while all else of the step stays, draw by draw: the control that says
            what learning the mask is worth.
    """

    name: ClassVar[str]  # of the mask generator; its config, from which the options derive too, says it

    preset: str = "reference"
    alpha: Positive = 2.0
    per_sample: bool = False
    pairing: Pairing = "randperm"
    ema_decay: Share = 0.999
    ema_decay_end: Share = 0.999999
    ema_hold: Share = 0.1
    ema_warmup: bool = False
    lam_margin: Annotated[float, Range(high=0.5)] = 0.08
    bn_statistics: BatchNormStatistics = "clean"
    smoothing: ShareBelow1 = 0.0
    init: str = ""
    constant_masks: bool = False


@dataclass(frozen=True)
class LearnedOptions(StepOptions):
    """Options of a step whose Mixer has a mask loss; the defaults are those common to all presets.

    The last five trade mathematics, or memory, for time. Costs are counted in forward passes of a network of which the
    feature map takes the share f; a plain step has 3, the whole step 8 + f.

    Args:
        adjust_prob: probability, per step, that the classification masks are rescaled to mean lam (SAMix).
        mask_weight: weight of the mask loss.
        mask_schedule: its course: ``constant``, ``linear`` to 0 [paper], ``cosine`` to 0, or ``warmup``, which ends
            within a few percent of the run: what the released large-scale runs did in effect.
        mask_margin: deviation of the mask's mean from lam that costs nothing.
        mask_variance: weight, inside the mask loss, of the mask's variance, which is maximised.
        mask_over_batch: mean and variance over the whole batch [released code] instead of per sample [papers].
        eta: None trains the Mixer by mixed cross-entropy [released code]; a number by local + eta * global [SAMix].
        clean_share: share of the batch, its first images, in the clean loss, in (0, 1]; costs 3 times that.
        mixed_share: share of the batch, its last images, that is mixed in the classification branch, in (0, 1] (their
            partners are of the whole batch); costs 3 times that. Both at 0.5 show each image once.
        generator_share: share of the batch, its first images, that is mixed to train the Mixer, in (0, 1]; costs twice
            that.
        generator_every: train the Mixer in every n-th step only; costs 2 / n. In the others its gradient is zero, so
            its optimiser still moves it by momentum and weight decay.
        early_backward: use each loss's graph before the next is made: the same step in a quarter to half less memory.
            Off, one backward pass serves all: for second derivatives, and where several processes exchange gradients
            over a slow network, which then overlaps with that pass.
    """

    adjust_prob: Share = 0.0
    mask_weight: Weight = 0.1
    mask_schedule: MaskSchedule = "constant"
    mask_margin: Share = 0.1
    mask_variance: Weight = 0.0
    mask_over_batch: bool = True
    eta: Weight | None = None
    clean_share: PositiveShare = 1.0
    mixed_share: PositiveShare = 1.0
    generator_share: PositiveShare = 1.0
    generator_every: Count = 1
    early_backward: bool = True


def mask_schedule(schedule: MaskSchedule, progress: float, step: int) -> float:
    """Returns the factor of the mask loss's weight, from 1 at progress 0.

    ``warmup`` is the released code's hook in effect: it multiplies the *current* weight by a cosine at every iteration,
    so that after a share p of T iterations about ``exp(-(p / s)^3)`` with ``s^3 = 12 / (pi^2 T)`` is left. That is
    ``exp(-pi^2 p^2 t / 12)`` at iteration t = p T.

    Args:
        schedule: ``constant``, ``linear``, ``cosine`` or ``warmup``.
        progress: p, share of the run that is done, in [0, 1].
        step: t, optimiser steps that are done.
    """
    check_choice("mask_schedule", schedule, get_args(MaskSchedule))
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return (1.0 + math.cos(math.pi * progress)) / 2.0
    return math.exp(-((math.pi * progress) ** 2) * step / 12.0) if schedule == "warmup" else 1.0
