"""The core: a batch's labels, against loops; the draws, by their statistics; the blend; every message."""

import functools
import random

import numpy as np
import oracles_handmade as oracles
import pytest
import torch
import torch.nn.functional as F

from samix.batch import Mixed, MixedBatch, check_images, check_labels, check_pair, pair_batch
from samix.mixups.base import Augmentation, as_lam, as_map, blend, choose, sample_lam, sample_partners, take_rows
from samix.mixups.handmade import CutMix, MixUp

B, K = 6, 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair_of_labels(lam=None, k=2) -> MixedBatch:
    labels = torch.randint(K, (B, k))
    weights = torch.rand(B, k)
    weights = weights / weights.sum(1, keepdim=True)
    if lam is not None:
        weights = torch.stack([lam, 1 - lam], 1)
    index = torch.stack([torch.arange(B)] * k, 1)
    return MixedBatch(torch.zeros(B, 3, 4, 4), labels, weights, index)


# The batch and its labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_loss_and_accuracy_equal_their_loops(k, smoothing):
    batch, logits = pair_of_labels(k=k), torch.randn(B, K)
    labels, weights = batch.labels.numpy(), batch.weights.double().numpy()
    targets = oracles.soft_targets(labels, weights, K, smoothing)
    np.testing.assert_allclose(batch.soft_targets(K, smoothing), targets, atol=1e-6)
    expected = oracles.cross_entropy(logits.double().numpy(), targets)
    np.testing.assert_allclose(batch.loss(logits, smoothing), expected, rtol=1e-5)
    expected = oracles.accuracy(logits.numpy(), labels, weights)
    np.testing.assert_allclose(batch.accuracy(logits), expected, rtol=1e-5)


def test_smoothing_before_and_after_mixing_are_the_same():
    batch = pair_of_labels()
    smooth = torch.stack([F.one_hot(batch.labels[:, j], K) * 0.8 + 0.2 / K for j in range(2)], 1)  # (B, 2, K)
    mixed = (batch.weights.unsqueeze(2) * smooth).sum(1)
    torch.testing.assert_close(batch.soft_targets(K, smoothing=0.2), mixed)


def test_loss_by_pairs_equals_loss_by_soft_targets_and_two_cross_entropies():
    batch, logits = pair_of_labels(), torch.randn(B, K)
    soft = F.cross_entropy(logits, batch.soft_targets(K))
    first = F.cross_entropy(logits, batch.labels[:, 0], reduction="none")
    second = F.cross_entropy(logits, batch.partner_labels, reduction="none")
    torch.testing.assert_close(batch.loss(logits), soft)
    torch.testing.assert_close(batch.loss(logits), (batch.lam * first + (1 - batch.lam) * second).mean())


def test_float_labels_and_a_dense_target_take_the_same_way():
    batch, logits = pair_of_labels(), torch.randn(B, K)
    hot = MixedBatch(batch.images, F.one_hot(batch.labels, K).float(), batch.weights, batch.index)
    dense = MixedBatch(batch.images, batch.labels, batch.weights, batch.index, target=batch.soft_targets(K))
    for other in (hot, dense):
        torch.testing.assert_close(other.soft_targets(K, 0.1), batch.soft_targets(K, 0.1))
        torch.testing.assert_close(other.loss(logits), batch.loss(logits))
        torch.testing.assert_close(other.accuracy(logits), batch.accuracy(logits))


def test_each_row_s_gradient_is_weighed_by_its_own_lam():  # reducing before weighing would leave only the mean of lam
    lam = torch.linspace(0.05, 0.95, B)
    batch, logits = pair_of_labels(lam), torch.randn(B, K, requires_grad=True)
    (gradient,) = torch.autograd.grad(batch.loss(logits), logits)
    for i in range(B):
        row = logits[i : i + 1].detach().requires_grad_()
        alone = MixedBatch(batch.images[:1], batch.labels[i : i + 1], batch.weights[i : i + 1], batch.index[:1])
        torch.testing.assert_close(gradient[i], torch.autograd.grad(alone.loss(row), row)[0][0] / B)
    shuffled = MixedBatch(batch.images, batch.labels, batch.weights.flip(0), batch.index)
    assert not torch.allclose(torch.autograd.grad(shuffled.loss(logits), logits)[0], gradient)


def test_loss_passes_gradcheck_in_its_logits():
    batch = pair_of_labels()
    logits = torch.randn(B, K, requires_grad=True)
    eps, (gradient,) = 1e-2, torch.autograd.grad(batch.loss(logits), logits)
    for i, c in np.ndindex(B, K):
        step = torch.zeros(B, K)
        step[i, c] = eps
        slope = (batch.loss(logits + step) - batch.loss(logits - step)) / (2 * eps)
        torch.testing.assert_close(slope, gradient[i, c], atol=1e-4, rtol=1e-2)


