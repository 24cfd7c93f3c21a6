"""Co-Mixup: its objective, its search, and the k-way batch."""

import itertools

import numpy as np
import oracles_puzzle as oracle
import pytest
import torch
from tiny_networks import PlainNet, tiny_cnn
from torch.nn import functional as F

from samix.methods.supervised import Supervised
from samix.mixups.comix import CoMixup, CoProblem, gather_blocks, likeness, objective, solve_together
from samix.mixups.puzzle import block_grid, block_saliency
from samix.mixups.transport import cells

SIZES = [(32, 32), (24, 40), (33, 17), (7, 7)]


def make(seed=0, **options):
    options = {"saliency": "spectral"} | options
    return CoMixup(generator=torch.Generator().manual_seed(seed), **options)


def patchy(count):
    """Maps with few salient blocks, so that outputs are put together from several images."""
    return torch.rand(count, 4, 4, generator=torch.Generator().manual_seed(0)) ** 8


def random_problem(groups=3, size=4, grid=(2, 3), seed=0, **options):
    g = torch.Generator().manual_seed(seed)
    like = torch.rand(groups, size, size, generator=g)
    problem = CoProblem(
        unary=torch.randn(groups, size, grid[0] * grid[1], size, generator=g),
        likeness=(like + like.mT) / 2 + torch.eye(size),
        real=torch.ones(groups, size, dtype=torch.bool),
        grid=grid,
        **({"beta": 0.6, "gamma": 0.2, "threshold": 3.0} | options),
    )
    z = F.one_hot(torch.randint(size, (groups, size, grid[0] * grid[1]), generator=g), size).float()
    return problem, z


def batch_problem(mix, guide):
    """The objective and the start that a batch with these maps has."""
    batch, grid = len(guide), block_grid((32, 32), mix.blocks)
    extras = mix.draw_extras(torch.Size((batch, 3, 32, 32)))
    problem = mix.problem(guide, extras["prior"], grid)
    groups, size = problem.real.shape
    start = F.one_hot((extras["start"] * size).long(), size).float()
    return problem, start.view(groups, size, *start.shape[1:]), extras["prior"]


def test_sharing_an_input_costs_both_outputs_that_share_it():
    """Between gamma and 2 gamma: output 1 leaves input 0, which output 0 shows, for input 1."""
    unary = torch.tensor([[[[-5.0, 0.0]], [[-0.4, 0.0]]]])  # (1 group, 2 outputs, 1 block, 2 inputs)
    problem = CoProblem(unary, torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool), (1, 1), 0.0, 0.3, 0.5)
    start = F.one_hot(torch.zeros(1, 2, 1, dtype=torch.long), 2).float()
    z, history = solve_together(problem, start, sweeps=1)
    assert z.argmax(3).flatten().tolist() == [1, 0] or z.argmax(3).flatten().tolist() == [0, 1]
    every = [F.one_hot(torch.tensor([[[a], [b]]]), 2).float() for a in (0, 1) for b in (0, 1)]
    assert float(history[-1]) == pytest.approx(min(float(objective(problem, each)) for each in every))


def test_the_objective_equals_its_loop_for_whole_and_half_blocks():
    problem, z = random_problem()
    z[:, 1, 2] = 0.0
    z[:, 1, 2, :2] = 0.5
    found = objective(problem, z)
    for g in range(3):
        wanted = oracle.co_objective(
            z[g].double().numpy(),
            problem.unary[g].double().numpy(),
            problem.likeness[g].double().numpy(),
            problem.grid,
            problem.beta,
            problem.gamma,
            problem.threshold,
        )
        assert found[g].item() == pytest.approx(wanted, abs=1e-3)


def test_an_input_that_the_other_outputs_use_less_than_the_threshold_costs_nothing():
    z = F.one_hot(torch.tensor([[[0, 0], [0, 1]]]), 2).float()  # blocks by input: (2, 0) and (1, 1)
    problem = CoProblem(torch.zeros(1, 2, 2, 2), torch.eye(2)[None], torch.ones(1, 2).bool(), (1, 2), 0.0, 0.3, 1.5)
    assert float(objective(problem, z)) == pytest.approx(0.3 * 1 * 2)  # output 1 alone: 2 blocks of 0 by the other
    assert float(objective(problem._replace(threshold=0.5), z)) == pytest.approx(0.3 * (2 * 1 + 1 * 2))


