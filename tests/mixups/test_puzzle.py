"""PuzzleMix: its energy, its mask, the moving of blocks, and the object; the solvers have tests of their own."""

import itertools

import numpy as np
import oracles_puzzle as oracle
import pytest
import torch
from tiny_networks import PlainNet, tiny_cnn

from samix.methods.supervised import Supervised
from samix.mixups.energy import energy
from samix.mixups.puzzle import PuzzleMix, block_grid, block_saliency, mask_problem, plan_moves, puzzlemix
from samix.mixups.transport import cells, move_blocks, plan_by_swaps, plan_exactly, transport_cost

SIZES = [(32, 32), (24, 40), (33, 17), (7, 7)]


def make(seed=0, **options):
    options = {"saliency": "spectral"} | options
    return PuzzleMix(generator=torch.Generator().manual_seed(seed), **options)


def shares(batch, grid, seed=0):
    return block_saliency(torch.rand(batch, *grid, generator=torch.Generator().manual_seed(seed)) ** 3, grid)


def assert_permutations(plan):
    assert torch.equal(plan.sort(1).values, torch.arange(plan.shape[1]).expand_as(plan))


# The energy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "levels", "neigh"), [((2, 2), 3, 4), ((2, 4), 2, 2), ((4, 2), 4, 1), ((1, 3), 3, 2)])
def test_the_energy_of_a_mask_equals_its_loop(grid, levels, neigh):
    torch.manual_seed(1)
    pixels = torch.rand(3, 3, 8 * grid[0], 8 * grid[1]), torch.rand(3, 3, 8 * grid[0], 8 * grid[1])
    saliency, lam = (shares(3, grid, 2), shares(3, grid, 3)), torch.tensor([0.2, 0.5, 0.9])
    options = {"beta": 1.3, "gamma": 0.7, "eta": 0.4, "num_labels": levels}
    problem = mask_problem(saliency, pixels, lam, neigh_size=neigh, **options)
    for _ in range(5):
        z = torch.randint(levels, (3, *grid)) / (levels - 1)
        found = energy(problem, z)
        for b in range(3):
            wanted = oracle.puzzle_energy(
                z[b].double().numpy(),
                [s[b].double().numpy() for s in saliency],
                [p[b].double().numpy() for p in pixels],
                lam[b].item(),
                neigh=neigh,
                **options,
            )
            assert found[b].item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("blocks", [1, 2, 16])
def test_borders_never_cost_less_than_beta_times_one_minus_gamma(size, blocks):
    grid = block_grid(size, blocks)
    pixels = torch.rand(4, 3, *size).round(), torch.rand(4, 3, *size).round()  # the strongest contrasts
    problem = mask_problem((shares(4, grid), shares(4, grid, 1)), pixels, torch.full((4,), 0.5), beta=2.0, gamma=0.6)
    strength = 2.0 / (16 * (grid[0] * grid[1]) ** 0.5)
    assert problem.below.shape == (4, grid[0] - 1, grid[1])
    assert problem.right.shape == (4, grid[0], grid[1] - 1)
    for w in (problem.below, problem.right):
        assert (w >= strength * 0.4 - 1e-6).all()
        assert (w <= strength * 1.6 + 1e-6).all()


@pytest.mark.parametrize("solver", ["dual", "exact"])
def test_without_smoothness_and_prior_each_block_shows_the_more_salient_image(solver):
    torch.manual_seed(0)
    images, guide, index = torch.rand(6, 3, 32, 32), torch.rand(6, 32, 32), torch.arange(6).roll(1)
    mix = make(beta=0.0, gamma=0.0, eta=0.0, blocks=8, solver=solver)
    batch = mix(images, torch.arange(6), guide=guide, index=index, lam=0.5)
    s = block_saliency(guide, (8, 8))
    wanted = (s > s[index]).float().repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(batch.mask[:, 0], wanted)


def test_strong_smoothness_gives_a_constant_mask_and_a_strong_prior_its_most_likely_level():
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6)
    batch = make(beta=1e5, blocks=8)(images, labels, index=labels.roll(1), lam=0.5)
    assert torch.equal(batch.mask, batch.mask[:, :, :1, :1].expand_as(batch.mask))
    for lam, level in ((0.1, 0.0), (0.5, 0.5), (0.9, 1.0)):
        batch = make(eta=1e4, blocks=8)(images, labels, index=labels.roll(1), lam=lam)
        assert (batch.mask == level).all()


