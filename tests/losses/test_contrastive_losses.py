"""The losses of learning without labels: equal to plain loops, their closed forms, their gradients, their precision."""

import math

import oracles_contrastive as oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from samix.losses import contrastive as losses

TEMPERATURES = pytest.mark.parametrize("t", [0.07, 0.2, 1.0])
B, K, D = 5, 11, 7


def units(*shape: int, dtype=torch.float64) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def shares(lam: Tensor) -> Tensor:
    return torch.stack([lam, 1.0 - lam], dim=1)


def drawn(sources: int = 2):
    """z (B, D), keys (B, k, D), weights (B, k), negatives (K, D)."""
    weights = torch.rand(B, sources, dtype=torch.float64)
    return units(B, D), units(B, sources, D), weights / weights.sum(1, keepdim=True), units(K, D)


def close(found: Tensor, wanted: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=found.dtype), rtol=0, atol=tolerance)


# Against the oracles -------------------------------------------------------------------------------------------------


@TEMPERATURES
def test_info_nce_is_the_loop(t):
    query, key, negatives = units(B, D), units(B, D), units(K, D)
    close(losses.info_nce(query, key, negatives, t), oracles.info_nce(query, key, negatives, t))


@TEMPERATURES
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_mixed_info_nce_is_the_loop(sources, t):
    drawn_ = drawn(sources)
    close(losses.mixed_info_nce(*drawn_, t), oracles.mixed_info_nce(*drawn_, t))


@TEMPERATURES
def test_in_batch_info_nce_is_the_loop(t):
    query, keys, extra = units(B, D), units(9, D), units(3, D)
    targets, weights = torch.randint(0, 9, (B, 2)), shares(torch.rand(B, dtype=torch.float64))
    pool = torch.cat([keys, extra])
    one = [[int(r)] for r in targets[:, 0]]
    close(losses.in_batch_info_nce(query, keys, targets[:, 0], t), oracles.in_batch(query, keys, one, [[1.0]] * B, t))
    wanted = oracles.in_batch(query, pool, targets.tolist(), weights.tolist(), t)
    close(losses.in_batch_info_nce(query, keys, targets, t, weights, extra), wanted)


@TEMPERATURES
def test_local_bce_is_the_loop(t):
    z, keys, weights, _ = drawn()
    wanted = oracles.local_bce(z, keys[:, 0], keys[:, 1], weights[:, 0], t)
    close(losses.local_bce(z, keys[:, 0], keys[:, 1], weights[:, 0], t), wanted)


@TEMPERATURES
def test_nt_xent_is_the_loop(t):
    z1, z2 = units(B, D), units(B, D)
    close(losses.nt_xent(z1, z2, t), oracles.nt_xent(z1, z2, t))


def test_mixed_regression_is_the_loop():
    z, targets, weights, _ = drawn(3)
    close(losses.mixed_regression_loss(z, targets, weights), oracles.mixed_regression(z, targets, weights))
    wanted = [oracles.squared_distance(a, b) for a, b in zip(z, targets[:, 0], strict=True)]
    close(losses.regression_loss(z, targets[:, 0]), wanted)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.5, 1), (0.05, 10)])
def test_sinkhorn_is_the_loop(epsilon, iterations):
    scores = units(6, D) @ units(4, D).T
    close(losses.sinkhorn(scores, epsilon, iterations), oracles.sinkhorn(scores, epsilon, iterations))


def test_swapped_prediction_is_the_loop():
    scores, codes = units(B, D) @ units(4, D).T, torch.rand(B, 4, dtype=torch.float64).softmax(1)
    close(losses.swapped_prediction(scores, codes, 0.1), oracles.swapped(scores, codes, 0.1))


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1.0])
def test_barlow_twins_is_the_loop(eps):
    z1, z2 = torch.randn(6, 4, dtype=torch.float64), 3.0 * torch.randn(6, 4, dtype=torch.float64) + 1.0
    close(losses.barlow_twins(z1, z2, 0.3, eps), oracles.barlow_twins(z1, z2, 0.3, eps))


# InfoNCE -------------------------------------------------------------------------------------------------------------


def test_info_nce_is_cross_entropy_with_the_positive_first():
    query, key, negatives = units(B, D), units(B, D), units(K, D)
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ negatives.T], dim=1) / 0.2
    wanted = F.cross_entropy(logits, torch.zeros(B, dtype=torch.int64), reduction="none")
    close(losses.info_nce(query, key, negatives, 0.2), wanted)