def test_loss_is_float32_for_half_precision_logits():
    batch, logits = pair_of_labels(), torch.randn(B, K)
    assert batch.loss(logits.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(batch.loss(logits.bfloat16()), batch.loss(logits), atol=0.02, rtol=0.02)


def test_accuracy_is_plain_accuracy_where_nothing_is_mixed():
    batch = pair_of_labels(torch.ones(B))
    logits = F.one_hot(batch.labels[:, 0], K).float()
    assert batch.accuracy(logits) == 1
    assert batch.accuracy(logits.roll(1, 1)) == 0


def test_pair_batch_gives_a_row_paired_with_itself_lam_one():
    mixed = Mixed(torch.zeros(3, 1, 2, 2), torch.full((3,), 0.4), torch.full((3, 1, 2, 2), 0.4))
    batch = pair_batch(mixed, torch.tensor([5, 6, 7]), torch.tensor([1, 0, 2]))
    torch.testing.assert_close(batch.weights, torch.tensor([[0.4, 0.6], [0.4, 0.6], [1.0, 0.0]]))
    assert batch.labels.tolist() == [[5, 6], [6, 5], [7, 7]]
    assert batch.index.tolist() == [[0, 1], [1, 0], [2, 2]]


# The draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_lam_has_the_mean_and_spread_of_its_beta(alpha):
    lam = sample_lam(alpha, 20000, per_sample=True, generator=seeded())
    assert abs(float(lam.mean()) - 0.5) < 0.01
    assert abs(float(lam.var()) - 1 / (4 * (2 * alpha + 1))) < 0.003


def test_lam_for_a_small_alpha_lies_at_the_ends():  # a ratio of two underflowing gammas would give 0.19 here
    lam = sample_lam(0.01, 20000, per_sample=True, generator=seeded())
    assert lam.isfinite().all()
    assert 0 <= lam.min() <= lam.max() <= 1
    assert abs(float(((lam > 0.25) & (lam < 0.75)).float().mean()) - 0.011) < 0.003
    assert abs(float(lam.mean()) - 0.5) < 0.015


def test_lam_is_one_number_per_batch_or_one_per_sample():
    whole, each = sample_lam(1.0, 50), sample_lam(1.0, 50, per_sample=True)
    assert whole.dtype == each.dtype == torch.float32
    assert len(whole.unique()) == 1
    assert len(each.unique()) == 50
    assert torch.equal(sample_lam(0.0, 3), torch.ones(3))
    assert torch.equal(sample_lam(-1.0, 3), torch.ones(3))
    assert sample_lam(np.float32(0.2), 3).shape == (3,)


def test_equal_generators_draw_alike_and_leave_the_global_ones_alone():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = seeded(3), seeded(3)
    for _ in range(3):
        first, second = sample_lam(0.7, 4, generator=one), sample_lam(0.7, 4, generator=two)
        assert torch.equal(first, second)
        assert torch.equal(sample_partners(9, generator=one), sample_partners(9, generator=two))
    assert not torch.equal(sample_lam(0.7, 4, generator=one), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


@pytest.mark.parametrize("pairing", ["randperm", "cycle", "flip", "roll"])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_partners_are_a_permutation(pairing, size):
    index = sample_partners(size, pairing)
    assert index.dtype == torch.int64
    assert index.sort().values.tolist() == list(range(size))


def test_cycle_is_one_cycle_and_all_cycles_are_as_likely():
    counts: dict[tuple[int, ...], int] = {}
    generator = seeded()
    for _ in range(1200):
        index = sample_partners(4, "cycle", generator=generator).tolist()
        counts[tuple(index)] = counts.get(tuple(index), 0) + 1
        at, seen = 0, set()
        while at not in seen:
            seen.add(at)
            at = index[at]
        assert len(seen) == 4
    assert len(counts) == 6  # 3! cycles
    assert min(counts.values()) > 150


def test_randperm_has_one_fixed_point_on_average():
    generator = seeded()
    rows = torch.arange(8)
    fixed = [int((sample_partners(8, generator=generator) == rows).sum()) for _ in range(1000)]
    assert abs(np.mean(fixed) - 1) < 0.12


def test_flip_is_timm_s_and_roll_is_torchvision_s():
    x = torch.arange(5)
    assert torch.equal(x[sample_partners(5, "flip")], x.flip(0))
    assert torch.equal(x[sample_partners(5, "roll")], x.roll(1))


def test_draw_takes_what_is_given_and_never_mixes_a_row_with_itself():
    images = torch.zeros(3, 1, 2, 2)
    lam, index = MixUp().draw(images, 0.25, torch.tensor([2, 1, 0]))
    assert lam.tolist() == [0.25, 1.0, 0.25]
    assert index.tolist() == [2, 1, 0]
    lam, _ = MixUp().draw(images, torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1, 2, 0]))
    assert lam.tolist() == [0.0, 0.5, 1.0]


