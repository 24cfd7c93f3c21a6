"""Views for training without labels: batched steps against torchvision's for each image, recipes, both forms alike."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as F

from samix.data import ViewAugment, denormalize, normalize
from samix.data import on_device_views as ov
from samix.data.loading import ViewImages
from samix.data.on_device import crop_boxes
from samix.data.views import RECIPES, PilBlur, view_transforms
from samix.viz.pictures import view_grid

KINDS = tuple(RECIPES)
NAMES = ("brightness", "contrast", "saturation", "hue")


def floats(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scene(count, side, seed=0):
    """Smooth colours with one sharp border, (count, 3, side, side) uint8: like a photograph, unlike noise."""
    coarse = floats(count, 3, 4, 4, seed=seed)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    smooth[:, :, : side // 3] *= 0.5
    return (smooth * 255).round().to(torch.uint8)


def jittered(image, factors, order):
    """The operations of torchvision, one after the other."""
    for operation in order:
        image = getattr(F, f"adjust_{NAMES[operation]}")(image, factors[operation])
    return image


def view_oracle(image, draw, recipe, size):
    """One view of one image by torchvision's functions, in the order of the recipe; draws as documented."""
    side = image.shape[-1]
    place = [int(v) for v in torch.cat(crop_boxes(draw[None, :23], side, recipe.scale), 1)[0]]
    steps = dict(zip(range(23, 36), draw[23:].tolist(), strict=True))
    low = [max(0.0, 1 - spread) for spread in recipe.jitter[:3]] + [-recipe.jitter[3]]
    high = [1 + spread for spread in recipe.jitter[:3]] + [recipe.jitter[3]]
    x = image.float() / 255
    for step in recipe.steps:
        if step == "crop":
            x = F.resized_crop(x, *place, [size, size], interpolation=F.InterpolationMode.BILINEAR, antialias=False)
        elif step == "flip" and draw[0] < 0.5:
            x = F.horizontal_flip(x)
        elif step == "jitter" and steps[23] < recipe.jitter_p:
            factors = [a + steps[24 + k] * (b - a) for k, (a, b) in enumerate(zip(low, high, strict=True))]
            x = jittered(x, factors, sorted(range(4), key=lambda k: steps[28 + k]))
        elif step == "grey" and steps[32] < recipe.grey_p:
            x = F.rgb_to_grayscale(x, num_output_channels=3)
        elif step == "blur" and steps[33] < recipe.blur_p:
            x = F.gaussian_blur(x, [23, 23], [0.1 + 1.9 * steps[34]] * 2)
        elif step == "solarise" and steps[35] < recipe.solarise_p:
            x = F.solarize(x, 0.5)
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_whole_batches_equal_torchvisions_functions_on_each_image(kind):
    views, images = ViewAugment(kind, strength=1.0), scene(40, 36)
    draws = floats(40, views.count, ov.VIEW_DRAWS, seed=1)
    results = ov.views_of(images, draws, views, 32)
    assert len(results) == views.count
    for view, result in enumerate(results):
        size = views.size(view, 32)
        assert (result.shape, result.dtype) == ((40, 3, size, size), torch.float32)
        assert 0 <= float(result.min()) <= float(result.max()) <= 1
        if size < 23:  # torchvision reflects no more pixels than the image has
            continue
        for image, draw, got in zip(images, draws[:, view], result, strict=True):
            expected = view_oracle(image, draw, views.recipe(view), size)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_the_jitter_takes_its_operations_in_the_order_given():
    images, orders = floats(24, 3, 9, 7), torch.tensor(sorted(itertools.permutations(range(4))))
    factors = torch.cat([0.2 + 1.6 * floats(24, 3, seed=2), floats(24, 1, seed=3) - 0.5], 1)
    before = images.clone()
    result = ov.colour_jitter(images, factors, orders)
    for image, row, order, got in zip(images, factors.tolist(), orders.tolist(), result, strict=True):
        torch.testing.assert_close(got, jittered(image, row, order), atol=5e-6, rtol=0)
    assert torch.equal(images, before)
    # The order matters: the same factors in another one give another image, for most factors.
    assert (ov.colour_jitter(images, factors, orders.flip(0)) - result).abs().amax((1, 2, 3)).median() > 0.02