@pytest.mark.parametrize("seed", range(5))
def test_no_sweep_makes_the_objective_larger_but_the_one_that_parts_twins(seed):
    problem, z = random_problem(groups=4, size=6, seed=seed)
    sweeps = 6
    _, history = solve_together(problem, z, sweeps)
    for sweep in range(sweeps):
        if sweep != sweeps - 2:
            assert (history[sweep + 1] <= history[sweep] + 1e-4).all()
    assert (history[-1] < history[0]).all()


def test_the_search_comes_near_the_best_of_all_choices_for_one_output():
    problem, z = random_problem(groups=8, size=3, grid=(2, 3), beta=1.0, gamma=0.0)
    found, _ = solve_together(problem, z, sweeps=1)
    gaps = []
    for g in range(8):
        unary = problem.unary[g, 0].double().numpy()
        everything = (
            oracle.co_objective(np.eye(3)[list(choice)][None], unary[None], np.eye(3), (2, 3), 1.0, 0.0, 0.0)
            for choice in itertools.product(range(3), repeat=6)
        )
        got = oracle.co_objective(found[g, :1].double().numpy(), unary[None], np.eye(3), (2, 3), 1.0, 0.0, 0.0)
        gaps.append(got - min(everything))
    assert min(gaps) > -1e-5
    assert np.mean(gaps) < 0.3


def test_without_borders_and_coupling_each_block_takes_the_most_salient_image_by_the_prior():
    torch.manual_seed(0)
    guide = torch.rand(12, 32, 32)
    mix = make(beta=0.0, gamma=0.0, eta=0.5, partition=6, sweeps=1)
    problem, z, prior = batch_problem(mix, guide)
    found, _ = solve_together(problem, z, sweeps=1)
    saliency = block_saliency(guide, (4, 4)).flatten(1).view(2, 1, 6, 16).transpose(2, 3)
    score = saliency + 0.5 / 16 * torch.log(prior + 1e-8).view(2, 6, 1, 6)
    assert torch.equal(found.argmax(3), score.argmax(3))


def test_more_coupling_makes_no_more_outputs_alike_and_uses_images_more_evenly():
    torch.manual_seed(0)
    guide = torch.rand(40, 32, 32) ** 4
    guide[::7] = torch.rand(6, 32, 32) * torch.linspace(0, 20, 32) ** 2  # a few images would be shown everywhere
    alike, uneven = [], []
    for gamma in (0.0, 0.3, 3.0):
        mix = make(beta=0.0, gamma=gamma, eta=0.0, partition=10)
        problem, z, _ = batch_problem(mix, guide)
        found, _ = solve_together(problem, z, sweeps=1)  # no sweep parts twins
        same = (found.unsqueeze(1) == found.unsqueeze(2)).all(-1).all(-1)
        alike.append((same.sum().item() - 40) / (4 * 10 * 9))
        uneven.append(found.sum((1, 2)).std(1).mean().item())
    assert alike[0] == 1.0  # without coupling and prior all want the same
    assert alike[0] > alike[1] >= alike[2]
    assert uneven[0] > uneven[1]
    assert uneven[0] > uneven[2]


def test_twins_are_parted_in_the_last_sweep_but_one():
    torch.manual_seed(0)
    mix = make(gamma=0.0, eta=0.0, partition=4)
    problem, z, _ = batch_problem(mix, torch.rand(4, 32, 32))
    z = z[:, :1].expand_as(z).contiguous()
    first, _ = solve_together(problem, z, sweeps=1)
    assert torch.equal(first[0, 0], first[0, 1])
    parted, history = solve_together(problem, z, sweeps=2)
    assert (history[1] > objective(problem, first) - 1e-6).all()
    assert len(history) == 3
    assert parted.shape == z.shape


