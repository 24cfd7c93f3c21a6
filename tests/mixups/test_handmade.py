"""Every hand-made mixup against its loop, given the same draws; then what is true of each alone."""

import numpy as np
import oracles_handmade as oracles
import pytest
import torch
import torch.nn.functional as F
from mixup_kinds import SIZES, batch_of, every_size, make
from torch import Tensor

from samix.mixups.choice import DeiTMix, RSBMix
from samix.mixups.fourier import fourier_map
from samix.mixups.handmade import (
    CutMix,
    FMix,
    GridMix,
    MixUp,
    NoMixup,
    RandomChoice,
    ResizeMix,
    SmoothMix,
    cutmix,
    fmix,
    gridmix_cells,
    gridmix_holes,
    mixup,
    resizemix,
    smoothmix,
)
from samix.mixups.hidden import ManifoldMix
from samix.mixups.smooth import solve_sigma

LAMS = torch.tensor([0.0, 1.0, 0.3, 0.83, 0.55, 0.07])


def pairs(size, batch=6, channels=2):
    return torch.randn(batch, channels, *size), torch.randn(batch, channels, *size)


def assert_equals_loop(mixed, x, partner, masks):
    masks = np.stack(masks)
    np.testing.assert_allclose(mixed.mask[:, 0].numpy(), masks, atol=1e-5)
    np.testing.assert_allclose(mixed.lam.numpy(), masks.mean((1, 2)), atol=1e-6)
    expected = [oracles.mix(a, b, m) for a, b, m in zip(x.numpy(), partner.numpy(), masks, strict=True)]
    np.testing.assert_allclose(mixed.images.numpy(), np.stack(expected), atol=3e-5)
    assert mixed.mask.dtype == mixed.lam.dtype == torch.float32


# Given the draws, equal to the loop ----------------------------------------------------------------------------------


def test_mixup_equals_its_loop():
    x, partner = pairs((5, 4))
    assert_equals_loop(mixup(x, partner, LAMS), x, partner, [np.full((5, 4), lam) for lam in LAMS.tolist()])


@every_size
@pytest.mark.parametrize("clip", [True, False])
def test_cutmix_equals_its_loop(size, clip):
    x, partner = pairs(size)
    centre = torch.rand(len(x), 2)
    masks = [oracles.cutmix_mask(size, lam, c, clip) for lam, c in zip(LAMS.numpy(), centre.numpy(), strict=True)]
    assert_equals_loop(cutmix(x, partner, LAMS, centre, clip=clip), x, partner, masks)


@every_size
def test_resizemix_pastes_a_bilinear_resize_of_the_whole_partner(size):
    x, partner = pairs(size)
    centre = torch.rand(len(x), 2)
    mixed = resizemix(x, partner, LAMS, centre)
    for i, lam in enumerate(LAMS.numpy()):
        expected, mask = x[i].clone(), torch.ones(1, *size)
        patch = oracles.resizemix_patch(size, lam, centre[i].numpy())
        if patch is not None:
            top, left, rows, columns = patch
            small = F.interpolate(partner[i : i + 1], (rows, columns), mode="bilinear", align_corners=False)
            expected[:, top : top + rows, left : left + columns] = small[0]
            mask[:, top : top + rows, left : left + columns] = 0
        torch.testing.assert_close(mixed.images[i], expected, atol=1e-4, rtol=0)
        assert torch.equal(mixed.mask[i], mask)
        assert mixed.lam[i] == mask.mean()


@every_size
@pytest.mark.parametrize("isotropic", [True, False])
def test_smoothmix_equals_its_loop(size, isotropic):
    x, partner = pairs(size, batch=3)
    centre, sigma = torch.rand(3, 2), torch.tensor([0.25, 0.4, 0.5])
    draws = zip(centre.numpy(), sigma.tolist(), strict=True)
    masks = [oracles.smoothmix_mask(size, c, s, isotropic) for c, s in draws]
    assert_equals_loop(smoothmix(x, partner, centre, sigma, isotropic=isotropic), x, partner, masks)


@pytest.mark.parametrize("size", [(7, 7), (6, 9), (8, 5)], ids=str)
def test_fourier_map_equals_its_sum_of_waves(size):
    noise = torch.randn(2, size[0], size[1] // 2 + 1, 2)
    grey = fourier_map(noise, size, 3.0)
    expected = np.stack([oracles.fourier_map(z, size, 3.0) for z in noise.double().numpy()])
    np.testing.assert_allclose(grey.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(7, 7), (6, 9)], ids=str)
