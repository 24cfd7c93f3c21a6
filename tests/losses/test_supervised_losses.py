"""Losses of mixed samples and of masks: equal to loops, to closed forms, and to each other where the algebra says
so."""

import dataclasses
import math

import numpy as np
import oracles_learned as oracles
import pytest
import torch
import torch.nn.functional as F

from samix.batch import Mixed, MixedBatch, pair_batch
from samix.losses.supervised import (
    LOSSES,
    binary_cross_entropy,
    decoupled_bce,
    decoupled_cross_entropy,
    local_cross_entropy,
    mask_loss,
    mask_mean_loss,
    mask_variance,
    mixed_cross_entropy,
    rescale_lam,
    soft_cross_entropy,
    softmax_bce,
)
from samix.methods.supervised import Supervised
from samix.mixups.handmade import MixUp

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


def test_smoothed_mixed_cross_entropy_is_the_mix_of_two_smoothed_losses():
    generator = torch.Generator().manual_seed(0)
    logits, lam = torch.randn(6, 5, generator=generator), torch.rand(6, generator=generator)
    own, other = torch.randint(5, (2, 6), generator=generator)
    each = [F.cross_entropy(logits, y, label_smoothing=0.1, reduction="none") for y in (own, other)]
    wanted = (lam * each[0] + (1.0 - lam) * each[1]).mean()
    torch.testing.assert_close(mixed_cross_entropy(logits, own, other, lam, 0.1), wanted)


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
    assert torch.allclose(local_cross_entropy(logits, a, b, lam), bce[a != b].mean())
    assert (a == b).any()
    assert local_cross_entropy(logits, a, a, lam) == 0.0


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
    counted = range(B) if loss is mixed_cross_entropy else (a != b).nonzero().flatten().tolist()
    alone = [loss(logits[i : i + 1], a[i : i + 1], b[i : i + 1], lam[i : i + 1]) for i in counted]
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


# Losses of mixed batches ---------------------------------------------------------------------------------------------

every_loss = pytest.mark.parametrize("name", LOSSES)


def mixed_batch(labels, weights, target=None):
    """A batch of these labels; images play no part in a loss."""
    size = len(weights)
    index = torch.zeros(size, weights.shape[1], dtype=torch.int64)
    return MixedBatch(torch.zeros(size, 1, 1, 1), labels, weights, index, target=target)


def paired_batch():
    logits, a, b, lam = pairs()
    return logits, mixed_batch(torch.stack([a, b], 1), torch.stack([lam, 1 - lam], 1))


def three_way_batch():
    weights = torch.rand(B, 3)
    return torch.randn(B, K), mixed_batch(torch.randint(K, (B, 3)), weights / weights.sum(1, keepdim=True))


def multi_hot_batch():
    lam = torch.rand(B)
    labels = torch.randint(2, (B, 2, K)).float()
    return torch.randn(B, K), mixed_batch(labels, torch.stack([lam, 1 - lam], 1))


def dense_batch():
    target = torch.rand(B, K)
    target = target / target.sum(1, keepdim=True)
    return torch.randn(B, K), mixed_batch(torch.zeros(B, 2, dtype=torch.int64), torch.full((B, 2), 0.5), target)


BATCHES = {"pairs": paired_batch, "three": three_way_batch, "multi-hot": multi_hot_batch, "dense": dense_batch}
every_batch = pytest.mark.parametrize("kind", BATCHES)


@every_batch
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_batches_equal_their_loops(kind, smoothing):
    logits, batch = BATCHES[kind]()
    u, target = numpy_of(logits, batch.soft_targets(K, smoothing))
    found = {
        soft_cross_entropy(logits, batch, smoothing): oracles.soft_cross_entropy(u, target),
        softmax_bce(logits, batch, smoothing): oracles.softmax_bce(u, target),
    }
    for threshold in (None, 0.2):
        for sum_classes in (False, True):
            loss = binary_cross_entropy(
                logits, batch, smoothing=smoothing, threshold=threshold, sum_classes=sum_classes
            )
            found[loss] = oracles.binary_cross_entropy(u, target, threshold, sum_classes)
    assert [float(loss) for loss in found] == pytest.approx(list(found.values()), rel=1e-5)