# The blend ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_blend_is_exact_at_zero_one_and_between_equals(dtype):
    x, partner = torch.randn(2, 3, 4, 4).to(dtype), torch.randn(2, 3, 4, 4).to(dtype)
    one, zero, some = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    assert torch.equal(blend(x, partner, one), x)
    assert torch.equal(blend(x, partner, zero), partner)
    assert torch.equal(blend(x, x, some), x)
    got = blend(x, partner, some)
    assert got.dtype == dtype
    expected = some.double() * x.double() + (1 - some.double()) * partner.double()
    torch.testing.assert_close(got, expected.to(dtype), atol=torch.finfo(dtype).eps * 4, rtol=torch.finfo(dtype).eps)


def test_blend_passes_gradcheck_to_both_images_and_the_mask():
    x, partner = torch.randn(2, 1, 2, 3, dtype=torch.float64), torch.randn(2, 1, 2, 3, dtype=torch.float64)
    mask = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    for tensor in (x, partner, mask):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(blend, (x, partner, mask))


def test_choose_keeps_nan_where_it_is_shown():
    x, partner = torch.tensor([[[[torch.nan, 1.0]]]]), torch.tensor([[[[2.0, torch.inf]]]])
    mixed = choose(x, partner, torch.tensor([[[[0.0, 1.0]]]]))
    assert mixed.images.tolist() == [[[[2.0, 1.0]]]]
    assert mixed.lam.tolist() == [0.5]


def test_as_map_spreads_lam_over_maps_and_tokens():
    lam = torch.tensor([0.2, 0.7])
    for shape in ((2, 3, 4, 5), (2, 6, 7), (2, 8)):
        spread = as_map(lam, torch.zeros(shape))
        assert spread.shape == (2, 1, *shape[2:])
        assert torch.equal(spread.flatten(1)[:, 0], lam)


def test_take_rows_keeps_the_memory_format():
    x, index = torch.randn(4, 3, 5, 5), torch.tensor([3, 0, 0, 1])
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(take_rows(x, index), x[index])
    assert torch.equal(take_rows(last, index), x[index])
    assert take_rows(last, index).is_contiguous(memory_format=torch.channels_last)


# Every message --------------------------------------------------------------------------------------------------------