@pytest.mark.parametrize("max_soft", [0.0, 0.2])
def test_fmix_equals_its_loop(size, max_soft):
    x, partner = pairs(size)
    noise, coin = torch.randn(len(x), size[0], size[1] // 2 + 1, 2), torch.rand(len(x))
    masks = [
        oracles.fmix_mask(z, size, lam, c, max_soft=max_soft)
        for z, lam, c in zip(noise.double().numpy(), LAMS.tolist(), coin.tolist(), strict=True)
    ]
    assert_equals_loop(fmix(x, partner, LAMS, noise, coin, max_soft=max_soft), x, partner, masks)


@pytest.mark.parametrize("size", [*SIZES, (3, 5)], ids=str)
def test_gridmix_holes_equals_its_loop(size):
    x, partner = pairs(size)
    mix = GridMix()
    draws = mix.draw_extras(x.shape)
    draws["area"][2:] = torch.tensor([1.0, 0.01, 0.6, 0.9])  # a crop as large as the image, and one of a few pixels
    masks = [
        oracles.gridmix_holes_mask(size, lam, *(draws[key][i].numpy() for key in ("cells", "area", "aspect", "place")))
        for i, lam in enumerate(LAMS.numpy())
    ]
    assert_equals_loop(gridmix_holes(x, partner, LAMS, **draws), x, partner, masks)


@pytest.mark.parametrize("size", [*SIZES, (3, 5)], ids=str)
@pytest.mark.parametrize("grid", [(4, 4), (3, 6)], ids=str)
def test_gridmix_cells_equals_its_loop(size, grid):
    x, partner = pairs(size)
    scores = torch.rand(len(x), *grid)
    masks = [oracles.gridmix_cells_mask(size, lam, s) for lam, s in zip(LAMS.numpy(), scores.numpy(), strict=True)]
    assert_equals_loop(gridmix_cells(x, partner, LAMS, scores), x, partner, masks)


def draws_of(kind: str, x: Tensor) -> tuple:
    """A policy with all draws, for the tests of policies."""
    if kind == "smoothmix":
        return smoothmix, (torch.rand(len(x), 2), torch.rand(len(x)))
    lam, extras = torch.rand(len(x)), make(kind).draw_extras(x.shape)
    policy = {
        "mixup": mixup,
        "cutmix": cutmix,
        "resizemix": resizemix,
        "fmix": fmix,
        "gridmix": gridmix_holes,
        "gridmix_cells": gridmix_cells,
    }[kind]
    return policy, (lam, *extras.values())


POLICIES = ["mixup", "cutmix", "resizemix", "fmix", "gridmix", "gridmix_cells", "smoothmix"]


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch.compile itself
def test_policies_compile_as_one_graph(kind):
    x, partner = pairs((8, 12), batch=3)
    policy, draws = draws_of(kind, x)
    compiled = torch.compile(policy, fullgraph=True, backend="aot_eager", dynamic=False)
    for got, expected in zip(compiled(x, partner, *draws), policy(x, partner, *draws), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", POLICIES)
def test_policies_name_the_shapes_that_do_not_fit(kind):
    x, partner = pairs((8, 12), batch=3)
    policy, draws = draws_of(kind, x)
    with pytest.raises(ValueError, match=r"partner must have x's shape \(3, 2, 8, 12\), got \(2, 2, 8, 12\)"):
        policy(x, partner[:2], *draws)
    with pytest.raises(ValueError, match=r"(lam|sigma) must have shape \(3,\)"):
        policy(x, partner, *(torch.rand(1) if draw.shape == (3,) else draw for draw in draws))


@pytest.mark.parametrize("kind", POLICIES)
def test_each_sample_is_mixed_by_its_own_draws_alone(kind):
    x, partner = pairs((9, 12), batch=4)
    policy, draws = draws_of(kind, x)
    whole = policy(x, partner, *draws)
    for i in range(4):
        alone = policy(x[i : i + 1], partner[i : i + 1], *(draw[i : i + 1] for draw in draws))
        for got, expected in zip(alone, whole, strict=True):
            torch.testing.assert_close(got[0], expected[i])


# Of each alone -------------------------------------------------------------------------------------------------------


def test_mixup_is_symmetric_and_a_linear_network_cannot_tell():
    x, partner = pairs((6, 5))
    there, back = mixup(x, partner, LAMS), mixup(partner, x, 1.0 - LAMS)
    torch.testing.assert_close(there.images, back.images, atol=1e-6, rtol=1e-6)
    net = torch.nn.Linear(60, 3)
    share = LAMS.view(-1, 1)
    expected = share * net(x.flatten(1)) + (1 - share) * net(partner.flatten(1))
    torch.testing.assert_close(net(there.images.flatten(1)), expected, atol=1e-5, rtol=1e-5)


def test_mixup_equals_timm_and_torchvision():
    from timm.data.mixup import Mixup as TimmMixup
    from torchvision.transforms import v2

    images, labels = batch_of(6)
    theirs = TimmMixup(mixup_alpha=1.0, num_classes=7, label_smoothing=0.1)
    theirs._params_per_batch = lambda: (0.3, False)
    expected, target = theirs(images.clone(), labels)
    mixed = MixUp(pairing="flip")(images, labels, lam=0.3)
    torch.testing.assert_close(mixed.images, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mixed.soft_targets(7, smoothing=0.1), target)

    vision = v2.MixUp(num_classes=7)
    params = {"labels": labels, "batch_size": 6, "lam": 0.3}
    mixed = MixUp(pairing="roll")(images, labels, lam=0.3)
    torch.testing.assert_close(mixed.images, vision.transform(images, params), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mixed.soft_targets(7), vision.transform(labels, params))


def test_cutmix_equals_timm_and_torchvision(monkeypatch):
    import timm.data.mixup as timm_mixup
    from torchvision.transforms import v2

    images, labels = batch_of(6)
    centre = torch.tensor([[0.3, 0.9]]).expand(6, 2)
    partner = {"flip": images.flip(0), "roll": images.roll(1, 0)}
    ours = {name: cutmix(images, partner[name], torch.full((6,), 0.4), centre) for name in partner}

    draws = iter([int(0.3 * 24), int(0.9 * 40)])  # timm draws the centre's row, then its column
    monkeypatch.setattr(timm_mixup.np.random, "randint", lambda *_args, **_kw: next(draws))
    theirs = timm_mixup.Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=7, label_smoothing=0.0)
    theirs._params_per_batch = lambda: (0.4, True)
    expected, target = theirs(images.clone(), labels)
    assert torch.equal(ours["flip"].images, expected)
    torch.testing.assert_close(ours["flip"].lam[0], target[0, 0])

    rows, columns = (ours["roll"].mask[0, 0] == 0).nonzero().unbind(1)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    vision = v2.CutMix(num_classes=7)
    params = {"labels": labels, "batch_size": 6, "box": box, "lam_adjusted": float(ours["roll"].lam[0])}
    assert torch.equal(ours["roll"].images, vision.transform(images, params))


def test_cutmix_changes_one_rectangle_in_the_image_s_proportions():
    x, partner = torch.zeros(40, 1, 24, 40), torch.ones(40, 1, 24, 40)
    mixed = cutmix(x, partner, torch.linspace(0.3, 0.9, 40), torch.full((40, 2), 0.5))
    for image in mixed.images[:, 0]:
        rows, columns = image.any(1).sum(), image.any(0).sum()
        assert image.sum() == rows * columns
        assert abs(rows / 24 - columns / 40) <= 2 / 24


def test_cutmix_that_is_not_clipped_meets_lam():
    x = torch.zeros(50, 1, 32, 32)
    lam = torch.linspace(0, 1, 50)
    got = cutmix(x, x + 1, lam, torch.rand(50, 2), clip=False).lam
    assert (got - lam).abs().max() <= 2 / 32


@pytest.mark.parametrize(
    ("kind", "mean", "tolerance"), [("cutmix", 0.70, 0.02), ("resizemix", 0.76, 0.02), ("smoothmix", 0.57, 0.02)]
)
def test_mean_lam_is_the_published_one(kind, mean, tolerance):
    images = torch.zeros(5000, 1, 32, 32)
    labels, index = torch.zeros(5000, dtype=torch.int64), torch.arange(5000).roll(1)
    lam = make(kind, per_sample=True)(images, labels, index=index).lam
    assert abs(float(lam.mean()) - mean) < tolerance
    if kind == "smoothmix":
        assert 0.25 < lam.min() < lam.max() < 0.92


def test_resizemix_shares_lie_in_the_bounds_and_follow_the_scale():
    images = torch.zeros(2000, 1, 40, 40)
    mixed = make("resizemix", per_sample=True)(images, torch.zeros(2000, dtype=torch.int64))
    paired = mixed.index[:, 0] != mixed.index[:, 1]
    side = (1 - mixed.lam[paired]).sqrt()
    assert side.min() >= 0.1 - 1e-6
    assert side.max() <= 0.8
    assert abs(side.mean() - (0.45 - 0.5 / 40)) < 0.01  # uniform in [0.1, 0.8], rounded down
    corners = mixed.mask[paired][:, 0].flatten(1).argmin(1)
    assert len(corners.unique()) > 200


def test_given_lam_is_met_by_resizemix_to_rounding_and_by_smoothmix():
    images, labels = batch_of(9, (1, 32, 48))
    lam = torch.linspace(0.0, 1.0, 9)
    index = torch.arange(9).roll(1)
    got = make("resizemix")(images, labels, lam=lam, index=index).lam
    assert (got - lam).abs().max() <= 2 / 32
    got = make("smoothmix")(images, labels, lam=lam, index=index).lam
    torch.testing.assert_close(got, lam, atol=1e-5, rtol=0)
    got = make("smoothmix", isotropic=True)(images, labels, lam=lam, index=index).lam
    torch.testing.assert_close(got, lam, atol=1e-5, rtol=0)


def test_solve_sigma_gives_back_the_sigma_that_was_used():
    centre, sigma = torch.rand(6, 2), torch.linspace(0.1, 0.7, 6)
    x = torch.zeros(6, 1, 20, 31)
    lam = smoothmix(x, x, centre, sigma).lam
    torch.testing.assert_close(solve_sigma(lam, centre, x.shape), sigma, atol=1e-4, rtol=1e-4)


def test_smoothmix_is_symmetric_gentle_and_wider_for_a_larger_sigma():
    x = torch.zeros(3, 1, 33, 33)
    centre, sigma = torch.full((3, 2), 0.5), torch.tensor([0.2, 0.3, 0.4])
    mixed = smoothmix(x, x + 1, centre, sigma)
    torch.testing.assert_close(mixed.mask, mixed.mask.flip(2).flip(3))
    torch.testing.assert_close(mixed.mask, mixed.mask.transpose(2, 3))
    steepest = mixed.mask.diff(dim=2).abs().amax((1, 2, 3))
    assert (steepest <= np.exp(-0.5) / (sigma * 33) + 1e-6).all()
    assert mixed.lam[0] > mixed.lam[1] > mixed.lam[2]


def test_fmix_keeps_lam_of_the_pixels_to_within_one():
    x = torch.zeros(200, 1, 17, 24)
    lam = torch.rand(200)
    draws = make("fmix").draw_extras(x.shape)
    mask = fmix(x, x, lam, **draws).mask
    assert ((mask.mean((1, 2, 3)) - lam).abs() * 17 * 24 < 1.001).all()
    rounded_up = mask.mean((1, 2, 3)) > lam
    assert 70 < rounded_up.sum() < 130


def test_fmix_maps_are_isotropic_and_fall_as_frequency_to_the_minus_delta():
    size, delta = 64, 3.0
    noise = torch.randn(300, size, size // 2 + 1, 2)
    grey = fourier_map(noise, (size, size), delta)
    grey = grey / grey.std((1, 2), keepdim=True)
    along_y, along_x = grey.diff(dim=1).square().mean(), grey.diff(dim=2).square().mean()
    assert 0.87 < along_y / along_x < 1.15
    power = torch.fft.rfft2(fourier_map(noise, (size, size), delta)).abs().square().mean(0)
    for line in (power[0, 2:20], power[2:20, 0]):
        slope = np.polyfit(np.log(np.arange(2, 20)), line.log().numpy(), 1)[0]
        assert abs(slope + 2 * delta) < 0.4


def test_gridmix_makes_one_hole_per_cell_of_the_crop():
    x = torch.zeros(1, 1, 30, 30)
    draws = (torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(1, 2))
    image = gridmix_holes(x, x + 1, torch.tensor([0.75]), *draws).images[0, 0]
    corners = [(h, w) for h in range(0, 30, 10) for w in range(0, 30, 10)]
    assert image.sum() == len(corners) * 25
    assert all(image[h : h + 5, w : w + 5].all() for h, w in corners)


def test_gridmix_cells_keeps_exactly_that_many_cells():
    x = torch.zeros(5, 1, 8, 8)
    mixed = gridmix_cells(x, x + 1, torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0]), torch.rand(5, 4, 4))
    assert torch.equal(mixed.lam * 16, torch.tensor([0.0, 4.0, 8.0, 14.0, 16.0]))