@pytest.mark.parametrize("count", [1, 7, 4096])
def test_info_nce_of_equal_similarities_is_the_log_of_their_number(count):
    query = units(1, D)
    close(losses.info_nce(query, query, query.expand(count, D), 0.2), [math.log(count + 1)])


@pytest.mark.parametrize(
    ("count", "t", "wanted"),
    [(65536, 0.2, 6.092617), (16384, 0.2, 4.713078), (4096, 0.1, 0.170551), (65536, 0.07, 0.040136)],
)
def test_info_nce_of_a_perfect_query_among_orthogonal_negatives(count, t, wanted):
    query, negative = torch.eye(2, dtype=torch.float64)
    loss = losses.info_nce(query[None], query[None], negative.expand(count, 2), t)
    assert float(loss) == pytest.approx(wanted, abs=1e-6)
    assert float(loss) == pytest.approx(math.log(1.0 + count * math.exp(-1.0 / t)), abs=1e-10)


@pytest.mark.parametrize(
    ("count", "t", "wanted"), [(65536, 0.2, 11.178), (65536, 0.07, 11.944), (16384, 0.2, 9.853), (4096, 0.1, 8.708)]
)
def test_info_nce_of_random_vectors(count, t, wanted):
    dim = 128
    query, key, negatives = (units(n, dim, dtype=torch.float32) for n in (256, 256, count))
    mean = float(losses.info_nce(query, key, negatives, t).mean())
    assert mean == pytest.approx(wanted, abs=0.1)
    assert mean == pytest.approx(math.log(count + 1) + 1.0 / (2 * dim * t**2), abs=0.1)


def test_further_negatives_of_a_query_stand_beside_those_of_all():
    query, key, negatives, own = units(B, D), units(B, D), units(K, D), units(B, 3, D)
    found = losses.info_nce(query, key, negatives, 0.2, own)
    for i in range(B):
        logits = torch.cat([key[i : i + 1], negatives, own[i]]) @ query[i] / 0.2
        close(found[i], F.cross_entropy(logits, torch.tensor(0)))


def test_the_loss_of_a_mixture_is_that_of_the_weighed_probability():
    z, _, weights, keys = drawn()
    rows = torch.randint(K, (B, 2))
    p = (z @ keys.T / 0.2).softmax(1).gather(1, rows)
    close(losses.mixture_info_nce(z, keys, rows, weights, 0.2), -(weights * p).sum(1).log())


def test_info_nce_without_negatives_is_zero():
    z, keys, weights, _ = drawn()
    none = z.new_zeros(0, D)
    close(losses.info_nce(z, keys[:, 0], none, 0.2), torch.zeros(B))
    close(losses.mixed_info_nce(z, keys, weights, none, 0.2), torch.zeros(B))


# Mixed losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [7, 128])
def test_separate_mixed_loss_at_lam_1_and_0_is_the_clean_one_bit_for_bit(dim, dtype):
    z, keys, negatives = units(B, dim, dtype=dtype), units(B, 2, dim, dtype=dtype), units(K, dim, dtype=dtype)
    for own, lam in ((0, 1.0), (1, 0.0)):
        found = losses.mixed_info_nce(z, keys, shares(torch.full((B,), lam)), negatives, 0.2)
        assert torch.equal(found, losses.info_nce(z, keys[:, own].contiguous(), negatives, 0.2))


def mixed_losses(z: Tensor, keys: Tensor, negatives: Tensor):
    """Each mixed loss as a function of lam (B,), and of the order of its sources."""
    batch = torch.cat([keys[:, 0], keys[:, 1]])
    rows = torch.stack([torch.arange(B), torch.arange(B) + B], dim=1)
    return {
        "separate": lambda lam, flip: losses.mixed_info_nce(
            z, keys.flip(1) if flip else keys, shares(lam), negatives, 0.2
        ),
        "in_batch": lambda lam, flip: losses.in_batch_info_nce(
            z, batch, rows.flip(1) if flip else rows, 0.2, shares(lam)
        ),
        "local": lambda lam, flip: losses.local_bce(z, keys[:, int(flip)], keys[:, 1 - int(flip)], lam, 0.2),
        "regression": lambda lam, flip: losses.mixed_regression_loss(z, keys.flip(1) if flip else keys, shares(lam)),
        "swapped": lambda lam, flip: losses.swapped_prediction(
            z, (shares(lam).unsqueeze(2) * (keys.flip(1) if flip else keys).abs()).sum(1), 0.1
        ),
    }


MIXED = pytest.mark.parametrize("name", ["separate", "in_batch", "local", "regression", "swapped"])


