"""Attacks, corruptions and occlusion: each on a case with a known answer."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from analysis_cases import untouched
from PIL import Image
from tiny_networks import PlainNet, tiny_cnn, tiny_vit
from torch import nn

from samix.analysis.corruptions import CORRUPTIONS, corrupt
from samix.analysis.filters import plasma
from samix.analysis.occlusion import cell_saliency, drop_patches, occlusion_curve
from samix.analysis.passes import predictor
from samix.analysis.robustness import attack_curve, corruption_table, fgsm, gradient_sign, pgd
from samix.data import denormalize, normalize

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


# FGSM -----------------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """Two classes, logits (0, w . x + b) of normalised images."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.tensor(bias))

    def forward(self, x):
        score = (x * self.weight).sum((1, 2, 3)) + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


def test_fgsm_flips_a_linear_classifier_just_where_the_margin_ends():
    """In pixels the slope of channel c is w / std_c, so the step that reaches the margin m is m / sum |w / std|."""
    weight = torch.randn(3, 4, 4)
    per_pixel = weight / torch.tensor(STD)[:, None, None]
    pixels = torch.full((1, 3, 4, 4), 0.5)
    margin = 0.05 * float(per_pixel.abs().sum())  # eps = 0.05 of a pixel
    model = Linear(weight)
    with torch.no_grad():
        model.bias += margin - (normalize(pixels, MEAN, STD) * weight).sum()
    given = (model, normalize(pixels, MEAN, STD), torch.tensor([1]), (0.0, 0.0499, 0.0501, 0.2), MEAN, STD)
    assert attack_curve(*given).accuracy == (100.0, 100.0, 0.0, 0.0)


def test_fgsm_moves_each_pixel_by_epsilon_and_stays_in_range():
    x = normalize(torch.rand(5, 3, 6, 6), MEAN, STD)
    sign = torch.randn(5, 3, 6, 6).sign()
    before, after = (denormalize(v, MEAN, STD) for v in (x, fgsm(x, sign, 8 / 255, MEAN, STD)))
    assert torch.allclose(after, (before + 8 / 255 * sign).clamp(0, 1), atol=1e-6)
    assert torch.equal(fgsm(x, sign, 0.0, MEAN, STD), x)


def test_the_sign_is_that_of_the_true_labels_loss():
    model, x = PlainNet(norm=False), torch.randn(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 3])
    x64, net = x.double(), model.double()
    sign = gradient_sign(net, x64, labels, batch_size=3)

    def loss(v):
        return nn.functional.cross_entropy(net(v), labels, reduction="none").detach()

    for at in [(0, 1, 2), (2, 7, 5)]:
        step = torch.zeros_like(x64)
        step[(slice(None), *at)] = 1e-6
        slope = loss(x64 + step) - loss(x64 - step)
        assert torch.equal(slope.sign().float(), sign[(slice(None), *at)])


def test_attacks_leave_the_network_as_it_was():
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4)
    network = tiny_cnn()
    untouched(network, lambda: attack_curve(network, x, y, (0.0, 0.1), MEAN, STD, batch_size=3))
    untouched(network, lambda: attack_curve(network, x, y, (0.0, 0.1), MEAN, STD, 3, pgd_steps=2))


def test_pgd_on_a_linear_classifier_ends_where_fgsm_does():
    """Its gradient is the same everywhere, so enough steps lead to the corner of the box, cut to [0, 1]."""
    model, x, labels = Linear(torch.randn(3, 5, 4)), normalize(torch.rand(4, 3, 5, 4), MEAN, STD), torch.arange(4) % 2
    corner = fgsm(x, gradient_sign(model, x, labels), 0.1, MEAN, STD)
    for seed in (0, 1):
        found = pgd(model, x, labels, 0.1, MEAN, STD, steps=8, step=0.025, seed=seed)  # 8 x 0.025 is the box's width
        torch.testing.assert_close(found, corner)
    short = denormalize(pgd(model, x, labels, 0.1, MEAN, STD, steps=1, step=0.01), MEAN, STD)
    start = denormalize(pgd(model, x, labels, 0.1, MEAN, STD, steps=1, step=0.0), MEAN, STD)
    sign = (denormalize(corner, MEAN, STD) - denormalize(x, MEAN, STD)).sign()
    low, high = (denormalize(x, MEAN, STD) + s * 0.1 for s in (-1, 1))
    wanted = torch.minimum(torch.maximum(start + 0.01 * sign, low.clamp(min=0)), high.clamp(max=1))
    torch.testing.assert_close(short, wanted)