def test_gridmix_says_when_the_image_is_too_narrow():
    images, labels = batch_of(2, (1, 3, 5))
    assert make("gridmix")(images, labels).images.shape == images.shape
    with pytest.raises(ValueError, match=r"cells_min must be at most half the image's width 5, got 3"):
        GridMix(cells_min=3)(images, labels)


def test_no_mixup_gives_the_very_images_back():
    images, labels = batch_of(3)
    mixed = NoMixup()(images, labels, lam=0.2)
    assert mixed.images is images
    assert torch.equal(mixed.lam, torch.ones(3))
    assert torch.equal(mixed.soft_targets(7), F.one_hot(labels, 7).float())
    assert torch.equal(NoMixup()(images, labels, index=torch.tensor([1, 2, 0])).weights[:, 1], torch.zeros(3))


def test_random_choice_takes_each_by_its_weight_and_has_one_generator():
    images, labels = batch_of(4, (1, 8, 8))
    mix = RandomChoice([NoMixup(), MixUp(), CutMix()], [2, 1, 1], generator=torch.Generator().manual_seed(0))
    assert all(choice.generator is mix.generator for choice in mix.choices)
    names = [mix.choose().name for _ in range(400)]
    assert 160 < names.count("vanilla") < 240
    assert 70 < names.count("mixup") < 130
    state = mix.generator.get_state()
    first = [mix(images, labels).images for _ in range(5)]
    mix.generator.set_state(state)
    assert all(torch.equal(a, mix(images, labels).images) for a in first)


