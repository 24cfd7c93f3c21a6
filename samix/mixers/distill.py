"""A score generator that learns the masks of a trained Mixer, and how often the two agree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.mixers.folder import MixerWithEncoder
from samix.mixers.score import ScoreMixer, ScoreMixerConfig, solve_offset
from samix.mixups.base import sample_lam, sample_partners

FINER = 4  # pixels per feature cell, at which masks are compared in training


def distill(
    teacher: MixerWithEncoder,
    batches: Iterable[Tensor],
    steps: int,
    config: ScoreMixerConfig | None = None,
    *,
    lr: float = 3e-3,
    generator: torch.Generator | None = None,
) -> MixerWithEncoder:
    """Trains a score generator to predict the masks of a Mixer, brought to mean lam, on the same encoder.

    The loss is the binary cross-entropy of the masks, the optimiser Adam with a cosine schedule. The scale of the
    scores is learned too.

    Args:
        teacher: a Mixer with its encoder; left as it is.
        batches: of images (B, C, H, W), normalised as the teacher's; one a step.
        steps: to train for, at least 1.
        config: of the score generator.
        lr: largest learning rate.
        generator: CPU generator of lam and pairs.

    Returns:
        The score generator with a copy of the encoder, in eval mode.

    Raises:
        ValueError: fewer batches than steps.
    """
    config = config or ScoreMixerConfig()
    student = ScoreMixer(teacher.config.dim, config).to(next(teacher.parameters()).device)
    scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([*student.parameters(), scale], lr=lr)
    done = 0
    for done, images in enumerate(islice(batches, steps), start=1):
        z = teacher.encode(images).float()
        size = (FINER * z.shape[-2], FINER * z.shape[-1])
        lam = sample_lam(2.0, len(z), per_sample=True, generator=generator).to(z)
        index = sample_partners(len(z), "cycle", generator=generator).to(z.device)
        target = shifted_mask(teacher(z, z[index], lam, size), lam)
        scores = student.project(z) * scale.to(z).exp()
        mask = student.predict_mask(scores, scores[index], lam, size)
        optimizer.param_groups[0]["lr"] = lr * (1.0 + math.cos(math.pi * (done - 1) / steps)) / 2
        optimizer.zero_grad()
        loss = F.binary_cross_entropy(mask.clamp(1e-5, 1.0 - 1e-5), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if done < steps:
        raise ValueError(f"{steps} steps need as many batches, got {done}; give an endless iterator")
    config = dataclasses.replace(config, gain=config.gain * float(scale.detach().exp()))
    result = MixerWithEncoder(
        dataclasses.replace(teacher.config, kind=config.name, mixer=dataclasses.asdict(config), sha256="")
    )
    result.backbone.load_state_dict(teacher.backbone.state_dict())
    result.mixer.load_state_dict(student.state_dict())
    return result.to(next(teacher.parameters()).device)


def shifted_mask(mask: Tensor, lam: Tensor) -> Tensor:
    """Brings masks to mean lam by an offset of their logits, as a score generator makes them.

    Rescaling (:func:`samix.mixers.base.adjust_mask`) moves the border between the images to another value of the logit.

    Args:
        mask: (B, 1, H, W) in [0, 1].
        lam: (B,).
    """
    logit = torch.logit(mask.float(), eps=1e-6)
    return torch.sigmoid(logit + solve_offset(logit, lam))


@torch.no_grad()
def agreement(one: MixerWithEncoder, other: MixerWithEncoder, images: Tensor, lam: float = 0.5) -> float:
    """Measures the share of feature cells that two Mixers with the same encoder give to the same image.

    Args:
        one: a Mixer.
        other: one with the same encoder.
        images: (B, C, H, W), normalised as theirs; paired half a round away.
        lam: share of the own image. Both masks are shifted to it, and a cell is of the image with more than half of it.

    Returns:
        In [0, 1].
    """
    z = one.encode(images)
    index = torch.arange(len(z), device=z.device).roll(-(len(z) // 2))
    shares, size = torch.full((len(z),), lam, device=z.device), (FINER * z.shape[-2], FINER * z.shape[-1])
    masks = (shifted_mask(mixer(z, z[index], shares, size), shares) for mixer in (one, other))
    own = [F.avg_pool2d(mask, FINER) > 0.5 for mask in masks]
    return float((own[0] == own[1]).float().mean())