def test_likeness_is_one_for_an_image_with_itself_and_grows_with_the_distance_of_peaks():
    maps = torch.zeros(1, 3, 32, 32)
    maps[0, 0, 4, 4] = maps[0, 1, 10, 4] = maps[0, 2, 28, 28] = 1.0
    a = likeness(maps, 0.5)
    assert torch.equal(a, a.mT)
    assert torch.equal(a.diagonal(dim1=1, dim2=2), torch.full((1, 3), 0.5))
    assert 0 < a[0, 0, 1] < a[0, 0, 2] == 0.5
    assert torch.equal(likeness(maps, 0.0), torch.eye(3).unsqueeze(0))


def test_gathered_blocks_equal_their_loop():
    images = torch.rand(4, 3, 10, 13)
    rows, shares = torch.randint(4, (4, 6, 2)), torch.where(torch.rand(4, 6) > 0.5, 1.0, 0.5)
    found = gather_blocks(images, rows, shares, (2, 3))
    for b, y, x in itertools.product(range(4), range(10), range(13)):
        block = y * 2 // 10 * 3 + x * 3 // 13
        first, second = images[rows[b, block], :, y, x].unbind(0)
        share = shares[b, block]
        torch.testing.assert_close(found[b, :, y, x], share * first + (1 - share) * second)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shapes_types_and_rows_that_sum_to_one(size, count):
    for channels, dtype in ((1, torch.float32), (3, torch.bfloat16), (5, torch.float16), (2, torch.float64)):
        images = torch.randn(count, channels, *size).to(dtype).contiguous(memory_format=torch.channels_last)
        before, labels = images.clone(), torch.arange(count) % 3
        batch = make(partition=3)(images, labels)
        k = max(min(3, count), 2)
        assert batch.images.dtype == dtype
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, before)
        assert batch.labels.shape == batch.weights.shape == batch.index.shape == (count, k)
        assert torch.equal(batch.index[:, 0], torch.arange(count))
        assert torch.equal(batch.labels, labels[batch.index])
        torch.testing.assert_close(batch.weights.sum(1), torch.ones(count))
        torch.testing.assert_close(batch.soft_targets(3).sum(1), torch.ones(count))
        torch.testing.assert_close(batch.lam, batch.mask.mean((1, 2, 3)))
        assert (batch.weights[:, 1:].diff(dim=1) <= 0).all()
        assert batch.index.max() < count


def test_weights_are_the_shares_of_pixels():
    size = (30, 26)  # blocks differ in size
    images = torch.eye(8).view(8, 8, 1, 1).expand(8, 8, *size).contiguous()  # channel k of image k is 1
    batch = make(partition=5)(images, torch.arange(8), guide=patchy(8))
    torch.testing.assert_close(batch.images.mean((2, 3)), batch.soft_targets(8))
    torch.testing.assert_close(batch.images[torch.arange(8), torch.arange(8)], batch.mask[:, 0])
    group = torch.arange(8) // 5
    assert (group[batch.index] == group.unsqueeze(1))[batch.weights > 0].all()
    assert (batch.weights > 0).sum(1).max() > 2  # more than pairs


def test_blocks_show_one_image_or_halves_of_two():
    images = torch.eye(8).view(8, 8, 1, 1).expand(8, 8, 32, 32).contiguous()
    batch = make(partition=8)(images, torch.arange(8), guide=patchy(8))
    assert set(batch.images.unique().tolist()) <= {0.0, 0.5, 1.0}
    block = cells(32, 4, images.device)
    per_block = batch.images[:, :, ::8, ::8]
    assert torch.equal(batch.images, per_block[:, :, block][:, :, :, block])


@pytest.mark.parametrize("partition", [1, 20])
def test_a_partition_of_one_is_not_mixed(partition):
    images, labels = torch.randn(1 if partition == 20 else 5, 3, 16, 16), torch.arange(1 if partition == 20 else 5)
    batch = make(partition=partition)(images, labels)
    assert torch.equal(batch.images, images)
    assert (batch.lam == 1).all()
    assert torch.equal(batch.weights, torch.tensor([[1.0, 0.0]]).expand(len(images), 2))
    assert torch.equal(batch.partner_labels, labels)