IMAGES, LABELS = torch.zeros(3, 3, 4, 4), torch.tensor([0, 1, 2])
call_mixup = functools.partial(MixUp(), IMAGES, LABELS)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_images(np.zeros((3, 3, 4, 4))), TypeError, "images must be a torch.Tensor, got ndarray"),
        (lambda: check_images(IMAGES.byte()), ValueError, r"got torch.uint8; .* images.float\(\) / 255"),
        (lambda: check_images(IMAGES[0]), ValueError, r"shape \(B, C, H, W\), none of them 0, got \(3, 4, 4\)"),
        (lambda: check_images(IMAGES[:0]), ValueError, r"none of them 0, got \(0, 3, 4, 4\)"),
        (lambda: check_labels([0, 1, 2], 3), TypeError, "labels must be a torch.Tensor, got list"),
        (lambda: check_labels(LABELS, 4), ValueError, r"shape \(4,\) or \(4, num_classes\), got \(3,\)"),
        (lambda: check_labels(torch.zeros(3, 2, 2), 3), ValueError, r"got \(3, 2, 2\)"),
        (lambda: check_labels(torch.full((3, 2), 2), 3), ValueError, r"of 0 and 1; got values up to 2; use .float\(\)"),
        (lambda: check_labels(LABELS.byte(), 3), ValueError, r"got torch.uint8; use .long\(\)"),
        (lambda: check_labels(LABELS > 0, 3), ValueError, r"got torch.bool; use .long\(\)"),
        (lambda: check_labels(torch.zeros(3, 4), 3, 5), ValueError, "labels have 4 columns, the network has 5 classes"),
        (lambda: check_labels(LABELS.float(), 3, 5), ValueError, "class ids must be integers, got torch.float32"),
        (lambda: check_labels(LABELS, 3, 2), ValueError, r"in \[0, 1\], got values from 0 to 2; check num_classes"),
        (lambda: check_labels(LABELS - 1, 3, 2), ValueError, "got values from -1 to 1"),
        (lambda: check_pair(IMAGES, IMAGES[:2], torch.ones(3)), ValueError, "partner must have x's shape"),
        (lambda: check_pair(IMAGES, IMAGES, torch.ones(2)), ValueError, r"lam must have shape \(3,\), got \(2,\)"),
        (lambda: as_lam(1.5, 3), ValueError, r"lam must be in \[0, 1\], got 1.5"),
        (lambda: as_lam(NAN, 3), ValueError, r"lam must be in \[0, 1\], got nan"),
        (lambda: as_lam(torch.tensor([0.0, 0.5, 1.5]), 3), ValueError, r"in \[0, 1\], got values from 0.0 to 1.5"),
        (lambda: as_lam(torch.tensor([0.0, NAN, 1.0]), 3), ValueError, r"in \[0, 1\]"),
        (lambda: as_lam(torch.ones(2), 3), ValueError, r"number or have shape \(3,\), got \(2,\)"),
        (lambda: as_lam(np.ones(3), 3), TypeError, "lam must be a number or a torch.Tensor, got ndarray"),
        (lambda: sample_lam(NAN, 3), ValueError, "alpha must be a finite number, got nan"),
        (lambda: MixUp(alpha=INF), ValueError, "alpha must be a finite number, got inf"),
        (lambda: MixUp(alpha="1"), ValueError, "alpha must be a finite number, got '1'"),
        (lambda: MixUp(prob=1.1), ValueError, r"prob must be in \[0, 1\], got 1.1"),
        (lambda: MixUp(prob=NAN), ValueError, r"prob must be in \[0, 1\], got nan"),
        (lambda: MixUp(pairing="rnd"), ValueError, "pairing must be one of randperm, cycle, flip, roll; got 'rnd'"),
        (lambda: sample_partners(3, "rnd"), ValueError, "unknown pairing 'rnd'"),
        (lambda: call_mixup(index=torch.arange(2)), ValueError, r"int64 of shape \(3,\), got torch.int64 \(2,\)"),
        (lambda: call_mixup(index=torch.ones(3)), ValueError, r"got torch.float32 \(3,\); use sample_partners"),
        (lambda: call_mixup(index=[1, 0, 2]), TypeError, "index must be a torch.Tensor, got list"),
        (lambda: pair_of_labels().soft_targets(K, 1.0), ValueError, r"smoothing must be in \[0, 1\), got 1.0"),
        (lambda: pair_of_labels().soft_targets(K, -0.1), ValueError, "smoothing must be in"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_dense_targets_of_another_width_are_named():
    batch = CutMix()(IMAGES, torch.eye(3))
    with pytest.raises(ValueError, match="targets have 3 columns, expected num_classes = 5"):
        batch.soft_targets(5)


def test_the_base_has_no_policy():
    with pytest.raises(NotImplementedError):
        Augmentation()(IMAGES, LABELS)


# The object -----------------------------------------------------------------------------------------------------------


def test_labels_may_be_class_ids_multi_hot_or_regression_targets():
    images = torch.randn(4, 3, 8, 8)
    for labels in (torch.arange(4), torch.rand(4, 6).round(), torch.randn(4, 1)):
        mixed = MixUp()(images, labels, lam=0.3, index=torch.tensor([1, 2, 3, 0]))
        assert torch.equal(mixed.labels[:, 0], labels)
        assert torch.equal(mixed.partner_labels, labels.roll(-1, 0))


@pytest.mark.parametrize("lam", [0.25, 0, np.float32(0.25), torch.full((4,), 0.25), torch.full((4,), 0.25).double()])
def test_lam_may_be_a_number_or_a_tensor(lam):
    mixed = MixUp()(torch.randn(4, 3, 8, 8), torch.arange(4), lam=lam, index=torch.tensor([1, 2, 3, 0]))
    assert mixed.lam.dtype == torch.float32
    assert torch.equal(mixed.lam, torch.full((4,), 0.0 if isinstance(lam, int) else 0.25))


def test_prob_is_per_batch_and_none_as_generator_makes_one():
    mix = MixUp(prob=0.4, generator=None)
    assert isinstance(mix.generator, torch.Generator)
    lams = torch.stack([mix.draw_lam(3) for _ in range(500)])
    unmixed = (lams == 1).all(1)
    assert torch.equal(unmixed, (lams == 1).any(1))
    assert abs(float(unmixed.float().mean()) - 0.6) < 0.07


def test_forward_through_mixes_before_the_network():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    mix = CutMix(generator=seeded())
    logits, mixed = mix.forward_through(net, torch.randn(4, 3, 2, 2), torch.arange(4) % 3)
    torch.testing.assert_close(net(mixed.images), logits)
    assert logits.requires_grad