@pytest.mark.parametrize("operation", range(4))
def test_each_jitter_operation_alone_is_torchvisions(operation):
    images, factors = floats(6, 3, 8, 8), torch.tensor([1.0, 1, 1, 0]).repeat(6, 1)
    factors[:, operation] = torch.tensor([0.0, 0.3, 0.5, -0.2, -0.5, 0.1]) if operation == 3 else torch.arange(6) / 3
    result = ov.colour_jitter(images, factors, torch.arange(4).repeat(6, 1))
    for image, factor, got in zip(images, factors[:, operation].tolist(), result, strict=True):
        expected = getattr(F, f"adjust_{NAMES[operation]}")(image, factor)
        torch.testing.assert_close(got, expected, atol=3e-6, rtol=0)


def test_factors_that_change_nothing_give_the_image_back():
    images, order = floats(5, 3, 8, 8), torch.arange(4).repeat(5, 1)
    result = ov.colour_jitter(images, torch.tensor([1.0, 1, 1, 0]).repeat(5, 1), order)
    torch.testing.assert_close(result, images, atol=1e-6, rtol=0)


def test_hue_turns_red_to_green_and_leaves_grey_black_and_white():
    colours = torch.tensor([[1.0, 0, 0], [0.2, 0.2, 0.2], [0, 0, 0], [1, 1, 1], [0.9, 0.9, 0.1], [0.1, 0.9, 0.9]]).T
    turned = ov.turn_hue(colours[None], torch.tensor([1 / 3]))[0].T
    expected = torch.tensor([[0, 1.0, 0], [0.2, 0.2, 0.2], [0, 0, 0], [1, 1, 1], [0.1, 0.9, 0.9], [0.9, 0.1, 0.9]])
    torch.testing.assert_close(turned, expected, atol=1e-6, rtol=0)


def test_two_half_turns_of_hue_are_none():
    colours, half = floats(3, 3, 200), torch.full((3,), 0.5)
    back = ov.turn_hue(ov.turn_hue(colours, half), -half)
    torch.testing.assert_close(back, colours, atol=3e-6, rtol=0)


@pytest.mark.parametrize("side", [5, 11, 12, 23, 32])
def test_blur_is_a_convolution_with_a_sampled_gaussian_and_reflected_borders(side):
    images, sigma = floats(6, 3, side, side), torch.linspace(0.1, 2, 6)
    result = ov.blur(images, sigma, torch.ones(6, dtype=torch.bool))
    taps = 2 * min(11, side - 1) + 1
    for image, s, got in zip(images, sigma.tolist(), result, strict=True):
        torch.testing.assert_close(got, F.gaussian_blur(image, [taps, taps], [s, s]), atol=1e-5, rtol=0)


def test_blur_has_one_matrix_for_each_image_whose_rows_sum_to_one():
    sigma, chosen = torch.tensor([0.1, 0.5, 1.0, 2.0, 2.0]), torch.tensor([True, True, True, True, False])
    matrix = ov.blur_matrix(sigma, chosen, 16)
    torch.testing.assert_close(matrix.sum(2), torch.ones(5, 16))
    assert torch.equal(matrix[4], torch.eye(16))
    middle = matrix[3, 8]
    assert float(middle[9] / middle[8]) == pytest.approx(math.exp(-1 / 8), abs=1e-3)
    images = floats(5, 3, 16, 16)
    assert torch.equal(ov.blur(images, sigma, chosen)[4], images[4])