class Valley(nn.Module):
    """Right of two classes wherever the pixels' mean is further than 0.02 from 0.54, whatever FGSM's long step does."""

    def forward(self, x):
        mean = denormalize(x, MEAN, STD).mean((1, 2, 3))
        score = 100.0 * ((mean - 0.54).abs() - 0.02)
        return torch.stack([torch.zeros_like(score), score], 1)


def test_pgd_finds_what_one_long_step_passes_over():
    x, labels = normalize(torch.full((3, 3, 4, 4), 0.5), MEAN, STD), torch.ones(3, dtype=torch.long)
    given = (Valley(), x, labels, (0.0, 0.1), MEAN, STD)
    assert attack_curve(*given).accuracy == (100.0, 100.0)
    assert attack_curve(*given, pgd_steps=20).accuracy == (100.0, 0.0)


def test_pgd_stays_within_epsilon_and_in_range_and_is_seeded():
    x, labels = normalize(torch.rand(3, 3, 8, 8), MEAN, STD), torch.arange(3)
    model = PlainNet(norm=False)
    found = pgd(model, x, labels, 0.05, MEAN, STD, steps=3, seed=1)
    before, after = (denormalize(v, MEAN, STD) for v in (x, found))
    assert (after - before).abs().max() <= 0.05 + 1e-6
    assert after.min() >= -1e-6
    assert after.max() <= 1 + 1e-6
    assert torch.equal(found, pgd(model, x, labels, 0.05, MEAN, STD, steps=3, seed=1))
    assert not torch.equal(found, pgd(model, x, labels, 0.05, MEAN, STD, steps=3, seed=2))
    assert torch.equal(pgd(model, x, labels, 0.0, MEAN, STD), x)


@pytest.mark.parametrize("wrong", [{"epsilon": -0.1}, {"epsilon": 0.1, "steps": 0}])
def test_pgd_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="steps at least 1"):
        pgd(PlainNet(), torch.rand(1, 3, 8, 8), torch.tensor([0]), mean=MEAN, std=STD, **wrong)


# Corruptions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_whole_levels_seeded_and_change_something(name):
    x = torch.rand(2, 3, 16, 12) if name != "elastic" else torch.rand(2, 3, 16, 16)
    kept = x.clone()
    found = [corrupt(x, name, severity, seed=1) for severity in (1, 3, 5)]
    assert torch.equal(x, kept)
    assert torch.equal(found[0], corrupt(x, name, 1, seed=1))
    for one in found:
        assert one.shape == x.shape
        assert one.min() >= 0
        assert one.max() <= 1
        assert torch.allclose(one * 255, (one * 255).round(), atol=1e-3)
        assert not torch.equal(one, (x * 255).round() / 255)