@MIXED
def test_mixed_losses_are_affine_in_lam(name):
    z, keys, _, negatives = drawn()
    loss = mixed_losses(z, keys, negatives)[name]
    a, first, second = (torch.rand(B, dtype=torch.float64) for _ in range(3))
    chord = a * loss(first, False) + (1.0 - a) * loss(second, False)
    close(loss(a * first + (1.0 - a) * second, False), chord)
    assert (loss(first, False) - loss(second, False)).abs().min() > 1e-6


@MIXED
def test_swapping_sources_and_shares_changes_nothing(name):
    z, keys, _, negatives = drawn()
    loss, lam = mixed_losses(z, keys, negatives)[name], torch.rand(B, dtype=torch.float64)
    close(loss(lam, False), loss(1.0 - lam, True))
    assert (loss(lam, False) - loss(lam, True)).abs().max() > 1e-3


def test_local_bce_is_log_2_where_both_sources_are_alike():
    z, keys, weights, _ = drawn()
    close(losses.local_bce(z, keys[:, 0], keys[:, 0], weights[:, 0], 0.1), [math.log(2.0)] * B)


def test_local_bce_is_at_least_the_entropy_of_lam_and_reaches_it():
    lam = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    z, key, partner = (units(25, D) for _ in range(3))
    assert (losses.local_bce(z, key, partner, lam, 0.2) >= oracles.entropy(lam) - 1e-12).all()
    # along an axis: similarities c and 0, with c / t the logit of lam
    best = torch.zeros(25, 2, dtype=torch.float64)
    best[:, 0] = 0.2 * torch.logit(lam)
    key, partner = (row.expand(25, 2) for row in torch.eye(2, dtype=torch.float64))
    close(losses.local_bce(best, key, partner, lam, 0.2), oracles.entropy(lam))


def test_local_bce_between_orthogonal_keys_is_least_at_the_known_angle():
    angle = torch.linspace(0.0, 90.0, 90001, dtype=torch.float64)
    z = torch.stack([angle.deg2rad().cos(), angle.deg2rad().sin()], dim=1)
    key, partner = (row.expand(len(z), 2) for row in torch.eye(2, dtype=torch.float64))
    loss = losses.local_bce(z, key, partner, torch.full((len(z),), 0.3, dtype=torch.float64), 0.2)
    assert float(angle[loss.argmin()]) == pytest.approx(51.88, abs=0.005)


def test_the_gradient_of_local_bce_by_its_logit_is_the_error_of_the_share():
    lam, c = torch.rand(B, dtype=torch.float64), torch.randn(B, dtype=torch.float64, requires_grad=True)
    z = torch.stack([c, torch.zeros(B, dtype=torch.float64)], dim=1)
    key, partner = (row.expand(B, 2) for row in torch.eye(2, dtype=torch.float64))
    (grad,) = torch.autograd.grad(losses.local_bce(z, key, partner, lam, 1.0).sum(), c)
    close(grad, torch.sigmoid(c.detach()) - lam)


def test_local_bce_sees_the_difference_of_the_similarities_only():
    z, keys, weights, _ = drawn()
    shift = torch.randn(B, 1, dtype=torch.float64) * z  # adds one constant to both similarities
    moved = losses.local_bce(z, keys[:, 0] + shift, keys[:, 1] + shift, weights[:, 0], 0.2)
    close(moved, losses.local_bce(z, keys[:, 0], keys[:, 1], weights[:, 0], 0.2))


def test_the_shared_loss_is_at_least_the_entropy_and_the_separate_one_is_not():
    z, keys, weights, negatives = drawn()
    rows = torch.arange(2 * B).view(B, 2)
    shared = losses.in_batch_info_nce(z, keys.flatten(0, 1), rows, 0.2, weights, negatives)
    assert (shared >= oracles.entropy(weights[:, 0])).all()
    assert (losses.mixed_info_nce(z, keys, weights, negatives, 0.2) > 0).all()
    # z between two keys that are alike, and far from the negatives
    same, half = z.unsqueeze(1).expand(B, 2, D), torch.full((B, 2), 0.5, dtype=torch.float64)
    assert losses.mixed_info_nce(z, same, half, -z[:1], 0.05)[0] < math.log(2.0) / 100
    close(losses.in_batch_info_nce(z[:1], same[0], rows[:1], 0.05, half[:1], -z[:1]), [math.log(2.0)])


