"""Whole steps of SAMix-I and SAMix-C: loss, parts and gradients are those of plain loops, in float64."""

from dataclasses import replace

import oracles_samix_views as oracle
import pytest
import torch
from torch import Tensor, nn
from view_networks import trunk

from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.methods.contrastive.samix_c import SAMIX_C_PRESETS
from samix.methods.contrastive.samix_i import SAMIX_I_PRESETS, SAMixIMixup
from samix.methods.learned import Draw
from samix.mixers.base import MaskGenerator, MaskGeneratorConfig
from samix.mixups.base import sample_lam

COUNT, IMAGES, SIDE = 6, 24, 8
SMALL = {"clusters": 4, "min_cluster": 2}
WEIGHTS = {"mask_margin": 0.02, "local_weight": 0.8, "mask_weight": 0.3}  # none of them 1, so that none can be dropped
COURSES = {"local_schedule": "linear", "mask_schedule": "cosine"}
CASES = {
    "paper": SAMIX_I_PRESETS["paper"],
    "reference": SAMIX_I_PRESETS["reference"],
    "weights": replace(SAMIX_I_PRESETS["paper"], **WEIGHTS, **COURSES),
    "extended": replace(SAMIX_I_PRESETS["reference"], **WEIGHTS, **COURSES),
    "c-paper": replace(SAMIX_C_PRESETS["paper"], **SMALL),
    "c-reference": replace(SAMIX_C_PRESETS["reference"], **SMALL),
    "c-weights": replace(SAMIX_C_PRESETS["paper"], **SMALL, **WEIGHTS, **COURSES),
    "c-extended": replace(SAMIX_C_PRESETS["reference"], **SMALL, **WEIGHTS, **COURSES),
}
DRAWS = (
    ([0.05, 0.3, 0.5, 0.62, 0.8, 0.93], [1, 2, 3, 4, 5, 0]),
    ([0.9, 0.15, 0.4, 0.55, 0.07, 0.7], [3, 5, 4, 1, 0, 2]),
)
LABELS = [0, 3, 1, 1, 2, 0]  # the first draw pairs two of one cluster, and so does the second


class SmallMixer(MaskGenerator):
    """Masks in float64 that depend on both maps, unlike on either, and on lam."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, MaskGeneratorConfig())
        self.own, self.other = nn.Conv2d(dim, 1, 1), nn.Conv2d(dim, 1, 1)
        self.slope = nn.Parameter(torch.tensor(1.5))

    def project(self, z: Tensor) -> Tensor:
        return torch.cat([self.own(z), self.other(z)], dim=1)

    def predict_mask(self, projected: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        logit = 3.0 * (projected[:, :1] - partner[:, 1:]) + self.slope * (lam.view(-1, 1, 1, 1) - 0.5)
        scale = size[0] // logit.shape[2]
        return torch.sigmoid(logit).repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def build(case: str) -> MoCo:
    torch.manual_seed(0)
    options = MoCoOptions(dim=5, queue=12, key_bn="none", mixed_weight=0.7)
    generator = torch.Generator().manual_seed(3)
    given = {"mixup": SmallMixer(12), "mixup_options": CASES[case], "feature": "body", "images": IMAGES}
    method = MoCo(trunk(), options, generator=generator, **given)
    if method.clusters is not None:
        method.clusters.initialise(torch.randn(IMAGES, 5))
        method.clusters.labels[:COUNT] = torch.tensor(LABELS)
        method.clusters.weights.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        for head in (method.mixup.head, method.mixup.ema_head):
            nn.init.normal_(head.weight)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.mul_(1.5)
        for parameter in (*method.ema_encoder.parameters(), *method.mixup.mixer.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    method.progress, method.step = 0.3, 5
    return method.double()


@pytest.mark.parametrize("coin", [0, 1], ids=["between", "beyond"])
@pytest.mark.parametrize("case", CASES)
def test_the_whole_step_is_the_loop(case, coin, monkeypatch):
    method = build(case)
    labels = None if method.clusters is None else LABELS
    draws = [Draw(torch.tensor(lam, dtype=torch.float64), torch.tensor(index)) for lam, index in DRAWS]
    monkeypatch.setattr(SAMixIMixup, "draw", lambda *_: draws.pop(0))
    method.generator.manual_seed(SEEDS[coin])
    replay = torch.Generator().manual_seed(SEEDS[coin])
    views = torch.randn(2, COUNT, 3, SIDE, SIDE, dtype=torch.float64)
    batch = (views[0], views[1], torch.arange(COUNT))

    wanted, wanted_parts = oracle.whole_step(method, batch, DRAWS, replay, labels)
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    wanted_grads = torch.autograd.grad(wanted, list(trained.values()))
    loss, parts = method(batch)
    grads = torch.autograd.grad(loss, list(trained.values()))

    assert loss.item() == pytest.approx(wanted.item(), abs=1e-10)
    for name, part in wanted_parts.items():
        assert parts[name].item() == pytest.approx(part.item(), abs=1e-10), name
    for name, grad, value in zip(trained, grads, wanted_grads, strict=True):
        assert (value != 0).any(), name
        torch.testing.assert_close(grad, value, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def coin_of(seed: int) -> bool:
    """Whether extended positives lie beyond the keys, with draws of this seed."""
    generator = torch.Generator().manual_seed(seed)
    sample_lam(2.0, COUNT * 5, per_sample=True, generator=generator)
    return bool(torch.rand((), generator=generator) < 0.5)


SEEDS = [next(seed for seed in range(50) if coin_of(seed) == side) for side in (False, True)]
