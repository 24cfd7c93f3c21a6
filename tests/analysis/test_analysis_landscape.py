"""Information, landscape, t-SNE, masks and cost: each on a case with a known answer."""

import math

import pytest
import torch
import torch.nn.functional as F
from analysis_cases import untouched
from tiny_networks import randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.analysis.cost import network_cost, step_cost
from samix.analysis.information import image_pairs, information_curve, mutual_information
from samix.analysis.landscape import between, filter_direction, mixing_line, weight_line
from samix.analysis.masks import mask_history, mask_numbers
from samix.analysis.passes import predictor
from samix.analysis.tsne import feature_map
from samix.batch import Mixed, pair_batch
from samix.methods.supervised import Supervised
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import MixUp

# Information ----------------------------------------------------------------------------------------------------------


def gaussians(rho, dim, batch=256):
    def draw(generator):
        x, noise = (torch.randn(batch, dim, generator=generator) for _ in range(2))
        return x, rho * x + math.sqrt(1 - rho**2) * noise

    return draw


@pytest.mark.parametrize(("rho", "dim", "tolerance"), [(0.0, 1, 0.01), (0.5, 1, 0.03), (0.9, 1, 0.08), (0.6, 3, 0.1)])
def test_information_of_correlated_gaussians_is_the_closed_form(rho, dim, tolerance):
    """I = -dim / 2 log(1 - rho^2)."""
    pairs = gaussians(rho, dim)
    found = mutual_information(pairs, pairs, steps=250, width=48)
    assert found.nats == pytest.approx(-dim / 2 * math.log(1 - rho**2), abs=tolerance)
    assert len(found.trained) == 10


def test_learning_pairs_by_heart_does_not_raise_the_bound():
    x, y = torch.randn(40, 3), torch.randn(40, 3)

    def train(generator):
        return (x, y)

    found = mutual_information(train, gaussians(0.0, 3), steps=150, width=64, lr=3e-3)
    assert found.trained[-1] > 1.0
    assert found.nats < 0.05


def test_information_repeats_itself_and_leaves_the_random_state():
    state = torch.random.get_rng_state()
    first, second = (mutual_information(gaussians(0.7, 2), gaussians(0.7, 2), steps=20, seed=4) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_mixed_image_tells_more_of_the_larger_share():
    images = torch.rand(400, 3, 8, 8)
    partners = images.roll(1, 0)
    found = information_curve(
        lambda lam: (lam * images + (1 - lam) * partners, images, partners), (0.1, 0.9), side=2, steps=120
    )
    assert found.own[1] > found.own[0] + 0.5
    assert found.partner[0] > found.partner[1] + 0.5


def test_pairs_of_images_are_split_and_scaled():
    x = torch.rand(20, 1, 12, 12).repeat(1, 3, 1, 1)
    train, test = image_pairs(x, x + 1, side=4, batch_size=100)
    a, b = train(torch.Generator().manual_seed(0))
    c, _ = test(torch.Generator().manual_seed(0))
    assert (a.shape, c.shape) == ((16, 16), (4, 16))  # one channel of three equal ones
    assert torch.allclose(a, b, atol=1e-4)
    with pytest.raises(ValueError, match="need two sets of the same number of images, at least 10, got 9 and 9"):
        image_pairs(x[:9], x[:9])


# Landscape ------------------------------------------------------------------------------------------------------------


def test_the_mixing_line_of_a_logistic_classifier_is_the_closed_form():
    """Logits (0, s) with s from -2 at b to 3 at a: loss against 1 is log(1 + e^-s), against 0 log(1 + e^s)."""
    a, b = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), -2.0)

    def predict(x):
        return torch.cat([torch.zeros(len(x), 1), x.flatten(1)], 1)

    lams = (0.0, 0.25, 0.5, 1.0)
    found = mixing_line(predict, a, b, torch.ones(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), lams)
    for n, lam in enumerate(lams):
        s = lam * 3 - (1 - lam) * 2
        own, partner = math.log1p(math.exp(-s)), math.log1p(math.exp(s))
        entropy = -sum(p * math.log(p) for p in (lam, 1 - lam) if p > 0)
        assert found.own[n] == pytest.approx(own, rel=1e-5)
        assert found.partner[n] == pytest.approx(partner, rel=1e-5)
        assert found.mixed[n] == pytest.approx(lam * own + (1 - lam) * partner, rel=1e-5)
        assert found.excess[n] == pytest.approx(found.mixed[n] - entropy, abs=1e-5)