def test_block_saliency_sums_to_one_and_is_uniform_for_an_empty_map():
    guide = torch.rand(4, 33, 17) * 1e-30
    guide[1] = 0.0
    guide[2, 3, 4], guide[2, 5, 6] = torch.nan, torch.inf
    s = block_saliency(guide, (8, 4))
    torch.testing.assert_close(s.sum((1, 2)), torch.ones(4))
    assert torch.equal(s[1], torch.full((8, 4), 1 / 32))
    s = block_saliency(torch.ones(1, 8, 8), (2, 4))
    torch.testing.assert_close(s, torch.full((1, 2, 4), 0.125))


def test_blocks_are_about_square_and_never_more_than_pixels():
    assert block_grid((32, 32), 8) == (8, 8)
    assert block_grid((24, 40), 8) == (8, 13)
    assert block_grid((7, 7), 16) == (7, 7)
    assert block_grid((1, 5), 4) == (1, 5)


# The mask in the image -----------------------------------------------------------------------------------------------


def test_the_policy_shows_each_block_by_its_share():
    x, partner = torch.zeros(2, 3, 8, 12), torch.ones(2, 3, 8, 12)
    z = torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]).repeat(2, 1, 1)
    mixed = puzzlemix(x, partner, torch.tensor([0.3, 0.6]), z)
    for r, c in itertools.product(range(2), range(2)):
        block = mixed.images[:, :, 4 * r : 4 * r + 4, 6 * c : 6 * c + 6]
        assert (block == 1 - z[0, r, c]).all()
    assert torch.equal(mixed.lam, torch.full((2,), 0.625))
    torch.testing.assert_close(mixed.mask.mean((1, 2, 3)), mixed.lam)


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_the_mask_takes_the_levels_and_lam_is_its_mean(levels):
    torch.manual_seed(levels)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    batch = make(num_labels=levels, blocks=8, per_sample=True)(images, labels)
    steps = batch.mask * (levels - 1)
    torch.testing.assert_close(steps, steps.round())
    torch.testing.assert_close(
        batch.lam[batch.index[:, 1] != labels], batch.mask.mean((1, 2, 3))[batch.index[:, 1] != labels]
    )
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(8))
    assert batch.mask.unique().numel() > 1


def test_without_transport_every_pixel_is_a_blend_of_the_two_at_its_place():
    images, labels = torch.randn(8, 3, 24, 40), torch.arange(8)
    batch = make(blocks=4)(images, labels, lam=0.5)
    partner = images[batch.index[:, 1]]
    torch.testing.assert_close(batch.images, batch.mask * images + (1 - batch.mask) * partner)
    own = (batch.mask == 1).expand_as(images)
    assert torch.equal(batch.images[own], images[own])


def test_pixel_labels_follow_the_mask_unless_blocks_are_moved():
    images, labels = torch.randn(4, 3, 16, 16), torch.randint(5, (4, 16, 16))
    batch = make()(images, labels)
    assert batch.dense
    torch.testing.assert_close(batch.shares.sum(1), torch.ones(4, 16, 16))
    with pytest.raises(ValueError, match="moves pixels"):
        make(transport=True)(images, labels)


def test_a_nan_pixel_stays_where_it_is_shown():
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    images[2, 1, 5, 5] = torch.nan
    batch = make(num_labels=2, blocks=4)(images, labels, guide=torch.rand(4, 16, 16), index=labels.roll(1), lam=0.5)
    assert batch.images[:2].isfinite().all()
    assert batch.images[2].isnan().any() == bool(batch.mask[2, 0, 5, 5] == 1)
    assert batch.images[3].isnan().any() == bool(batch.mask[3, 0, 5, 5] == 0)


@pytest.mark.parametrize("moves", [None, "plans"])
def test_the_policy_compiles_as_one_graph(moves):
    torch.manual_seed(0)
    x, partner, guides = (
        torch.rand(3, 3, 16, 24),
        torch.rand(3, 3, 16, 24),
        (torch.rand(3, 16, 24), torch.rand(3, 16, 24)),
    )

    def policy(x, partner, lam, guides):
        saliency = block_saliency(guides[0], (4, 6)), block_saliency(guides[1], (4, 6))
        problem = mask_problem(saliency, (x, partner), lam)
        z = problem.unary.argmin(1) / 2
        plans = None if moves is None else (*plan_moves(guides, z, (2, 3), "swaps"), (2, 3))
        return puzzlemix(x, partner, lam, z, moves=plans)

    lam = torch.tensor([0.2, 1.0, 0.7])
    compiled = torch.compile(policy, backend="eager", fullgraph=True)
    for found, wanted in zip(compiled(x, partner, lam, guides), policy(x, partner, lam, guides), strict=True):
        torch.testing.assert_close(found, wanted)