@pytest.mark.parametrize(("power", "threshold"), [(1.0, 1.0), (0.0, 1.0), (2.0, 0.5), (0.5, 0.8)])
def test_decoupled_losses_equal_their_loops(power, threshold):
    logits, batch = paired_batch()
    u, labels, lam = numpy_of(logits, batch.labels, batch.lam)
    term = oracles.decoupled_term(u, labels[:, 0], labels[:, 1], lam, power, threshold)
    for smoothing, eta in ((0.0, 0.1), (0.1, 0.7)):
        plain = oracles.soft_cross_entropy(u, numpy_of(batch.soft_targets(K, smoothing))[0])
        loss = decoupled_cross_entropy(logits, batch, eta=eta, power=power, threshold=threshold, smoothing=smoothing)
        assert float(loss) == pytest.approx(plain + eta * term, rel=1e-5)
    target = np.zeros((B, K))
    for i, (a, b) in enumerate(labels):
        for label, share in ((a, lam[i]), (b, 1 - lam[i])):
            target[i, label] += oracles.rescaled(share, power, threshold) if share > 0 else 0.0
    target = np.minimum(target, 1)
    expected = oracles.binary_cross_entropy(u, 0.9 * target + 0.1 / K, None, False)
    loss = decoupled_bce(logits, batch, power=power, threshold=threshold, smoothing=0.1)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["less", "more"])
def test_a_decoupled_term_may_be_that_of_one_class_alone(mode):
    logits, batch = paired_batch()
    u, labels, lam = numpy_of(logits, batch.labels, batch.lam)
    wanted = 0.0
    for z, (a, b), share in zip(u, labels, lam, strict=True):
        if a == b or share in (0.0, 1.0):
            continue
        for own, other, weight in ((a, b, share), (b, a, 1.0 - share)):
            if weight == 0.5 or (weight < 0.5) == (mode == "less"):
                rest = math.log(sum(math.exp(v) for k, v in enumerate(z) if k != other))
                wanted += oracles.rescaled(weight, 2.0, 0.5) * (rest - z[own])
    plain = soft_cross_entropy(logits, batch)
    loss = decoupled_cross_entropy(logits, batch, eta=0.3, power=2.0, threshold=0.5, mode=mode)
    assert float(loss - plain) == pytest.approx(0.3 * wanted / B, rel=1e-4)
    even = dataclasses.replace(batch, weights=torch.full((B, 2), 0.5))
    both = decoupled_cross_entropy(logits, even)
    assert torch.equal(decoupled_cross_entropy(logits, even, mode=mode), both)


def test_threshold_0_gives_each_class_the_whole_weight():
    logits, batch = paired_batch()
    whole = decoupled_cross_entropy(logits, batch, power=0.0)
    assert torch.equal(decoupled_cross_entropy(logits, batch, threshold=0.0), whole)
    assert rescale_lam(batch.lam, 3.0, 0.0).tolist() == [1.0] * B


def test_the_binary_loss_is_timm_s():
    timm_loss = pytest.importorskip("timm.loss").BinaryCrossEntropy
    logits, batch = paired_batch()
    unmixed = mixed_batch(batch.labels, torch.tensor([[1.0, 0.0]]).expand(B, 2))
    for options in ({}, {"target_threshold": 0.2}, {"sum_classes": True}, {"target_threshold": 0.01}):
        ours = {"threshold": options.get("target_threshold"), "sum_classes": options.get("sum_classes", False)}
        theirs = timm_loss(smoothing=0.1, **options)(logits, batch.labels[:, 0])
        torch.testing.assert_close(binary_cross_entropy(logits, unmixed, smoothing=0.1, **ours), theirs)
        theirs = timm_loss(smoothing=0.1, **options)(logits, batch.soft_targets(K, 0.1))
        torch.testing.assert_close(binary_cross_entropy(logits, batch, smoothing=0.1, **ours), theirs)


def test_the_default_loss_of_a_batch_is_the_cross_entropy_that_fits_its_labels():
    for kind in BATCHES:
        logits, batch = BATCHES[kind]()
        for smoothing in (0.0, 0.2):
            loss = binary_cross_entropy if kind == "multi-hot" else soft_cross_entropy
            torch.testing.assert_close(loss(logits, batch, smoothing=smoothing), batch.loss(logits, smoothing))
    labels, mask = torch.randint(K, (B, 2, 5, 6)), torch.rand(B, 1, 5, 6)
    batch = MixedBatch(torch.zeros(B, 1, 5, 6), labels, torch.rand(B, 2), torch.zeros(B, 2).long(), mask)
    logits = torch.randn(B, K, 5, 6)
    assert torch.equal(soft_cross_entropy(logits, batch, 0.1), batch.loss(logits, 0.1))
    for name in ("bce", "softmax_bce", "decoupled", "decoupled_bce"):
        with pytest.raises(ValueError, match=r"label per image|for each image"):
            LOSSES[name](logits, batch)