def test_the_last_partition_may_be_smaller_and_is_mixed_among_itself():
    images = torch.eye(7).view(7, 7, 1, 1).expand(7, 7, 16, 16).contiguous()
    batch = make(partition=5)(images, torch.arange(7), guide=patchy(7))
    target = batch.soft_targets(7)
    assert (target[:5, 5:] == 0).all()
    assert (target[5:, :5] == 0).all()
    torch.testing.assert_close(batch.images.mean((2, 3)), target)


@pytest.mark.parametrize("off", [{"prob": 0.0}, {"alpha": 0.0}, {"alpha": -1.0}], ids=str)
def test_prob_zero_and_alpha_zero_switch_mixing_off(off):
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6)
    batch = make(**off)(images, labels)
    assert torch.equal(batch.images, images)
    assert torch.equal(batch.lam, torch.ones(6))


def test_lam_one_and_a_row_paired_with_itself_are_left_alone():
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6)
    lam, index = torch.tensor([1.0, 0, 0, 1, 0, 0]), torch.tensor([1, 2, 3, 4, 5, 5])
    batch = make()(images, labels, lam=lam, index=index, guide=patchy(6))
    for row in (0, 3, 5):
        assert torch.equal(batch.images[row], images[row])
        assert batch.weights[row].tolist() == [1.0, 0, 0, 0, 0, 0]
    assert not torch.equal(batch.images, images)


@pytest.mark.parametrize("kind", ["one_hot", "values"])
def test_float_labels_are_mixed_by_the_same_weights(kind):
    images = torch.eye(6).view(6, 6, 1, 1).expand(6, 6, 16, 16).contiguous()
    labels = torch.eye(6) if kind == "one_hot" else torch.arange(6.0)
    batch = make()(images, labels, guide=patchy(6))
    wanted = batch.images.mean((2, 3)) @ labels
    torch.testing.assert_close(batch.values, wanted)


def test_loss_and_accuracy_agree_with_the_dense_target():
    torch.manual_seed(0)
    batch = make(partition=5)(torch.randn(12, 3, 16, 16), torch.arange(12) % 4)
    logits = torch.randn(12, 4)
    torch.testing.assert_close(batch.loss(logits), F.cross_entropy(logits, batch.soft_targets(4)))
    best = batch.soft_targets(4).gather(1, logits.argmax(1, keepdim=True))
    torch.testing.assert_close(batch.accuracy(logits), best.mean())


def test_labels_at_each_pixel_are_refused():
    with pytest.raises(ValueError, match="more than two images"):
        make()(torch.randn(3, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.long))


def test_same_seed_same_batch_and_the_global_generator_is_left_alone():
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    state = torch.get_rng_state()
    first, again, other = (make(seed)(images, labels) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_a_nan_pixel_stays_in_the_blocks_that_show_it():
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6)
    images[2, 1, 5, 5] = torch.nan
    batch = make()(images, labels, guide=patchy(6))
    spoilt = batch.images.isnan().flatten(1).any(1)
    shows = ((batch.index == 2) & (batch.weights > 0)).any(1)
    assert not (spoilt & ~shows).any()


def test_the_network_is_looked_at_without_a_trace_also_when_it_raises():
    class Broken(PlainNet):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("broken")

    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    for model in (tiny_cnn(drop_rate=0.5).train(), Broken().train()):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        if isinstance(model, Broken):
            with pytest.raises(RuntimeError, match="broken"):
                make(saliency="gradient")(images, labels, model=model)
        else:
            make(saliency="gradient")(images, labels, model=model)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(m.training for m in model.modules())
        assert all(p.grad is None for p in model.parameters())


def test_a_training_step_works_and_reports_its_parts():
    torch.manual_seed(0)
    batch = torch.randn(6, 3, 32, 32), torch.arange(6) % 5
    loss, parts = Supervised(tiny_cnn(), make(saliency="gradient"), num_classes=5)(batch)
    assert set(parts) == {"mixed", "clean"}
    loss.backward()
    _, parts = Supervised(tiny_cnn(), make(clean_weight=0.0), num_classes=5)(batch)
    assert set(parts) == {"mixed"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta"),
        ({"omega": 2.0}, "omega"),
        ({"partition": 0}, "partition"),
        ({"saliency": "x"}, "saliency must be one of"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
