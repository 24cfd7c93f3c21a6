"""Distilling a Mixer into a score generator."""

from __future__ import annotations

import itertools

import pytest
import torch

from samix.mixers.distill import agreement, distill, shifted_mask
from samix.mixers.folder import MixerConfig, MixerWithEncoder
from samix.mixers.score import ScoreMixer, ScoreMixerConfig


def teacher_with(**mixer):
    torch.manual_seed(0)
    config = MixerConfig(
        kind="score", mixer=mixer, dim=32, architecture="test_resnet", model_args={}, stem="default", stage=1, size=32,
        mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    return MixerWithEncoder(config)


def batches():
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(16, 3, 32, 32, generator=generator)


def test_a_student_learns_the_masks_of_its_teacher_and_shares_its_encoder():
    teacher = teacher_with(width=8, gain=400.0)  # its norms are new, and its scores small
    images = torch.randn(32, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    generator = torch.Generator().manual_seed(2)
    untrained = distill(teacher, batches(), 1, ScoreMixerConfig(width=16), lr=1e-9, generator=generator)
    student = distill(teacher, batches(), 80, ScoreMixerConfig(width=16), lr=1e-2, generator=generator)
    assert isinstance(student.mixer, ScoreMixer)
    assert student.mixer.config.gain != ScoreMixerConfig().gain
    assert agreement(teacher, student, images) > max(0.8, agreement(teacher, untrained, images) + 0.1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    for name, tensor in teacher.backbone.state_dict().items():
        assert torch.equal(tensor, student.backbone.state_dict()[name])


def test_a_mixer_agrees_with_itself():
    teacher = teacher_with(width=8)
    assert agreement(teacher, teacher, torch.randn(6, 3, 32, 32)) == 1.0


def test_a_shifted_mask_has_mean_lam_and_the_logits_of_its_source_up_to_a_constant():
    mask, lam = torch.rand(5, 1, 8, 8) * 0.98 + 0.01, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    shifted = shifted_mask(mask, lam)
    assert torch.allclose(shifted.mean((1, 2, 3)), lam, atol=1e-4)
    difference = (torch.logit(shifted) - torch.logit(mask)).flatten(1)
    assert (difference - difference.mean(1, keepdim=True)).abs().max() < 1e-3


def test_too_few_batches_are_refused():
    with pytest.raises(ValueError, match="3 steps need as many batches, got 2"):
        distill(teacher_with(width=8), itertools.islice(batches(), 2), 3)