def test_noise_has_the_published_spread():
    x = torch.full((2, 3, 64, 64), 0.5)
    for severity, c in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        assert float(corrupt(x, "gaussian_noise", severity).std()) == pytest.approx(c, rel=0.05)
    for severity, c in enumerate((500, 250, 100, 75, 50), start=1):
        level = float((x[0, 0, 0, 0] * 255).round() / 255)
        assert float(corrupt(x, "shot_noise", severity).std()) == pytest.approx(math.sqrt(level / c), rel=0.05)
    hit = corrupt(x, "impulse_noise", 5)
    assert float(((hit == 0) | (hit == 1)).float().mean()) == pytest.approx(0.07, abs=0.01)
    assert float(corrupt(x, "speckle_noise", 5).std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_colours_change_as_in_hsv(name):
    levels = torch.randint(0, 256, (1, 3, 6, 6)).float() / 255
    levels[0, :, 0, 0] = 0.0  # black, grey and white are special
    levels[0, :, 0, 1] = 120 / 255
    levels[0, :, 0, 2] = 1.0
    for severity, c in enumerate(CORRUPTIONS[name][1], start=1):
        found = corrupt(levels, name, severity)[0]
        for y in range(6):
            for x in range(6):
                h, s, v = colorsys.rgb_to_hsv(*levels[0, :, y, x].tolist())
                if name == "brightness":
                    wanted = colorsys.hsv_to_rgb(h, s, min(v + c, 1.0))
                else:
                    wanted = colorsys.hsv_to_rgb(h, min(s * c[0] + c[1], 1.0), v)
                assert found[:, y, x].tolist() == pytest.approx(wanted, abs=1.01 / 255)


def test_contrast_keeps_the_mean_and_shrinks_the_spread():
    x = 0.3 + 0.4 * torch.rand(2, 3, 32, 32)
    found = corrupt(x, "contrast", 5)
    assert torch.allclose(found.mean((2, 3)), x.mean((2, 3)), atol=1 / 255)
    assert torch.allclose(found.std((2, 3)), 0.15 * x.std((2, 3)), atol=1 / 255)


def test_blurs_keep_flat_images_and_light():
    flat, point = torch.full((1, 3, 15, 15), 100 / 255), torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1.0
    for name in ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur"):
        assert (corrupt(flat, name, 5) - flat).abs().max() <= 1 / 255 + 1e-6
    for name in ("gaussian_blur", "defocus_blur", "motion_blur"):
        light = float(corrupt(point, name, 5)[0, 0].sum())
        assert light == pytest.approx(1.0, abs=0.1)  # rounded down at each pixel


def test_defocus_is_a_disk_of_nine_pixels_at_severity_five():
    point = torch.zeros(1, 3, 9, 9)
    point[..., 4, 4] = 1.0
    found = corrupt(point, "defocus_blur", 5)[0, 0]
    assert torch.equal(
        found > 0.05,
        torch.zeros(9, 9).index_put((torch.arange(3, 6)[:, None], torch.arange(3, 6)), torch.ones(3, 3)) > 0,
    )


def test_pixelate_and_jpeg_are_pils():
    x = torch.randint(0, 256, (1, 3, 32, 32)).float() / 255
    image = Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())
    small = image.resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    for name, wanted in (("pixelate", small), ("jpeg", Image.open(stream))):
        found = (corrupt(x, name, 5)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(found, np.asarray(wanted))


def test_fog_is_scaled_to_the_brightest_pixel():
    x = torch.full((3, 3, 32, 32), 0.8)
    found = corrupt(x, "fog", 3)
    top = float((x[0, 0, 0, 0] * 255).round() / 255)
    low = top * top / (top + 0.75)
    assert float(found.min()) == pytest.approx(low, abs=1.01 / 255)
    assert float(found.max()) == pytest.approx(top, abs=1.01 / 255)
    haze = plasma(16, 3.0, torch.Generator().manual_seed(0))
    assert (float(haze.min()), float(haze.max())) == (0.0, 1.0)


def test_a_corruption_table_of_a_network_that_sees_the_mean_only():
    """Class by brightness: contrast keeps means, so nothing is lost; brightness moves all over the border."""

    class ByMean(nn.Module):
        def forward(self, x):
            mean = denormalize(x, MEAN, STD).mean((1, 2, 3))
            return torch.stack([0.5 - mean, mean - 0.5], 1)

    x = torch.full((8, 3, 16, 16), 0.42)
    x[4:] = 0.6
    y = torch.arange(8) // 4
    found = corruption_table(ByMean(), normalize(x, MEAN, STD), y, MEAN, STD, ("contrast", "brightness"))
    assert found.clean == 100.0
    assert found.accuracy == ((100.0,) * 5, (100.0, 50.0, 50.0, 50.0, 50.0))
    assert found.mean == pytest.approx(80.0)


def test_the_benchmark_counts_15_corruptions_of_19():
    class BySpread(nn.Module):
        def forward(self, images):
            return torch.stack([images.std(dim=(1, 2, 3)), torch.full((len(images),), 0.3)], dim=1)

    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    table = corruption_table(BySpread(), x, y, (0.0,) * 3, (1.0,) * 3)
    rows = dict(zip(table.names, table.accuracy, strict=True))
    assert len(rows) == 19
    for extra in ("speckle_noise", "gaussian_blur", "saturate", "spatter"):
        del rows[extra]
    assert table.benchmark_mean == pytest.approx(sum(map(sum, rows.values())) / 75)
    assert corruption_table(BySpread(), x, y, (0.0,) * 3, (1.0,) * 3, ("fog",)).benchmark_mean is None


def test_unknown_corruptions_are_refused():
    with pytest.raises(ValueError, match="unknown corruption 'rain'; choose one of gaussian_noise"):
        corrupt(torch.rand(1, 3, 8, 8), "rain", 1)
    with pytest.raises(ValueError, match="severity must be 1 to 5, got 6"):
        corrupt(torch.rand(1, 3, 8, 8), "fog", 6)


# Occlusion ------------------------------------------------------------------------------------------------------------


class OneCell(nn.Module):
    """Class 1 if the cell at row 1, column 2 of a 4 x 4 grid is bright; dropped cells are 0, which is class 0."""

    def forward(self, x):
        height, width = x.shape[2] // 4, x.shape[3] // 4
        light = x[:, :, height : 2 * height, 2 * width : 3 * width].mean((1, 2, 3))
        return torch.stack([torch.full_like(light, 0.5), light], 1)


def test_an_occluded_planted_object_is_lost_just_then():
    x, y = torch.ones(400, 3, 8, 8), torch.ones(400, dtype=torch.long)
    guide = torch.zeros(400, 4, 4)
    guide[:, 1, 2] = 1.0
    shares = (0.0, 1 / 16, 0.5, 15 / 16, 1.0)
    found = occlusion_curve(predictor(OneCell()), x, y, guide, shares)
    assert found.salient == (100.0, 0.0, 0.0, 0.0, 0.0)
    assert found.non_salient == (100.0, 100.0, 100.0, 100.0, 0.0)
    assert found.random == pytest.approx(tuple(100 * (1 - share) for share in shares), abs=6)
    assert found.area == pytest.approx(sum(found.random) / 5)


def test_dropped_cells_are_zero_and_the_others_as_they_were():
    x, score = 1 + torch.rand(2, 3, 7, 10), torch.rand(2, 2, 3)
    found = drop_patches(x, score, 0.5)
    for row in range(2):
        order = score[row].flatten().argsort(descending=True)[:3].tolist()
        for y in range(7):
            for column in range(10):
                gone = (y * 2 // 7) * 3 + column * 3 // 10 in order
                wanted = torch.zeros(3) if gone else x[row, :, y, column]
                assert torch.equal(found[row, :, y, column], wanted)
    assert torch.equal(drop_patches(x, score, 0.0), x)


def test_salience_is_a_vits_attention_or_the_gradient():
    x, y = torch.randn(3, 3, 32, 32), torch.arange(3)
    maps, kind = cell_saliency(tiny_vit(), x, y, batch_size=2)
    assert (maps.shape, kind) == ((3, 4, 4), "attention")
    maps, kind = cell_saliency(tiny_cnn(), x, y, grid=8, batch_size=2)
    assert (maps.shape, kind) == ((3, 8, 8), "gradient")
    assert maps.min() >= 0
    for network in (tiny_vit(), tiny_cnn()):
        untouched(network, lambda network=network: cell_saliency(network, x, y))


def test_the_gradient_finds_the_cell_that_matters():
    x = torch.rand(4, 3, 16, 16)
    maps, _ = cell_saliency(OneCell(), x, torch.ones(4, dtype=torch.long), grid=4)
    assert maps.flatten(1).argmax(1).tolist() == [6] * 4