def test_a_proportional_classifier_has_no_excess_and_no_roughness():
    labels = torch.tensor([0, 1, 2])
    images = torch.eye(3)[labels][:, None, None]

    def predict(x):
        return (x[:, 0, 0] + 1e-9).log()

    lams = torch.linspace(0, 1, 11).tolist()
    found = mixing_line(predict, images, images.roll(1, 0), labels, labels.roll(1), lams)
    assert found.excess == pytest.approx([0.0] * 11, abs=1e-5)
    assert found.roughness == pytest.approx(0.0, abs=1e-5)


def test_the_line_between_two_networks_passes_through_both():
    first, second = (randomised(tiny_cnn()).eval() for _ in range(2))
    x, y = torch.randn(12, 3, 32, 32), torch.randint(5, (12,))
    step = between(first.state_dict(), second.state_dict())
    found = weight_line(first, first.state_dict(), step, (0.0, 0.5, 1.0), x, y, batch_size=5)
    for place, network in ((0, first), (2, second)):
        logits = predictor(network)(x)
        assert found.loss[place] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-4)
        assert found.accuracy[place] == pytest.approx(100 * float((logits.argmax(1) == y).float().mean()), abs=1e-3)
    middle = randomised(tiny_cnn()).eval()
    middle.load_state_dict({k: v + 0.5 * step[k] if k in step else v for k, v in first.state_dict().items()})
    assert found.loss[1] == pytest.approx(float(F.cross_entropy(predictor(middle)(x), y)), rel=1e-4)
    assert found.barrier == pytest.approx(max(found.loss[1] - (found.loss[0] + found.loss[2]) / 2, 0.0), abs=1e-5)
    assert found.rise == pytest.approx(sum(found.loss) / 3 - min(found.loss))
    untouched(first, lambda: weight_line(first, first.state_dict(), step, (0.0, 1.0), x, y))


def test_a_planted_barrier_is_found():
    """One weight w, logits (0, w): from +2 to -2 the loss of class 1 bends below the straight line, of |w| above."""

    class Bump(nn.Module):
        def __init__(self, w):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(w))

        def forward(self, x):
            score = self.w.abs() * torch.ones(len(x), 1)
            return torch.cat([torch.zeros(len(x), 1), score], 1)

    x, y = torch.zeros(3, 1, 1, 1), torch.ones(3, dtype=torch.long)
    step = between(Bump(2.0).state_dict(), Bump(-2.0).state_dict())
    found = weight_line(Bump(2.0), Bump(2.0).state_dict(), step, (0.0, 0.5, 1.0), x, y)
    assert found.barrier == pytest.approx(math.log(2) - math.log1p(math.exp(-2)), rel=1e-5)


def test_a_random_direction_has_the_length_of_each_filter():
    network = randomised(tiny_cnn())
    direction = filter_direction(network, seed=1)
    weights = {k: v for k, v in network.named_parameters() if v.dim() > 1}
    assert direction.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.allclose(direction[name].flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1), rtol=1e-4)
    again = filter_direction(network, seed=1)
    assert all(torch.equal(direction[name], again[name]) for name in direction)
    with pytest.raises(ValueError, match="weights of different networks"):
        between(network.state_dict(), tiny_vit().state_dict())


# t-SNE ----------------------------------------------------------------------------------------------------------------


def test_separated_classes_have_a_silhouette_near_one_and_mixed_ones_near_zero():
    labels = torch.arange(60) % 3
    apart = 20 * torch.eye(6)[labels] + 0.1 * torch.randn(60, 6)
    found = feature_map(apart, labels)
    assert found.silhouette > 0.95
    assert found.silhouette_map > 0.6
    assert found.points.shape == (60, 2)
    assert abs(feature_map(torch.randn(60, 6), labels).silhouette) < 0.1


def test_the_silhouette_is_the_definition():
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    unit = F.normalize(x, dim=1)
    distance = 1 - unit @ unit.T
    values = []
    for i in range(30):
        inside = distance[i][(y == y[i]) & (torch.arange(30) != i)].mean()
        outside = min(float(distance[i][y == c].mean()) for c in range(3) if c != int(y[i]))
        values.append((outside - float(inside)) / max(outside, float(inside)))
    assert feature_map(x, y).silhouette == pytest.approx(sum(values) / 30, abs=1e-4)