def test_pil_blur_and_the_matrix_agree_on_a_photograph_like_image():
    pixels = scene(1, 48)[0]
    for sigma in (0.7, 1.3, 2.0):
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
        by_pil = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
        got = ov.blur(pixels[None].float() / 255, torch.tensor([sigma]), torch.tensor([True]))[0]
        assert float((got - by_pil)[:, 6:-6, 6:-6].abs().max()) < 0.02


def test_grey_and_solarise_touch_only_the_chosen():
    images, chosen = floats(4, 3, 6, 6), torch.tensor([True, False, True, False])
    for result, each in (
        (ov.grey(images, chosen), lambda x: F.rgb_to_grayscale(x, num_output_channels=3)),
        (ov.solarise(images, chosen), lambda x: F.solarize(x, 0.5)),
    ):
        torch.testing.assert_close(result[::2], torch.stack([each(x) for x in images[::2]]), atol=1e-6, rtol=0)
        assert torch.equal(result[1::2], images[1::2])


def test_a_view_of_an_image_does_not_depend_on_the_batch_it_is_in():
    images, draws, recipe = scene(300, 16), floats(300, ov.VIEW_DRAWS), ViewAugment("byol").recipe(1)
    whole = ov.view_batch(images, draws, recipe, 16)
    assert torch.equal(ov.view_batch(images[7:9], draws[7:9], recipe, 16), whole[7:9])
    assert len(ov.view_batch(images[:1], draws[:1], recipe, 16)) == 1


def test_autocast_does_not_coarsen_views():
    images, draws, recipe = scene(4, 16), floats(4, ov.VIEW_DRAWS), ViewAugment("simclr").recipe(0)
    expected = ov.view_batch(images, draws, recipe, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ov.view_batch(images, draws, recipe, 16), expected)


def statistics(pixels):
    """What the steps change, of (N, 3, H, W) in [0, 1]: (N, 4) level, contrast, colour, sharpness."""
    chroma = pixels.amax(1) - pixels.amin(1)
    edges = (pixels[:, :, 1:] - pixels[:, :, :-1]).abs()
    return torch.stack([pixels.mean((1, 2, 3)), pixels.std((1, 2, 3)), chroma.mean((1, 2)), edges.mean((1, 2, 3))], 1)


@pytest.mark.parametrize(("kind", "view"), [("moco-v1", 0), ("moco-v2", 0), ("simclr", 0), ("byol", 1), ("cifar", 1)])
def test_both_forms_agree_in_distribution(kind, view):
    count, views, image = 600, ViewAugment(kind), scene(1, 32, seed=5)
    draws = floats(count, ov.VIEW_DRAWS, seed=3)
    batched = statistics(ov.view_batch(image.expand(count, -1, -1, -1), draws, views.recipe(view), 32))
    transform = view_transforms(views, 32)[view]
    torch.manual_seed(4)
    single = statistics(torch.stack([transform(image[0]) for _ in range(count)]).float() / 255)
    for a, b in zip(batched.T, single.T, strict=True):  # Kolmogorov-Smirnov, level 0.001: 1.95 sqrt(2 / n)
        levels = torch.cat([a, b]).sort().values
        share_a, share_b = (torch.searchsorted(x.sort().values, levels, right=True) / count for x in (a, b))
        # Grey views have a chroma of 0 in one form and up to rounding in the other: compare above it.
        assert float((share_a - share_b)[levels > 0.01].abs().max()) < 1.95 * math.sqrt(2 / count)


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_of_a_recipe_is_taken_as_often_as_it_says(kind):
    views, count = ViewAugment(kind), 3000
    draws = floats(count, ov.VIEW_DRAWS, seed=1)
    ramp = torch.linspace(100, 200, 8).to(torch.uint8).expand(count, 3, 8, 8).clone()
    ramp[:, 0] //= 4
    for view in range(2):
        recipe = views.recipe(view)
        result = ov.view_batch(ramp, draws, recipe, 8)
        chroma = (result.amax(1) - result.amin(1)).amax((1, 2))
        assert float((chroma < 1e-4).float().mean()) == pytest.approx(0.2, abs=0.03)
        factors, _ = ov.jitter_draws(draws, recipe)
        kept = (factors == torch.tensor([1.0, 1, 1, 0])).all(1).float().mean()
        assert float(kept) == pytest.approx(1 - recipe.jitter_p, abs=0.03)
        for k, spread in enumerate(recipe.jitter):
            middle = 0.0 if k == 3 else 1.0
            assert middle - spread <= float(factors[:, k].min()) < middle - 0.95 * spread
            assert middle + 0.95 * spread < float(factors[:, k].max()) <= middle + spread
        if recipe.solarise_p == 0:
            mirrored = result.diff(dim=3).sum((1, 2, 3)) < 0
            assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.03)