def test_special_cases_fall_together():
    logits, batch = paired_batch()
    torch.testing.assert_close(decoupled_cross_entropy(logits, batch, eta=0.0), soft_cross_entropy(logits, batch))
    torch.testing.assert_close(
        decoupled_bce(logits, batch, threshold=1.0, smoothing=0.1),
        binary_cross_entropy(logits, batch, smoothing=0.1),
    )
    two_hot = decoupled_bce(logits, batch, power=0.0)
    torch.testing.assert_close(two_hot, binary_cross_entropy(logits, batch, threshold=0.0))
    p = logits.softmax(1)
    torch.testing.assert_close(softmax_bce(logits, batch), F.binary_cross_entropy(p, batch.soft_targets(K)))
    assert rescale_lam(torch.tensor([0.0, 0.2, 0.4, 1.0]), 2.0, 0.4).tolist() == pytest.approx([0, 0.25, 1, 1])


@every_loss
def test_a_loss_of_a_batch_is_the_mean_of_its_samples_losses(name):
    logits, batch = paired_batch()
    logits.requires_grad_()
    alone = [
        LOSSES[name](logits[i : i + 1], mixed_batch(batch.labels[i : i + 1], batch.weights[i : i + 1]))
        for i in range(B)
    ]
    whole = LOSSES[name](logits, batch)
    torch.testing.assert_close(whole, torch.stack(alone).mean())
    (gradient,) = torch.autograd.grad(whole, logits)
    weights = batch.weights.clone()
    weights[2] = torch.tensor([0.9, 0.1])
    (other,) = torch.autograd.grad(LOSSES[name](logits, mixed_batch(batch.labels, weights)), logits)
    assert torch.equal(gradient[[0, 1, 3, 4, 5]], other[[0, 1, 3, 4, 5]])
    assert not torch.allclose(gradient[2], other[2], rtol=1e-3)


@every_loss
def test_a_pair_may_be_read_backwards(name):
    logits, batch = paired_batch()
    back = mixed_batch(batch.labels.flip(1), batch.weights.flip(1))
    torch.testing.assert_close(LOSSES[name](logits, batch), LOSSES[name](logits, back))


@pytest.mark.parametrize("name", ["ce", "bce", "softmax_bce"])
def test_smoothing_commutes_with_mixing(name):
    logits, batch = paired_batch()
    smoothed = F.one_hot(batch.labels, K) * 0.9 + 0.1 / K
    after = LOSSES[name](logits, batch, smoothing=0.1)
    torch.testing.assert_close(after, LOSSES[name](logits, mixed_batch(smoothed, batch.weights)))


@every_loss
def test_derivatives_of_batch_losses_are_the_numerical_ones(name):
    logits, batch = paired_batch()
    logits = logits.double().requires_grad_()
    assert LOSSES[name](logits, batch).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda u: LOSSES[name](u, batch), (logits,))
    for dtype in (torch.bfloat16, torch.float16):
        assert LOSSES[name](logits.to(dtype), batch).dtype == torch.float32


@every_loss
@pytest.mark.parametrize("classes", [2, 3])
def test_huge_logits_give_finite_losses_and_gradients(name, classes):
    for size in (1e4, 1.0, 0.0):
        logits = torch.tensor([[1.0, -1, 0], [-1, 1, 1], [0, 0, 1], [1, -1, -1]])[:, :classes] * size
        logits.requires_grad_()
        labels = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 1]])
        weights = torch.tensor([[0.0, 1.0], [0.3, 0.7], [0.5, 0.5], [1.0, 0.0]])
        loss = LOSSES[name](logits, mixed_batch(labels, weights))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_the_decoupled_term_of_a_class_does_not_see_the_other():
    logits = torch.randn(1, K, requires_grad=True)
    both = mixed_batch(torch.tensor([[1, 3]]), torch.tensor([[1 - 1e-6, 1e-6]]))  # l_b has next to no weight
    term = decoupled_cross_entropy(logits, both, eta=1.0) - soft_cross_entropy(logits, both)
    (gradient,) = torch.autograd.grad(term, logits)
    assert gradient[0, 3].abs() < 1e-5
    assert gradient[0, 1] < -0.1
    expected = logits.softmax(1)[0, 0] / (1 - logits.softmax(1)[0, 3])
    torch.testing.assert_close(gradient[0, 0], expected, atol=1e-5, rtol=1e-4)


