"""The solvers of the mask's energy: against all masks, against each other, and where the minimum is known."""

import itertools

import oracles_puzzle as oracle
import pytest
import torch
import torch.nn.functional as F

from samix.mixups.energy import MaskProblem, energy, solve_dual, solve_exact
from samix.mixups.puzzle import block_saliency, mask_problem

SOLVERS = {"dual": solve_dual, "exact": solve_exact}
every_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


def random_problem(batch, levels, height, width, seed=0):
    """Convex unaries and borders of like size."""
    g = torch.Generator().manual_seed(seed)
    z = torch.linspace(0, 1, levels).view(1, -1, 1, 1)
    slope = torch.randn(batch, 1, height, width, generator=g)
    bend = torch.rand(batch, 1, height, width, generator=g)
    return MaskProblem(
        slope * z + bend * (z - 0.5) ** 2,
        torch.rand(batch, height - 1, width, generator=g),
        torch.rand(batch, height, width - 1, generator=g),
    )


def natural(batch, size, seed):
    """Random fields with the spectrum of natural images, (B, C, size, size)."""
    g = torch.Generator().manual_seed(seed)
    rough = torch.fft.rfft2(torch.randn(batch, size, size, generator=g))
    frequency = (torch.fft.fftfreq(size).unsqueeze(1) ** 2 + torch.fft.rfftfreq(size) ** 2).sqrt()
    field = torch.fft.irfft2(rough / (frequency + 1 / size) ** 1.4, s=(size, size))
    return F.layer_norm(field, (size, size))


def natural_problem(batch, blocks, levels, seed=0, **options):
    pixels = torch.stack([natural(batch, 32, seed + i).sigmoid() for i in range(3)], 1)
    saliency = block_saliency(natural(batch, 32, seed + 3).exp(), (blocks, blocks))
    lam = torch.rand(batch, generator=torch.Generator().manual_seed(seed))
    return mask_problem((saliency, saliency.roll(1, 0)), (pixels, pixels.roll(1, 0)), lam, num_labels=levels, **options)


def least_constant(problem):
    return problem.unary.sum((2, 3)).amin(1)


def test_energy_equals_its_loop():
    problem = random_problem(3, 4, 3, 5)
    z = torch.randint(4, (3, 3, 5)) / 3
    for b in range(3):
        wanted = oracle.energy(*(part[b].double().numpy() for part in problem), z[b].double().numpy())
        assert energy(problem, z)[b].item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("levels", "size"), [(3, (2, 2)), (2, (3, 3)), (4, (2, 2)), (3, (1, 5)), (3, (3, 2))], ids=str)
def test_exact_and_dual_find_the_best_of_all_masks(levels, size):
    problem = random_problem(8, levels, *size, seed=levels)
    exact, dual = energy(problem, solve_exact(problem)), energy(problem, solve_dual(problem, 300))
    for b in range(8):
        least = oracle.least_energy(*(part[b].double().numpy() for part in problem))
        assert exact[b].item() == pytest.approx(least, abs=1e-5)
        assert dual[b].item() == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize(("levels", "blocks"), list(itertools.product((2, 3), (2, 4, 8, 16))), ids=str)
def test_dual_is_within_a_thousandth_of_exact(levels, blocks):
    problem = natural_problem(32, blocks, levels)
    least = energy(problem, solve_exact(problem))
    gap = (energy(problem, solve_dual(problem)) - least) / least.abs()
    assert gap.min() > -1e-6
    assert gap.mean() < 1e-3


@every_solver
@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0])
def test_no_solver_is_worse_than_the_best_constant_mask(solve, strength):
    unary, below, right = random_problem(16, 3, 4, 6)
    problem = MaskProblem(unary, strength * below, strength * right)
    z = solve(problem)
    assert set(z.unique().tolist()) <= {0.0, 0.5, 1.0}
    assert (energy(problem, z) <= least_constant(problem) + 1e-4).all()


@every_solver
def test_heavy_borders_give_one_level_and_none_give_each_block_its_best(solve):
    unary, below, right = random_problem(8, 3, 4, 4)
    heavy = solve(MaskProblem(unary, below + 1e3, right + 1e3))
    assert torch.equal(heavy, heavy[:, :1, :1].expand_as(heavy))
    torch.testing.assert_close(
        energy(MaskProblem(unary, below, right), heavy), least_constant(MaskProblem(unary, below, right))
    )
    free = solve(MaskProblem(unary, 0 * below, 0 * right))
    assert torch.equal(free, unary.argmin(1) / 2)


@every_solver
def test_samples_do_not_touch_each_other_and_the_scale_of_energy_does_not_matter(solve):
    problem = random_problem(6, 3, 5, 4)
    z = solve(problem)
    assert torch.equal(solve(MaskProblem(*(part[2:3] for part in problem)))[0], z[2])
    assert torch.equal(solve(MaskProblem(*(1e-3 * part for part in problem))), z)
    assert torch.equal(solve(MaskProblem(*(part.double() for part in problem))), z.double())


@every_solver
def test_turning_the_grid_turns_the_mask(solve):
    problem = random_problem(6, 3, 5, 4)
    turned = MaskProblem(problem.unary.mT, problem.right.mT, problem.below.mT)
    assert (energy(problem, solve(problem)) - energy(turned, solve(turned))).abs().max() < 1e-4


@every_solver
def test_the_problem_is_not_modified(solve):
    problem = random_problem(3, 3, 4, 4)
    before = [part.clone() for part in problem]
    solve(problem)
    assert all(torch.equal(part, old) for part, old in zip(problem, before, strict=True))


def test_more_steps_do_no_harm():
    problem = natural_problem(32, 16, 3)
    values = [energy(problem, solve_dual(problem, steps)).mean().item() for steps in (10, 40, 160)]
    assert values[0] > values[1] > values[2]


def test_the_batched_solver_compiles_as_one_graph():
    problem = random_problem(3, 3, 4, 5)
    compiled = torch.compile(lambda p: solve_dual(p, 5), backend="eager", fullgraph=True)
    assert torch.equal(compiled(problem), solve_dual(problem, 5))


def test_exact_says_that_a_nan_cannot_be_solved():
    problem = random_problem(1, 3, 2, 2)
    problem.unary[0, 1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        solve_exact(problem)