PUBLISHED = {  # scale, jitter and its probability, blur, solarise, order; grey is 0.2 everywhere
    ("moco-v1", 0): ((0.2, 1), (0.4, 0.4, 0.4, 0.4), 1.0, 0, 0, "crop grey jitter flip"),
    ("moco-v2", 0): ((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.8, 0.5, 0, "crop jitter grey blur flip"),
    ("simclr", 1): ((0.08, 1), (0.8, 0.8, 0.8, 0.2), 0.8, 0.5, 0, "crop flip jitter grey blur"),
    ("byol", 0): ((0.08, 1), (0.4, 0.4, 0.2, 0.1), 0.8, 1, 0, "crop jitter grey blur solarise flip"),
    ("byol", 1): ((0.08, 1), (0.4, 0.4, 0.2, 0.1), 0.8, 0.1, 0.2, "crop jitter grey blur solarise flip"),
    ("cifar", 1): ((0.08, 1), (0.4, 0.4, 0.4, 0.1), 0.8, 0, 0, "crop flip jitter grey"),
    ("swav", 1): ((0.14, 1), (0.8, 0.8, 0.8, 0.2), 0.8, 0.5, 0, "crop flip jitter grey blur"),
    ("swav", 7): ((0.05, 0.14), (0.8, 0.8, 0.8, 0.2), 0.8, 0.5, 0, "crop flip jitter grey blur"),
}


@pytest.mark.parametrize(("kind", "view"), PUBLISHED)
def test_recipes_are_the_published_ones(kind, view):
    recipe = ViewAugment(kind).recipe(view)
    got = (recipe.scale, recipe.jitter, recipe.jitter_p, recipe.blur_p, recipe.solarise_p, " ".join(recipe.steps))
    assert got == PUBLISHED[kind, view]
    assert recipe.grey_p == 0.2
    assert recipe.interpolation.value == ("bicubic" if kind in ("simclr", "byol") else "bilinear")


@pytest.mark.parametrize("kind", KINDS)
def test_the_transform_of_one_image_takes_the_steps_in_order(kind):
    views = ViewAugment(kind)
    classes = {
        "crop": "RandomResizedCrop",
        "flip": "RandomHorizontalFlip",
        "jitter": "RandomApply",
        "grey": "RandomGrayscale",
        "blur": "PilBlur",
        "solarise": "RandomSolarize",
    }
    transforms = view_transforms(views, 32)
    assert len(transforms) == views.count
    for view, transform in enumerate(transforms):
        names = [type(step).__name__ for step in transform.steps[1:-1]]
        assert names == [classes[step] for step in views.recipe(view).steps]
        result = transform(scene(1, 40)[0])
        assert (result.shape, result.dtype) == ((3, *[views.size(view, 32)] * 2), torch.uint8)


def test_pil_images_and_tensors_give_the_same_views():
    pixels = scene(1, 40)[0]
    transform = view_transforms(ViewAugment("byol"), 32)[1]
    results = []
    for image in (pixels, Image.fromarray(pixels.permute(1, 2, 0).numpy())):
        torch.manual_seed(3)
        results += [torch.stack([transform(image) for _ in range(5)])]
    assert torch.equal(*results)


def test_pil_blur_takes_its_share_and_its_range():
    picture = Image.fromarray(scene(1, 24)[0].permute(1, 2, 0).numpy())
    assert PilBlur(0.0)(picture) is picture
    torch.manual_seed(0)
    blurred = [PilBlur(0.5)(picture) is not picture for _ in range(400)]
    assert sum(blurred) / 400 == pytest.approx(0.5, abs=0.08)


def test_views_are_a_function_of_seed_epoch_index_and_view():
    class Set:
        labels = torch.zeros(3, dtype=torch.int64)

        def image(self, index):
            return scene(3, 24)[index]

    def get(seed, epoch, index):
        return ViewImages(Set(), view_transforms(ViewAugment("moco-v2"), 24), seed)[epoch, index]

    torch.manual_seed(9)
    (view_q, view_k), index = get(0, 0, 2)
    torch.manual_seed(10)
    again, _ = get(0, 0, 2)
    assert index == 2
    assert torch.equal(view_q, again[0])
    assert torch.equal(view_k, again[1])
    others = [view_k, get(0, 1, 2)[0][0], get(1, 0, 2)[0][0], get(0, 0, 1)[0][0]]
    assert all(not torch.equal(view_q, other) for other in others)


def test_options_change_the_recipe():
    recipe = ViewAugment("simclr", strength=0.5, min_scale=0.3).recipe(0)
    assert recipe.jitter == (0.4, 0.4, 0.4, 0.1)
    assert recipe.scale == (0.3, 1.0)
    swav = ViewAugment("swav", min_scale=0.25, small_crops=3, small_size=20)
    assert [swav.recipe(view).scale for view in (0, 1, 2)] == [(0.25, 1.0), (0.25, 1.0), (0.05, 0.25)]
    assert (swav.count, [swav.size(view, 32) for view in range(5)]) == (5, [32, 32, 20, 20, 20])
    assert ViewAugment("swav", small_crops=0).count == ViewAugment("cifar").count == 2
    assert [ViewAugment("swav").size(2, size) for size in (224, 96, 32)] == [96, 48, 16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "moco"}, "kind must be one of moco-v1, moco-v2, simclr, byol, cifar, swav; got 'moco'"),
        ({"min_scale": 0.0}, r"min_scale of moco-v2 must be in \(0, 1\], got 0.0"),
        ({"kind": "swav", "min_scale": 0.05}, r"min_scale of swav must be in \(0.05, 1\], got 0.05"),
        ({"kind": "simclr", "strength": 3.0}, r"strength of simclr must be in \[0, 2.5\].* got 3.0"),
        ({"strength": -1.0}, r"strength of moco-v2 must be in \[0, 5\]"),
        ({"kind": "byol", "small_crops": 2}, "small_crops and small_size belong to swav, not to 'byol'; leave them"),
        ({"kind": "swav", "small_size": 1}, r"small_size must be a whole number in \[2, 2\^31\), got 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViewAugment(**options)


def test_a_split_is_kept_at_its_own_size_or_an_eighth_larger_than_the_crops():
    assert [ov.view_stored_size(*sizes) for sizes in ((32, 32), (96, 64), (96, 500), (224, None))] == [32, 64, 110, 256]


@pytest.mark.parametrize("originals", [None, scene(3, 12).float() / 255])
def test_view_grid_paints_a_png(tmp_path, originals):
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    view_q, view_k = (normalize(scene(3, 8, seed), mean, std) for seed in (1, 2))
    view_grid(tmp_path / "views.png", view_q, view_k, lambda x: denormalize(x, mean, std), originals)
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.height > (150 if originals is None else 250)
        assert len(picture.convert("RGB").getcolors(10**6)) > 100
