"""Frost, snow and spatter: known properties of each, and that a higher severity changes more."""

import numpy as np
import pytest
import torch

from samix.analysis.corruptions import CORRUPTIONS, corrupt
from samix.analysis.filters import canny, equalised
from samix.analysis.weather import ICE, ICE_MEAN, MUD, crystals, frost, snow, spatter, water

WEATHER = ("frost", "snow", "spatter")


def scenes(count=24, side=32):
    """Smooth colours with an edge, as photographs have."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 3, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(corners, (side, side), mode="bicubic", align_corners=True).clamp(0.05, 0.95)


def constants(name, severity):
    return CORRUPTIONS[name][1][severity - 1]


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_higher_severities_of_snow_and_of_each_liquid_change_more():
    x = scenes()
    for name, severities in (("snow", (1, 2, 3, 4, 5)), ("spatter", (1, 2, 3)), ("spatter", (4, 5))):
        change = [float((corrupt(x, name, severity) - x).square().mean()) for severity in severities]
        assert change == sorted(change)
        assert change[-1] > 1.3 * change[0]


def test_frost_hides_more_of_the_image_with_severity():
    """Its weights: the image's falls, the frost's grows; so the result has ever less to do with the image."""
    x = scenes()
    likeness = [likeness_of(corrupt(x, "frost", severity), x) for severity in (1, 2, 3, 4, 5)]
    assert likeness == sorted(likeness, reverse=True)


def likeness_of(a, b):
    pairs = zip(a.flatten(1), b.flatten(1), strict=True)
    return sum(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs) / len(a)


@pytest.mark.parametrize("name", WEATHER)
@pytest.mark.parametrize("size", [(32, 32), (7, 20), (64, 48)])
def test_weather_is_in_range_and_seeded_at_any_size(name, size):
    x = torch.rand(3, 3, *size)
    for severity in (1, 3, 5):
        found = corrupt(x, name, severity, seed=3)
        assert found.shape == x.shape
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert torch.equal(found, corrupt(x, name, severity, seed=3))
    assert not torch.equal(corrupt(x, name, 5, seed=3), corrupt(x, name, 5, seed=4))


def test_each_image_has_weather_of_its_own():
    x = torch.full((2, 3, 32, 32), 0.4)
    for name in WEATHER:
        first, second = corrupt(x, name, 5)
        assert not torch.equal(first, second)


# Frost ----------------------------------------------------------------------------------------------------------------


def test_frost_is_the_weighted_sum_with_bluish_crystals():
    x = scenes(3)
    ice = crystals(x, draws())
    torch.testing.assert_close(frost(x, constants("frost", 5), draws()), 0.75 * x + 0.45 * ice)
    red, green, blue = (ice[:, channel].mean() for channel in range(3))
    assert red < green < blue
    assert float(ice.mean()) == pytest.approx(ICE_MEAN * sum(ICE) / 3, rel=0.15)  # what is above 1 is cut
    assert float(ice.std()) > 0.15  # crystals, not a haze


# Snow -----------------------------------------------------------------------------------------------------------------


def test_snow_only_brightens_and_is_the_same_turned_upside_down_on_a_flat_image():
    x = torch.full((4, 3, 24, 24), 0.3)
    found = snow(x, constants("snow", 3), draws())
    assert float((found - x).min()) >= 0
    torch.testing.assert_close(found, found.rot90(2, (2, 3)))


def test_without_flakes_snow_pales_towards_grey_by_its_weight():
    x = scenes(2)
    none = (0.0, 0.0, 1.0, 0.6, 8, 3.0, 0.8)
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    torch.testing.assert_close(snow(x, none, draws()), 0.8 * x + 0.2 * torch.maximum(x, 1.5 * grey + 0.5))


def test_snow_falls_rather_than_drifts():
    """Flakes are drawn out along directions nearer to the vertical: neighbours above are more alike than beside."""
    x = torch.zeros(32, 3, 48, 48)
    fallen = snow(x, (0.1, 0.2, 1.0, 0.5, 10, 4.0, 1.0), draws())[:, 0]
    down = (fallen[:, 1:] - fallen[:, :-1]).abs().mean()
    across = (fallen[:, :, 1:] - fallen[:, :, :-1]).abs().mean()
    assert down < 0.9 * across


# Spatter --------------------------------------------------------------------------------------------------------------


def test_mud_covers_in_its_colour_and_leaves_the_rest():
    x = torch.full((8, 3, 32, 32), 1.0)
    found = spatter(x, constants("spatter", 5), draws())
    changed = (found != x).any(1)
    assert 0.005 < float(changed.float().mean()) < 0.3
    spots = found.permute(0, 2, 3, 1)[changed] * 255
    cover = (255 - spots) / (255 - torch.tensor(MUD))  # the same in all channels, and at least 0.8
    torch.testing.assert_close(cover[:, 0], cover[:, 2], rtol=0, atol=1e-3)
    assert float(cover.min()) >= 0.8 - 1e-4


def test_water_shines_turquoise_and_never_darkens():
    x = torch.zeros(8, 3, 32, 32)
    found = spatter(x, constants("spatter", 3), draws())
    assert float(found.min()) >= 0
    torch.testing.assert_close(found[:, 0] * 238, found[:, 1] * 175, rtol=0, atol=1e-3)
    assert torch.equal(found[:, 1], found[:, 2])
    assert float(found.amax()) == pytest.approx(0.5 * 238 / 255)
    assert 0.01 < float((found[:, 0] > 0).float().mean()) < 0.5


def test_without_liquid_there_is_no_water():
    assert float(water(np.zeros((16, 16), dtype=np.float32)).max()) == 0.0


# OpenCV's filters -----------------------------------------------------------------------------------------------------


def test_canny_finds_a_planted_square_and_no_weak_one():
    image = np.zeros((20, 20), dtype=np.uint8)
    image[5:15, 5:15] = 200
    edges = canny(image, 50, 150)
    rows, columns = edges.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 14, 4, 14)
    assert not edges[7:13, 7:13].any()
    assert not canny((image / 200 * 12).astype(np.uint8), 50, 150).any()  # steps of 12 have a strength of 48


def test_canny_follows_a_weak_edge_from_a_strong_one_only():
    image = np.zeros((12, 30), dtype=np.uint8)
    image[:, 15:] = np.linspace(20, 60, 12).astype(np.uint8)[:, None]  # strength 80 to 240 along one edge
    assert canny(image, 50, 150)[1:-1].any(axis=1).all()
    assert not canny(np.minimum(image, 35), 50, 150).any()


def test_levelling_a_histogram_spreads_it_from_0_to_255():
    image = np.array([[10, 10, 10, 10], [20, 20, 30, 40]], dtype=np.uint8)
    assert equalised(image).tolist() == [[0, 0, 0, 0], [128, 128, 191, 255]]
    flat = np.full((3, 3), 7, dtype=np.uint8)
    assert np.array_equal(equalised(flat), flat)