# In the batch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3])
def test_in_batch_losses_of_several_ranks_are_those_of_the_joined_batch(ranks):
    size, count = 4, 4 * ranks
    z1, z2 = units(count, D), units(count, D)
    lam, partner = torch.rand(count, dtype=torch.float64), torch.arange(count).view(ranks, size).roll(1, 1).flatten()
    rows = torch.stack([torch.arange(count), partner], dim=1)
    whole = losses.in_batch_info_nce(z1, z2, rows, 0.2, shares(lam))
    clean = losses.nt_xent(z1, z2, 0.2).view(2, count)
    for rank in range(ranks):
        mine = slice(rank * size, (rank + 1) * size)
        local = rows[mine] - rank * size  # as a process knows its rows
        close(losses.in_batch_info_nce(z1[mine], z2, local + rank * size, 0.2, shares(lam[mine])), whole[mine])
        found = losses.nt_xent(z1[mine], z2[mine], 0.2, (z1, z2), rank * size)
        close(found.view(2, size), clean[:, mine])


def test_nt_xent_does_not_know_which_view_is_the_first():
    z1, z2 = units(B, D), units(B, D)
    close(losses.nt_xent(z1, z2, 0.2), losses.nt_xent(z2, z1, 0.2).roll(B))


# Regression ----------------------------------------------------------------------------------------------------------


def test_the_mixed_regression_is_that_of_the_blended_target_as_it_is():
    p, targets, weights, _ = drawn()
    blended = (weights.unsqueeze(2) * targets).sum(1)
    found = losses.mixed_regression_loss(p, targets, weights)
    close(found, 2.0 - 2.0 * (p * blended).sum(1))
    assert (found >= 2.0 - 2.0 * blended.norm(dim=1) - 1e-12).all()
    again = losses.regression_loss(p, F.normalize(blended, dim=1))  # which is another loss
    assert (found - again).abs().min() > 1e-3


def test_the_regression_loss_lies_between_0_and_4():
    p = units(B, D)
    close(losses.regression_loss(p, p), torch.zeros(B))
    close(losses.regression_loss(p, -p), torch.full((B,), 4.0))
    found = losses.regression_loss(units(1000, 2), units(1000, 2))
    assert 0.0 <= found.min() < 0.01
    assert 3.99 < found.max() <= 4.0


# Codes ---------------------------------------------------------------------------------------------------------------


def test_codes_of_a_large_batch_use_all_prototypes_alike():
    torch.manual_seed(0)
    codes = losses.sinkhorn(units(512, 128) @ units(300, 128).T)
    close(codes.sum(1), torch.ones(512))
    totals = codes.sum(0) / (512 / 300)
    assert (totals - 1.0).abs().max() < 0.01
    few = losses.sinkhorn(units(32, 128) @ units(300, 128).T)
    assert (few.sum(0) / (32 / 300) - 1.0).abs().max() > 3 * (totals - 1.0).abs().max()


def test_codes_have_no_graph_and_ignore_a_constant():
    scores = (units(6, D) @ units(4, D).T).requires_grad_()
    codes = losses.sinkhorn(scores)
    assert not codes.requires_grad
    close(losses.sinkhorn(scores + 17.0), codes)


def test_codes_of_extreme_scores_are_finite():
    scores = torch.tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 0.0]])
    codes = losses.sinkhorn(scores, 0.05, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(2))


# Columns -------------------------------------------------------------------------------------------------------------


def whitened(count: int, dim: int) -> Tensor:
    """Columns of mean 0 and variance 1, uncorrelated."""
    centred = torch.randn(count, dim, dtype=torch.float64)
    basis, _ = torch.linalg.qr(centred - centred.mean(0))
    return basis * math.sqrt(count)


def test_barlow_twins_of_equal_white_views_is_zero():
    z = whitened(32, 6)
    assert float(losses.barlow_twins(z, z, 1.0, 0.0)) == pytest.approx(0.0, abs=1e-10)
    assert float(losses.barlow_twins(z, -z, 1.0, 0.0)) == pytest.approx(4.0 * 6)


def test_barlow_twins_ignores_order_scale_and_shift():
    z1, z2 = torch.randn(16, 6, dtype=torch.float64), torch.randn(16, 6, dtype=torch.float64)
    loss, order = losses.barlow_twins(z1, z2, 0.1, 0.0), torch.randperm(16)
    close(losses.barlow_twins(z1[order], z2[order], 0.1, 0.0), loss)
    scale, shift = torch.rand(6, dtype=torch.float64) + 0.1, torch.randn(6, dtype=torch.float64)
    close(losses.barlow_twins(z1 * scale + shift, z2, 0.1, 0.0), loss)
    assert float(losses.barlow_twins(z1[order], z2, 0.1, 0.0)) != pytest.approx(float(loss), abs=1e-6)


def test_barlow_twins_of_a_dead_column_is_finite():
    z = torch.randn(8, 3, requires_grad=True)
    dead = z * torch.tensor([1.0, 1.0, 0.0])
    loss = losses.barlow_twins(dead, dead)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