def test_random_choice_leaves_its_mixups_alone_and_runs_them_inside_the_network():
    inner = ManifoldMix(layers="input")
    mix = RandomChoice([inner])
    assert inner.generator is not mix.generator
    images, labels = batch_of(4)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 40, 7))
    logits, mixed = mix.forward_through(net, images, labels)
    torch.testing.assert_close(net(mixed.images), logits)


def test_the_choices_of_published_recipes():
    deit, rsb = DeiTMix(), RSBMix()
    assert [(c.name, c.alpha) for c in deit.choices] == [("mixup", 0.8), ("cutmix", 1.0)]
    assert [(c.name, c.alpha) for c in rsb.choices] == [("mixup", 0.1), ("cutmix", 1.0)]
    assert deit.weights == rsb.weights == (0.5, 0.5)
    assert deit != rsb


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResizeMix(scale_min=0.9), "scale_min must be at most scale_max, got 0.9 and 0.8"),
        (lambda: ResizeMix(scale_min=0.0), r"scale_min must be in \(0, 1\], got 0.0"),
        (lambda: ResizeMix(scale_max=1.1), r"scale_max must be in \(0, 1\], got 1.1"),
        (lambda: SmoothMix(sigma_min=0.0), r"sigma_min must be in \(0, inf\), got 0.0"),
        (lambda: SmoothMix(sigma_max=float("inf")), r"sigma_max must be in \(0, inf\), got inf"),
        (lambda: FMix(decay_power=-1.0), r"decay_power must be in \[0, inf\), got -1.0"),
        (lambda: FMix(max_soft=0.6), r"max_soft must be in \[0, 0.5\], got 0.6"),
        (lambda: GridMix(style="stripes"), "style must be one of holes, cells; got 'stripes'"),
        (lambda: GridMix(cells_min=7), "cells_min must be at most cells_max, got 7 and 6"),
        (lambda: GridMix(cells=0), r"cells must be a whole number in \[1, 2\^31\), got 0"),
        (lambda: GridMix(area_min=0.0), r"area_min must be in \(0, 1\], got 0.0"),
        (lambda: GridMix(aspect_min=3.0), "aspect_min must be at most aspect_max, got 3.0 and 2.0"),
        (lambda: RandomChoice([]), "one weight per mixup, got 0 and 0"),
        (lambda: RandomChoice([MixUp()], [0.5, 0.5]), "one weight per mixup, got 1 and 2"),
        (lambda: RandomChoice([MixUp()], [0.0]), "weights must be finite, at least 0, and not all 0"),
        (lambda: RandomChoice([MixUp(), CutMix()], [1.0, float("nan")]), "weights must be finite"),
    ],
)
def test_options_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_fmix_names_noise_of_another_shape():
    x, partner = pairs((8, 12), batch=2)
    with pytest.raises(ValueError, match=r"noise must have shape \(2, 8, 7, 2\), got \(2, 8, 12, 2\)"):
        fmix(x, partner, torch.ones(2), torch.randn(2, 8, 12, 2), torch.rand(2))