def test_two_classes_in_all_have_no_decoupled_term():
    logits = torch.randn(3, 2)
    batch = mixed_batch(torch.tensor([[0, 1], [1, 0], [1, 1]]), torch.full((3, 2), 0.5))
    torch.testing.assert_close(decoupled_cross_entropy(logits, batch, eta=3.0), soft_cross_entropy(logits, batch))


def test_weights_that_do_not_sum_to_one_weigh_each_source_by_its_own():
    logits, batch = paired_batch()
    loose = mixed_batch(batch.labels, batch.weights * torch.tensor([0.7, 1.4]))
    log_p = logits.log_softmax(1).gather(1, batch.labels)
    torch.testing.assert_close(soft_cross_entropy(logits, loose), -(loose.weights * log_p).sum(1).mean())
    heavy = mixed_batch(torch.tensor([[0, 0]]), torch.tensor([[0.9, 0.8]]))
    once = mixed_batch(torch.tensor([[0, 0]]), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(binary_cross_entropy(logits[:1], heavy), binary_cross_entropy(logits[:1], once))


def test_no_loss_reads_a_value_on_the_host():
    for name, loss in LOSSES.items():
        logits, batch = paired_batch()
        compiled = torch.compile(
            lambda u, w, loss=loss, batch=batch: loss(u, mixed_batch(batch.labels, w)), backend="eager", fullgraph=True
        )
        torch.testing.assert_close(compiled(logits, batch.weights), loss(logits, batch), msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u, b: binary_cross_entropy(u, b, threshold=1.0), r"threshold must be in \[0, 1\), got 1.0"),
        (lambda u, b: binary_cross_entropy(u, b, smoothing=-0.1), r"smoothing must be in \[0, 1\)"),
        (lambda u, b: softmax_bce(u[:, :1], b), "needs at least two classes"),
        (lambda u, b: decoupled_cross_entropy(u, b, eta=-1.0), r"eta must be in \[0, inf\), got -1.0"),
        (lambda u, b: decoupled_cross_entropy(u, b, power=-1.0), r"power must be in \[0, inf\)"),
        (lambda u, b: decoupled_bce(u, b, threshold=1.5), r"threshold must be in \[0, 1\]"),
        (
            lambda u, b: decoupled_cross_entropy(u, b, mode="les"),
            "mode must be one of both, less, more.*did you mean less",
        ),
        (lambda u, b: decoupled_bce(*three_way_batch()), "need two class ids for each image, got torch.int64"),
        (lambda u, b: decoupled_bce(*multi_hot_batch()), "need two class ids for each image, got torch.float32"),
        (lambda u, b: decoupled_cross_entropy(*dense_batch()), "got a dense target"),
        (lambda u, b: softmax_bce(u, mixed_batch(torch.rand(B, 2), b.weights)), "these labels are values"),
    ],
)
def test_what_a_loss_cannot_take_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*paired_batch())


@every_loss
def test_every_loss_can_train_a_network(name):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, K))
    method = Supervised(net, MixUp(), num_classes=K, loss=LOSSES[name])
    images, labels = torch.randn(8, 3, 2, 2), torch.arange(8) % K
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    with torch.no_grad():
        before = F.cross_entropy(net(images), labels)
    for _ in range(60):
        loss, _ = method((images, labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert F.cross_entropy(net(images), labels) < 0.9 * before


@pytest.mark.parametrize("over_batch", [False, True])
def test_the_loss_of_a_mask_is_its_mean_loss_less_its_weighted_variance(over_batch):
    mask, lam = torch.rand(4, 1, 6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.9, 0.2, 0.6])
    mean = oracles.mask_mean_loss(*numpy_of(mask, lam), 0.05, over_batch)
    variance = mask.var(correction=0) if over_batch else mask.var(dim=(1, 2, 3), correction=0).mean()
    for weight in (0.0, 2.0):
        found = float(mask_loss(mask, lam, 0.05, weight, over_batch=over_batch))
        assert found == pytest.approx(mean - weight * float(variance), rel=1e-5)
