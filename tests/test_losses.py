"""Losses of mixed samples and of masks: equal to loops, to closed forms, and to each other where the algebra says
so."""

import math

import numpy as np
import oracles_learned as oracles
import pytest
import torch
import torch.nn.functional as F

from samix.batch import Mixed, MixedBatch, pair_batch
from samix.losses import local_cross_entropy, mask_mean_loss, mask_variance, mixed_cross_entropy

B, K = 6, 4
PAIRED = [mixed_cross_entropy, local_cross_entropy]


def pairs():
    """Logits, two labels each (the last pair of one class), and lam with both ends."""
    logits = torch.randn(B, K) * 2
    return (
        logits,
        torch.tensor([0, 1, 2, 3, 0, 2]),
        torch.tensor([1, 0, 3, 0, 2, 2]),
        torch.tensor([0, 0.1, 0.5, 0.8, 1, 0.3]),
    )


def numpy_of(*tensors):
    return [t.double().numpy() if t.is_floating_point() else t.numpy() for t in tensors]


@pytest.mark.parametrize("loss", PAIRED)
def test_losses_of_pairs_equal_their_loops(loss):
    given = pairs()
    expected = getattr(oracles, loss.__name__)(*numpy_of(*given))
    assert float(loss(*given)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("over_batch", [True, False])
def test_losses_of_masks_equal_their_loops(over_batch):
    mask, lam = torch.rand(B, 1, 5, 4) * torch.rand(B, 1, 1, 1), torch.tensor([0.9, 0.8, 0.95, 0.1, 0.7, 1.0])
    m, share = numpy_of(mask, lam)
    for margin in (0.0, 0.1):
        expected = oracles.mask_mean_loss(m, share, margin, over_batch)
        assert expected > 0.05
        assert float(mask_mean_loss(mask, lam, margin, over_batch=over_batch)) == pytest.approx(expected, rel=1e-5)
    variance = oracles.mask_variance(m, over_batch)
    assert float(mask_variance(mask, over_batch=over_batch)) == pytest.approx(variance, rel=1e-5)


# Mixed cross-entropy -------------------------------------------------------------------------------------------------


def test_mixed_cross_entropy_is_cross_entropy_with_the_two_hot_target():
    logits, a, b, lam = pairs()
    target = lam[:, None] * F.one_hot(a, K) + (1 - lam)[:, None] * F.one_hot(b, K)
    assert torch.allclose(mixed_cross_entropy(logits, a, b, lam), F.cross_entropy(logits, target))
    batch = pair_batch(Mixed(torch.zeros(B, 1, 1, 1), lam, torch.zeros(B, 1, 1, 1)), a, torch.arange(6).roll(-1))
    shifted = mixed_cross_entropy(logits, a, a[[1, 2, 3, 4, 5, 0]], lam)
    assert torch.allclose(batch.loss(logits), shifted)


def test_the_smoothed_batch_loss_equals_its_loop():
    logits, a, b, lam = pairs()
    batch = MixedBatch(
        images=torch.zeros(B, 1, 1, 1),
        labels=torch.stack([a, b], 1),
        weights=torch.stack([lam, 1 - lam], 1),
        index=torch.zeros(B, 2, dtype=torch.int64),
    )
    expected = oracles.mixed_cross_entropy(*numpy_of(logits, a, b, lam), smoothing=0.1)
    assert float(batch.loss(logits, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_mixed_cross_entropy_of_one_class_is_plain_whatever_lam_is():
    logits, a, _, lam = pairs()
    assert torch.allclose(mixed_cross_entropy(logits, a, a, lam), F.cross_entropy(logits, a))
    assert torch.allclose(mixed_cross_entropy(logits, a, a.roll(1), torch.ones(B)), F.cross_entropy(logits, a))


def test_mixed_cross_entropy_of_equal_logits_is_log_k():
    _, a, b, lam = pairs()
    assert float(mixed_cross_entropy(torch.full((B, K), 7.0), a, b, lam)) == pytest.approx(math.log(K))


# The local term ------------------------------------------------------------------------------------------------------


def test_the_local_term_is_binary_cross_entropy_of_the_difference_of_logits():
    logits, a, b, lam = pairs()
    difference = logits.gather(1, a[:, None]) - logits.gather(1, b[:, None])
    bce = F.binary_cross_entropy_with_logits(difference.squeeze(1), lam, reduction="none")
    assert torch.allclose(local_cross_entropy(logits, a, b, lam), bce[a != b].sum() / B)


def test_the_local_term_of_two_classes_is_mixed_cross_entropy():
    logits, lam = torch.randn(5, 2), torch.rand(5)
    a = torch.tensor([0, 1, 0, 1, 0])
    assert torch.allclose(local_cross_entropy(logits, a, 1 - a, lam), mixed_cross_entropy(logits, a, 1 - a, lam))


def test_the_local_term_moves_the_two_logits_alone_and_no_pair_of_one_class():
    logits, a, b, lam = pairs()
    logits.requires_grad_()
    local_cross_entropy(logits, a, b, lam).backward()
    touched = (F.one_hot(a, K) + F.one_hot(b, K) > 0) & (a != b)[:, None]
    assert (logits.grad[~touched] == 0).all()
    assert (logits.grad[touched] != 0).all()


def test_the_local_term_is_least_where_the_two_way_softmax_is_lam():
    lam = torch.tensor([0.2, 0.5, 0.7])
    a, b = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    logits = torch.stack([lam.logit(), torch.zeros(3), torch.randn(3)], dim=1).requires_grad_()
    least = local_cross_entropy(logits, a, b, lam)
    least.backward()
    entropy = -(lam * lam.log() + (1 - lam) * (1 - lam).log()).mean()
    assert torch.allclose(least, entropy)
    assert logits.grad.abs().max() < 1e-6
    assert local_cross_entropy(logits + torch.tensor([0.1, 0.0, 0.0]), a, b, lam) > least


# Both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", PAIRED)
def test_losses_of_pairs_do_not_change_when_the_pair_is_read_backwards(loss):
    logits, a, b, lam = pairs()
    assert torch.allclose(loss(logits, a, b, lam), loss(logits, b, a, 1 - lam), atol=1e-6)


@pytest.mark.parametrize("loss", PAIRED)
def test_losses_of_pairs_are_linear_in_lam(loss):
    logits, a, b, lam = pairs()
    other, share = torch.rand(B), 0.3
    between = loss(logits, a, b, share * lam + (1 - share) * other)
    assert torch.allclose(between, share * loss(logits, a, b, lam) + (1 - share) * loss(logits, a, b, other))
    assert not torch.allclose(loss(logits, a, b, lam), loss(logits, a, b, other))


@pytest.mark.parametrize("loss", PAIRED)
def test_each_sample_is_weighed_by_its_own_lam(loss):
    logits, a, b, lam = pairs()
    alone = [loss(logits[i : i + 1], a[i : i + 1], b[i : i + 1], lam[i : i + 1]) for i in range(B)]
    assert torch.allclose(loss(logits, a, b, lam), torch.stack(alone).mean())
    assert not torch.allclose(loss(logits, a, b, lam), loss(logits, a, b, lam.mean().expand(B)), rtol=1e-3)


def test_the_balanced_loss_is_affine_in_eta():
    logits, a, b, lam = pairs()

    def balanced(eta):
        return local_cross_entropy(logits, a, b, lam) + eta * mixed_cross_entropy(logits, a, b, lam)

    assert torch.allclose(balanced(0.5), (balanced(0.0) + balanced(1.0)) / 2)


@pytest.mark.parametrize("loss", PAIRED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_give_finite_losses_and_gradients(loss, dtype):
    logits = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 6e4], [0.0, 0.0, 6e4]]).to(dtype).requires_grad_()
    value = loss(logits, torch.tensor([1, 0, 0]), torch.tensor([2, 1, 1]), torch.tensor([0.0, 1.0, 0.5]))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


# The losses compute in float32 whatever they are given, so the steps of the numerical derivative are wide.
GRADCHECK = {"eps": 1e-2, "atol": 1e-3, "rtol": 1e-2, "nondet_tol": 0.0}


@pytest.mark.parametrize("loss", PAIRED)
def test_derivatives_of_pair_losses_are_the_numerical_ones(loss):
    logits, a, b, lam = pairs()
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: loss(u, a, b, lam).double(), (logits,), **GRADCHECK)