def test_tsne_repeats_itself_and_refuses_one_class():
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    assert torch.equal(feature_map(x, y, seed=3).points, feature_map(x, y, seed=3).points)
    with pytest.raises(ValueError, match="of 2 to N - 1 classes"):
        feature_map(x, torch.zeros(30, dtype=torch.long))


# Masks ----------------------------------------------------------------------------------------------------------------


def masked(make):
    """A mixup of eight images with planted masks."""
    images, index = torch.rand(8, 3, 10, 10), torch.arange(8).roll(1)

    def mix(lam):
        mask = make(lam).expand(8, 1, 10, 10)
        return pair_batch(Mixed(images, torch.full((8,), lam), mask), torch.arange(8), index)

    return mix


def test_constant_masks_follow_lambda_without_spread():
    found = mask_numbers(masked(lambda lam: torch.full((8, 1, 10, 10), lam)), (0.1, 0.5, 0.9))
    assert (found.spread, found.correlation, found.error) == pytest.approx((0.0, 1.0, 0.0), abs=1e-5)
    assert found.means == pytest.approx((0.1, 0.5, 0.9))


def test_half_masks_have_the_spread_of_a_coin_and_a_planted_error():
    half = torch.zeros(8, 1, 10, 10)
    half[..., :5] = 1.0
    found = mask_numbers(masked(lambda lam: half), (0.2, 0.5, 0.8))
    assert found.spread == pytest.approx(0.5 * math.sqrt(100 / 99), rel=1e-4)
    assert found.correlation == 0.0
    assert found.error == pytest.approx(0.2)
    reversed_ = mask_numbers(masked(lambda lam: torch.full((8, 1, 10, 10), 1 - lam)), (0.2, 0.8))
    assert (reversed_.correlation, reversed_.error) == pytest.approx((-1.0, 0.6), abs=1e-5)


def test_history_is_what_was_logged():
    rows = [
        {"epoch": 1, "mask_std": 0.1, "mask_error": 0.3},
        {"epoch": 2},
        {"epoch": 3, "mask_std": 0.2, "mask_error": 0.1},
    ]
    found = mask_history(rows)
    assert (found.epochs, found.spread, found.error) == ((1, 3), (0.1, 0.2), (0.3, 0.1))
    assert mask_history([{"epoch": 1}]).epochs == ()
    with pytest.raises(ValueError, match="gives no masks"):
        mask_numbers(lambda lam: None, (0.5,))


# Cost -----------------------------------------------------------------------------------------------------------------


def small_network():
    """A convolution of 3 x 3 from 3 to 4 channels on 8 x 8 pixels, and a linear layer from 4 to 5."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_operations_and_parameters_are_the_closed_form():
    found = network_cost(small_network(), torch.randn(6, 3, 8, 8), repeats=1)
    assert found.parameters == 3 * 4 * 9 + 4 + 4 * 5 + 5
    assert found.flops == 2 * (8 * 8 * 3 * 4 * 9) + 2 * 4 * 5
    assert found.batch_size == 6
    assert found.images_per_second > 0


def test_a_step_costs_the_pass_and_the_gradients():
    """Backward makes the gradient of each weight and of each input but the image: as much again, twice but for that."""
    method = Supervised(small_network(), MixUp(), num_classes=5)
    found = step_cost(method, torch.randn(6, 3, 8, 8), torch.arange(6) % 5, repeats=1)
    convolution, linear = 2 * (8 * 8 * 3 * 4 * 9), 2 * 4 * 5
    assert found.flops == 2 * convolution + 3 * linear
    assert found.peak_bytes == 0
    assert found.trained == 3 * 4 * 9 + 4 + 4 * 5 + 5


def test_measuring_leaves_everything_as_it_was():
    network = tiny_cnn()
    method = Supervised(network, CutMix(), num_classes=5)
    x, y, state = torch.randn(4, 3, 32, 32), torch.arange(4), method.mixup.generator.get_state()
    untouched(network, lambda: network_cost(network, x, repeats=1))
    untouched(method, lambda: step_cost(method, x, y, repeats=1))
    assert torch.equal(method.mixup.generator.get_state(), state)
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        network_cost(network, x, repeats=0)
