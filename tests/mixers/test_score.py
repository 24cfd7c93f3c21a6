"""The score mixer: masks, offsets and gradients against plain loops."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from samix.methods.score import ScoreMix, ScoreMixOptions
from samix.mixers.score import ScoreMixer, contest_mask, solve_offset


def offset_by_bisection(logits: list[float], lam: float) -> float:
    """The offset of one sample, by halving an interval sixty times."""
    low, high = -1000.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        mean = sum(1 / (1 + math.exp(-max(min(v + middle, 500), -500))) for v in logits) / len(logits)
        low, high = (low, middle) if mean > lam else (middle, high)
    return (low + high) / 2


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_offset_equals_bisection_in_a_loop(scale):
    torch.manual_seed(0)
    logit = torch.randn(6, 1, 3, 4, dtype=torch.float64) * scale
    lam = torch.tensor([0.01, 0.2, 0.5, 0.63, 0.9, 0.99], dtype=torch.float64)
    offset = solve_offset(logit, lam, steps=60).flatten()
    for b in range(6):
        assert offset[b].item() == pytest.approx(
            offset_by_bisection(logit[b].flatten().tolist(), lam[b].item()), abs=1e-6
        )


def test_gradient_of_a_mask_passes_through_the_offset():
    torch.manual_seed(0)
    logit = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: torch.sigmoid(d + solve_offset(d, lam, steps=60)), logit)


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (224, 160)])
@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_mean_of_a_mask_is_lambda(size, scale):
    torch.manual_seed(1)
    own, partner, lam = torch.randn(16, 1, 6, 6) * scale, torch.randn(16, 1, 6, 6) * scale, torch.rand(16)
    mask = contest_mask(own, partner, lam, size)
    assert mask.shape == (16, 1, *size)
    assert (mask.mean((1, 2, 3)) - lam).abs().max() < 1e-3


def test_a_contest_is_symmetric():
    torch.manual_seed(0)
    own, partner, lam = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4), torch.rand(5)
    mask = contest_mask(own, partner, lam, (16, 16))
    assert torch.allclose(mask, 1 - contest_mask(partner, own, 1 - lam, (16, 16)), atol=1e-5)


def test_equal_maps_give_plain_mixup():
    maps, lam = torch.randn(4, 1, 5, 5), torch.tensor([0.0, 0.3, 0.5, 1.0])
    mask = contest_mask(maps, maps, lam, (20, 20))
    assert torch.allclose(mask, lam.view(-1, 1, 1, 1).expand_as(mask), atol=1e-5)


def test_two_maps_score_the_roles_apart():
    own, partner = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4)
    half = torch.full((2,), 0.5)
    wanted = contest_mask(own[:, :1], partner[:, 1:], half, (8, 8))
    assert torch.equal(contest_mask(own, partner, half, (8, 8)), wanted)


def test_scores_of_an_image_do_not_depend_on_its_batch():
    mixer = ScoreMixer(12).eval()
    z = torch.randn(4, 12, 5, 5)
    assert torch.allclose(mixer.project(z)[1:2], mixer.project(z[1:2]), atol=1e-6)


def test_gradient_reaches_the_head():
    mixer = ScoreMixer(12)
    maps = mixer.project(torch.randn(4, 12, 5, 5))
    mask = mixer.predict_mask(maps, maps.roll(1, 0), torch.full((4,), 0.4), (20, 20))
    (mask * torch.randn(20, 20)).mean().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (mixer.head[1], mixer.head[4], mixer.head[7]))


@pytest.mark.parametrize(("name", "value"), [("maps", 3), ("width", 0), ("gain", 0.0)])
def test_wrong_options_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        ScoreMixer(8, **{name: value})


def test_it_is_trained_online_by_the_step_of_automix():
    torch.manual_seed(0)
    method = ScoreMix(timm.create_model("test_resnet", num_classes=5), 5, ScoreMixOptions(width=8))
    before = {name: p.clone() for name, p in method.mixer.named_parameters()}
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.1))
    loss, parts = method(torch.randn(6, 3, 32, 32), torch.arange(6) % 5)
    loss.backward()
    optimizer.step()
    assert isinstance(method.mixer, ScoreMixer)
    assert float(parts["mask_error"]) < 1e-3
    changed = [name for name, p in method.mixer.named_parameters() if not torch.equal(p, before[name])]
    assert {"head.1.weight", "head.4.weight", "head.7.weight"} <= set(changed)