@pytest.mark.parametrize("over_batch", [True, False])
def test_derivatives_of_mask_losses_are_the_numerical_ones(over_batch):
    mask = (torch.rand(3, 1, 2, 2).double() * 0.5 + 0.25).requires_grad_()
    lam = torch.tensor([0.95, 0.05, 0.98])
    assert torch.autograd.gradcheck(
        lambda m: mask_mean_loss(m, lam, 0.05, over_batch=over_batch).double(), (mask,), **GRADCHECK
    )
    assert torch.autograd.gradcheck(lambda m: mask_variance(m, over_batch=over_batch).double(), (mask,), **GRADCHECK)


# Losses of masks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_batch", [True, False])
def test_the_mask_loss_is_flat_inside_the_margin_and_has_slope_one_outside(over_batch):
    for mean, lam, slope in [(0.5, 0.45, 0.0), (0.5, 0.55, 0.0), (0.8, 0.5, 1.0), (0.2, 0.5, -1.0)]:
        mask = torch.full((2, 1, 4, 4), mean, requires_grad=True)
        loss = mask_mean_loss(mask, torch.full((2,), lam), 0.1, over_batch=over_batch)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(max(abs(mean - lam) - 0.1, 0.0), abs=1e-6)
        assert float(mask.grad.sum()) == pytest.approx(slope)


def test_one_full_and_one_empty_mask_are_ideal_for_the_batch_and_bad_for_each_sample():
    mask = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    half = torch.full_like(mask, 0.5)
    lam = torch.full((2,), 0.5)

    def full(mask, over_batch):
        mean = mask_mean_loss(mask, lam, 0.1, over_batch=over_batch)
        return float(mean - 2 * mask_variance(mask, over_batch=over_batch))

    assert full(mask, True) == pytest.approx(-0.5)
    assert full(mask, False) == pytest.approx(0.4)
    assert full(half, True) == full(half, False) == 0.0


@pytest.mark.parametrize("over_batch", [True, False])
def test_the_variance_of_a_mask_is_at_most_one_quarter(over_batch):
    assert float(mask_variance(torch.rand(4, 1, 6, 6), over_batch=over_batch)) < 0.25
    binary = torch.zeros(4, 1, 6, 6)
    binary[..., :3] = 1.0
    assert float(mask_variance(binary, over_batch=over_batch)) == pytest.approx(0.25)
    np.testing.assert_allclose(float(mask_variance(torch.full((4, 1, 6, 6), 0.3))), 0.0, atol=1e-9)