# Transport -----------------------------------------------------------------------------------------------------------


def test_transport_costs_equal_their_loop():
    saliency, wanted = shares(3, (2, 4)), torch.rand(3, 2, 4) > 0.5
    cost = transport_cost(saliency, wanted, 0.8)
    for b in range(3):
        want = oracle.transport_cost(saliency[b].double().numpy(), wanted[b].numpy(), 0.8)
        np.testing.assert_allclose(cost[b].numpy(), want, atol=1e-6)


def test_the_exact_plan_is_the_best_of_all_permutations():
    cost = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0))
    plan = plan_exactly(cost)
    assert_permutations(plan)
    for b in range(4):
        least = min(
            sum(cost[b, block, place] for place, block in enumerate(p)) for p in itertools.permutations(range(6))
        )
        assert sum(cost[b, plan[b, place], place] for place in range(6)).item() == pytest.approx(least.item(), abs=1e-6)


@pytest.mark.parametrize("t_eps", [0.0, 0.1, 0.8])
def test_swaps_give_permutations_that_save_nearly_as_much_as_the_best(t_eps):
    cost = transport_cost(
        shares(64, (8, 8)), torch.rand(64, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5, t_eps
    )
    price = [cost.gather(1, plan.unsqueeze(1)).sum() for plan in (torch.arange(64).expand(64, -1), plan_exactly(cost))]
    swapped = plan_by_swaps(cost, 32)
    assert_permutations(swapped)
    assert_permutations(plan_exactly(cost))
    saved = price[0] - cost.gather(1, swapped.unsqueeze(1)).sum()
    assert 0.9 * (price[0] - price[1]) <= saved <= price[0] - price[1] + 1e-4


def test_swaps_bring_salient_blocks_to_where_they_are_shown():
    saliency = torch.zeros(1, 4, 4)
    saliency[0, 1, 1] = 1.0
    wanted = torch.zeros(1, 4, 4, dtype=torch.bool)
    wanted[0, 1, 2] = True
    for plan in (
        plan_by_swaps(transport_cost(saliency, wanted, 0.8)),
        plan_exactly(transport_cost(saliency, wanted, 0.8)),
    ):
        assert plan[0, 6] == 5
        assert plan[0, 5] == 6


def test_moving_blocks_equals_its_loop_and_only_permutes_pixels():
    image = torch.rand(3, 2, 12, 16)
    plan = torch.stack([torch.randperm(12) for _ in range(3)])
    found = move_blocks(image, plan, (3, 4))
    for b in range(3):
        np.testing.assert_array_equal(found[b].numpy(), oracle.moved(image[b].numpy(), plan[b].numpy(), 4))
    assert torch.equal(found.flatten(2).sort(2).values, image.flatten(2).sort(2).values)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_uneven_blocks_move_whole_and_stay_in_place_without_a_plan(size):
    image, grid = torch.rand(2, 3, *size), (3, 5)
    still = torch.arange(15).expand(2, -1)
    assert torch.equal(move_blocks(image, still, grid), image)
    block = cells(size[0], 3, image.device).unsqueeze(1) * 5 + cells(size[1], 5, image.device)
    plan = torch.stack([torch.randperm(15) for _ in range(2)])
    found = move_blocks(block.expand(2, 1, *size).float(), plan, grid)
    assert torch.equal(found[:, 0].long(), plan[:, block])


@pytest.mark.parametrize("solver", ["exact", "swaps"])
def test_transport_shows_more_saliency_than_standing_still(solver):
    torch.manual_seed(3)
    guide = torch.rand(16, 32, 32) ** 4
    guide[:, ::4, ::4] *= 50
    index = torch.arange(16).roll(1)
    images = guide.unsqueeze(1).repeat(1, 3, 1, 1)
    options = {"blocks": 8, "num_labels": 2, "t_eps": 0.01}
    still = make(**options)(images, index, guide=guide, index=index, lam=0.5)
    moved = make(transport=True, transport_solver=solver, **options)(images, index, guide=guide, index=index, lam=0.5)
    assert torch.equal(still.mask, moved.mask)
    assert torch.equal(still.weights, moved.weights)
    assert moved.images.sum() > 1.05 * still.images.sum()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("t_size", [0, 4])
def test_with_transport_the_ends_of_lam_are_the_images_bit_by_bit(size, t_size):
    images, labels = torch.randn(4, 3, *size), torch.arange(4)
    for solver in ("exact", "swaps"):
        mix = make(transport=True, transport_solver=solver, t_size=t_size, t_eps=0.0)
        batch = mix(images, labels, index=labels.roll(1), lam=torch.tensor([1.0, 0.0, 0.5, 0.5]))
        assert torch.equal(batch.images[0], images[0])
        assert torch.equal(batch.images[1], images[0])
        assert batch.lam[:2].tolist() == [1.0, 0.0]


# The object ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("transport", [False, True])
def test_shapes_types_and_ranges(size, transport):
    for count, (channels, dtype) in itertools.product(
        (1, 2, 3, 8), ((1, torch.float32), (3, torch.bfloat16), (5, torch.float16), (2, torch.float64))
    ):
        images, labels = torch.randn(count, channels, *size).to(dtype), torch.arange(count)
        before = images.clone()
        batch = make(transport=transport)(images.contiguous(memory_format=torch.channels_last), labels)
        assert batch.images.dtype == dtype
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.isfinite().all()
        assert batch.mask.shape == (count, 1, *size)
        assert batch.mask.dtype == batch.weights.dtype == torch.float32
        assert torch.equal(images, before)
        alone = batch.index[:, 1] == labels
        assert torch.equal(batch.images[alone], images[alone])


def test_the_number_of_blocks_is_drawn_for_each_batch():
    mix = make()
    drawn = [int(mix.draw_extras(torch.Size((2, 3, 32, 32)))["blocks"]) for _ in range(60)]
    assert set(drawn) == {2, 4, 8, 16}
    assert int(make(blocks=5).draw_extras(torch.Size((2, 3, 32, 32)))["blocks"]) == 5


def test_the_network_is_looked_at_without_a_trace_and_only_for_gradient_saliency():
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    model = tiny_cnn(drop_rate=0.5)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    make(saliency="gradient")(images, labels, model=model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="looks at the network"):
        make(saliency="gradient")(images, labels)
    make(saliency="spectral")(images, labels)


def test_the_trace_is_gone_also_when_the_network_raises():
    class Broken(PlainNet):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("broken")

    model = Broken().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="broken"):
        make(saliency="gradient")(torch.randn(4, 3, 32, 32), torch.arange(4), model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("targets", ["ids", "one_hot"])
def test_clean_weight_adds_the_clean_loss_and_zero_adds_nothing(targets):
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 5
    labels = torch.eye(5)[labels] if targets == "one_hot" else labels
    model = PlainNet(norm=False)
    _, plain = make(saliency="gradient").forward_through(model, images, labels)
    assert not plain.extra
    logits, batch = make(saliency="gradient", clean_weight=0.5).forward_through(model, images, labels)
    clean = torch.nn.functional.cross_entropy(model(images), labels)
    torch.testing.assert_close(batch.extra["clean"], 0.5 * clean)
    torch.testing.assert_close(batch.loss(logits), batch.label_loss(logits) + 0.5 * clean)
    batch.loss(logits).backward()
    assert model.fc.weight.grad.abs().sum() > 0


def test_a_training_step_works_and_reports_its_parts():
    torch.manual_seed(0)
    method = Supervised(tiny_cnn(), make(saliency="gradient", clean_weight=1.0), num_classes=5)
    loss, parts = method((torch.randn(4, 3, 32, 32), torch.arange(4)))
    assert set(parts) == {"mixed", "clean"}
    loss.backward()
    assert loss.isfinite()


def test_same_seed_same_batch():
    images, labels = torch.randn(5, 3, 24, 40), torch.arange(5)
    first, again, other = (make(seed)(images, labels) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_exact_and_dual_make_nearly_the_same_batch():
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16)
    exact, dual = (make(solver=solver, blocks=4)(images, labels).mask for solver in ("exact", "dual"))
    assert (exact == dual).float().mean() > 0.98


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta"),
        ({"gamma": 1.5}, "gamma must be in"),
        ({"num_labels": 1}, "num_labels"),
        ({"blocks": -1}, "blocks"),
        ({"iterations": 0}, "iterations"),
        ({"solver": "gco"}, "solver must be one of"),
        ({"saliency": "cam"}, "saliency must be one of"),
        ({"transport_solver": "best"}, "transport_solver must be one of"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