# Gradients -----------------------------------------------------------------------------------------------------------

LAM = torch.tensor([0.3, 0.9, 0.5], dtype=torch.float64)
ROWS = torch.tensor([[0, 2], [1, 0], [2, 1]])
CALLS = {
    "info_nce": lambda z, y, n: losses.info_nce(z, y[:, 0], n, 0.2),
    "mixed_info_nce": lambda z, y, n: losses.mixed_info_nce(z, y, shares(LAM), n, 0.2),
    "in_batch_info_nce": lambda z, y, n: losses.in_batch_info_nce(z, y[:, 0], ROWS, 0.2, shares(LAM), n),
    "local_bce": lambda z, y, n: losses.local_bce(z, y[:, 0], y[:, 1], LAM, 0.2),
    "nt_xent": lambda z, y, n: losses.nt_xent(z, y[:, 0], 0.2),
    "regression_loss": lambda z, y, n: losses.regression_loss(z, y[:, 0]),
    "mixed_regression_loss": lambda z, y, n: losses.mixed_regression_loss(z, y, shares(LAM)),
    "swapped_prediction": lambda z, y, n: losses.swapped_prediction(z, losses.exact(y[:, 0]).softmax(1), 0.1),
    "barlow_twins": lambda z, y, n: losses.barlow_twins(z, y[:, 0], 0.1),
}
every_loss = pytest.mark.parametrize("name", CALLS)


@every_loss
def test_gradients_by_z_are_right(name):
    z, y, negatives = units(3, 4).requires_grad_(), units(3, 2, 4), units(5, 4)
    assert torch.autograd.gradcheck(lambda z: CALLS[name](z, y, negatives), z)


@every_loss
def test_losses_of_detached_queries_have_no_graph(name):
    """So that no key, partner or negative lets a gradient in by itself."""
    assert not CALLS[name](units(3, 4), units(3, 2, 4), units(5, 4)).requires_grad


def test_codes_get_no_gradient():
    scores, codes = torch.randn(3, 4, requires_grad=True), torch.rand(3, 4, requires_grad=True)
    losses.swapped_prediction(scores, codes, 0.1).sum().backward()
    assert codes.grad is None
    assert scores.grad.abs().sum() > 0


# Precision -----------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16])
def test_losses_are_float32_under_autocast_also_for_large_logits(name, inputs):
    """Similarities of 20 at a temperature of 0.2 are logits of 100."""
    z, y, negatives = units(3, 4).to(inputs), units(3, 2, 4).to(inputs), units(5, 4).to(inputs)
    z = (z * 20.0).requires_grad_()
    wanted = CALLS[name](z.detach().double(), y.double(), negatives.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = CALLS[name](z, y, negatives)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    found.sum().backward()
    assert z.grad.isfinite().all()


def test_unit_vectors_and_codes_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        z = losses.normalized(torch.randn(B, D, dtype=torch.bfloat16))
        codes = losses.sinkhorn(losses.similarities(z, z))
    assert z.dtype == codes.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(B))


# Against another library ---------------------------------------------------------------------------------------------


def test_nt_xent_is_lightly_s():
    theirs = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.3)
    z1, z2 = units(B, D), units(B, D)
    close(losses.nt_xent(z1, z2, 0.3).mean(), theirs(z1, z2), 1e-6)


def test_sinkhorn_and_the_swapped_prediction_are_lightly_s():
    lightly = pytest.importorskip("lightly.loss")
    theirs = pytest.importorskip("lightly.loss.swav_loss").sinkhorn
    scores = [units(16, D) @ units(4, D).T for _ in range(2)]
    codes = [losses.sinkhorn(s) for s in scores]
    close(codes[0], theirs(scores[0]), 1e-8)
    both = losses.swapped_prediction(scores[1], codes[0], 0.1) + losses.swapped_prediction(scores[0], codes[1], 0.1)
    close(both.mean() / 2, lightly.SwaVLoss()(scores, []).squeeze(), 1e-8)


def test_barlow_twins_is_lightly_s():
    theirs = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=0.01)
    z1, z2 = torch.randn(16, 4, dtype=torch.float64), torch.randn(16, 4, dtype=torch.float64)
    close(losses.barlow_twins(z1, z2, 0.01), theirs(z1, z2), 1e-6)


def test_the_regression_loss_is_twice_lightly_s_cosine_and_2():
    theirs = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    p, t = units(B, D), units(B, D)
    close(losses.regression_loss(p, t).mean(), 2.0 + 2.0 * theirs(p, t), 1e-8)
