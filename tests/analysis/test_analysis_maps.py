"""Grad-CAM, localisation, information, landscape, t-SNE, masks and cost: each on a case with a known answer."""

import math

import pytest
import torch
import torch.nn.functional as F
from analysis_cases import untouched
from PIL import Image
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.analysis.cam import grad_cam, mixed_cam
from samix.analysis.cost import network_cost, step_cost
from samix.analysis.information import image_pairs, information_curve, mutual_information
from samix.analysis.landscape import between, filter_direction, mixing_line, weight_line
from samix.analysis.localisation import (
    fitted_box,
    max_box_acc,
    overlap_of,
    plant,
    read_cub_boxes,
    read_tiny_boxes,
    region_box,
    shrink,
)
from samix.analysis.masks import mask_history, mask_numbers
from samix.analysis.passes import predictor
from samix.analysis.tsne import feature_map
from samix.batch import Mixed, pair_batch
from samix.data import Augment, FileImages
from samix.data.images import file_names
from samix.data.transforms import test_transform as fit_of
from samix.methods.supervised import Supervised
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import MixUp
from samix.mixups.saliency import class_activation


class Spots(nn.Module):
    """Class 0 sees red, class 1 green: a map of the two channels, averaged, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.body.weight.copy_(torch.eye(3)[:2, :, None, None])
            self.fc.weight.copy_(torch.eye(2))

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


# Grad-CAM -------------------------------------------------------------------------------------------------------------


def test_behind_mean_and_linear_layer_grad_cam_is_the_weighted_map():
    """d logit_c / d A_k is w_ck / (h w) everywhere."""
    network, x = randomised(PlainNet(norm=False)).eval(), torch.randn(3, 3, 24, 24)
    classes = torch.tensor([0, 4, 2])
    maps = network.late(network.body(network.stem(x))).detach()
    weight = network.fc.weight.detach()[classes]
    wanted = (weight[:, :, None, None] * maps).sum(1).clamp(min=0) / (maps.shape[2] * maps.shape[3])
    assert torch.allclose(grad_cam(network, x, classes, layer="late"), wanted, rtol=1e-4, atol=1e-6)


def test_grad_cam_finds_the_planted_spot_of_each_class():
    x = torch.zeros(1, 3, 8, 8)
    x[0, 0, 1, 2], x[0, 1, 6, 5] = 1.0, 1.0
    network = Spots()
    for label, place in ((0, 1 * 8 + 2), (1, 6 * 8 + 5)):
        cam = grad_cam(network, x, torch.tensor([label]), layer="body")
        assert int(cam.flatten().argmax()) == place
        assert int((cam > 0).sum()) == 1


def test_a_class_sees_its_own_pixels_of_a_mixed_image():
    """Red images with green ones in a box: each class's whole map lies on its own pixels."""
    x = torch.zeros(2, 3, 8, 8)
    x[0, 0], x[1, 1] = 1.0, 1.0
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :3] = 1.0
    batch = pair_batch(
        Mixed(torch.where(mask.bool(), x, x.flip(0)), mask.mean((1, 2, 3)), mask), torch.arange(2), torch.tensor([1, 0])
    )
    found = mixed_cam(Spots(), batch, "body")
    assert found.inside == pytest.approx(1.0)
    assert found.chance == pytest.approx(0.5)
    flat = mixed_cam(
        Spots(), pair_batch(Mixed(torch.ones(2, 3, 8, 8), batch.lam, mask), torch.arange(2), batch.index[:, 1]), "body"
    )
    assert flat.inside == pytest.approx(flat.chance)


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_grad_cam_of_timm_networks(make):
    network, x = make(), torch.randn(2, 3, 32, 32)
    cam = grad_cam(network, x, torch.tensor([1, 3]))
    assert cam.shape == ((2, 4, 4) if make is tiny_vit else (2, 1, 1))
    assert cam.min() >= 0
    untouched(network, lambda: grad_cam(network, x, torch.tensor([1, 3])))


def test_the_patches_of_a_vit_have_a_gradient():
    network = randomised(tiny_vit(), std=0.1)
    cams = [grad_cam(network, torch.randn(2, 3, 32, 32), torch.full((2,), label)) for label in range(5)]
    assert torch.stack(cams).amax((0, 2, 3)).min() > 0


# Localisation ---------------------------------------------------------------------------------------------------------


def boxed(box, size=(20, 30), value=1.0):
    found = torch.zeros(size)
    found[box[1] : box[3], box[0] : box[2]] = value
    return found


def test_maps_that_are_the_boxes_find_all_objects():
    boxes = torch.tensor([[2, 3, 9, 15], [10, 0, 30, 20], [0, 0, 5, 5]])
    maps = torch.stack([boxed(box.tolist()) for box in boxes])
    found = max_box_acc(maps, boxes, (20, 30), steps=10)
    assert found.max_box_acc == (100.0, 100.0, 100.0)
    assert found.thresholds == pytest.approx([n / 10 for n in range(10)])
    areas = [7 * 12 / 600, 20 * 20 / 600, 25 / 600]
    assert found.whole == pytest.approx([100 * sum(a >= o for a in areas) / 3 for o in (0.3, 0.5, 0.7)])


def test_a_planted_overlap_counts_up_to_its_size():
    """10 x 10 boxes moved by 4: IoU = 60 / 140 = 0.43."""
    found = max_box_acc(boxed((4, 0, 14, 10))[None], torch.tensor([[0, 0, 10, 10]]), (20, 30))
    assert found.max_box_acc == (100.0, 0.0, 0.0)


def test_the_best_threshold_cuts_what_does_not_belong_to_the_object():
    """An object at 1 with surroundings at 0.6: only thresholds above 0.6 find it."""
    maps = torch.maximum(boxed((5, 5, 15, 15)), boxed((0, 0, 28, 20), value=0.6))[None]
    found = max_box_acc(maps, torch.tensor([[5, 5, 15, 15]]), (20, 30), steps=20)
    assert [value == 100.0 for value in found.accuracy[1]] == [t >= 0.6 for t in found.thresholds]


def test_the_largest_region_counts_and_corners_join():
    values = boxed((0, 0, 3, 3)) + boxed((10, 10, 14, 14)) + boxed((14, 14, 16, 16))
    assert region_box(values.numpy(), 0.5) == (10, 10, 16, 16)
    assert region_box(values.numpy(), 1.0) == (0, 0, 0, 0)


def test_of_several_boxes_the_best_met_counts():
    found = torch.tensor([[[0.0, 0, 10, 10]]])
    boxes = torch.tensor([[[20.0, 20, 30, 30], [0, 0, 10, 5], [3, 3, 3, 3]]])
    assert float(overlap_of(found, boxes)) == pytest.approx(0.5)


def test_a_planted_object_is_found_by_the_class_activation_map():
    """A network that sees red, and red squares on black canvases."""
    objects = torch.zeros(12, 3, 8, 8)
    objects[:, 0] = 1.0
    images, boxes = plant(objects, torch.Generator().manual_seed(0))
    images = torch.zeros_like(images)
    for image, (x0, y0, x1, y1) in zip(images, boxes.int().tolist(), strict=True):
        image[0, y0:y1, x0:x1] = 1.0
    maps = class_activation(Spots(), images, torch.zeros(12, dtype=torch.long), feature="body")
    assert max_box_acc(maps, boxes, (16, 16)).max_box_acc == (100.0, 100.0, 100.0)


def test_planting_keeps_the_image_in_its_box():
    x = torch.rand(5, 3, 6, 8)
    canvas, boxes = plant(x, torch.Generator().manual_seed(1))
    assert canvas.shape == (5, 3, 12, 16)
    for image, large, (x0, y0, x1, y1) in zip(x, canvas, boxes.int().tolist(), strict=True):
        assert torch.equal(large[:, y0:y1, x0:x1], image)
        rim = torch.cat([image[:, 0], image[:, -1], image[:, 1:-1, 0], image[:, 1:-1, -1]], 1).mean(1)
        corner = large[:, -1 if y0 == 0 else 0, -1 if x0 == 0 else 0]
        assert torch.allclose(corner, rim, atol=1e-6)
    small, halves = shrink(canvas, boxes)
    assert small.shape == x.shape
    assert torch.equal(halves * 2, boxes)


def test_boxes_of_tiny_imagenet_and_cub(tmp_path):
    tiny = tmp_path / "tiny-imagenet-200" / "val"
    tiny.mkdir(parents=True)
    (tiny / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t32\t44\t62\nval_1.JPEG\tn02\t5\t5\t5\t9\n")
    wanted = {"val_0.JPEG": (0, 32, 45, 63), "val_1.JPEG": (5, 5, 6, 10)}
    assert read_tiny_boxes(tmp_path) == read_tiny_boxes(tiny.parent) == wanted
    (tmp_path / "images.txt").write_text("1 001.A/a.jpg\n2 002.B/b.jpg\n")
    (tmp_path / "bounding_boxes.txt").write_text("1 60.0 27.0 325.0 304.0\n2 1.0 2.0 3.0 4.0\n")
    assert read_cub_boxes(tmp_path) == {"001.A/a.jpg": (60, 27, 385, 331), "002.B/b.jpg": (1, 2, 4, 6)}
    (tiny / "val_annotations.txt").write_text("val_0.JPEG n01 0 32 44 62\n")
    with pytest.raises(ValueError, match="expected file, class, x0, y0, x1, y1 with tabs between"):
        read_tiny_boxes(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"val_annotations\.txt is missing"):
        read_tiny_boxes(tmp_path / "elsewhere")


@pytest.mark.parametrize(("width", "height", "size"), [(64, 64, 64), (90, 60, 32), (50, 81, 40)])
def test_boxes_move_as_the_test_transform_moves_pixels(tmp_path, width, height, size):
    box = (width // 2, height // 3, width // 2 + 12, height // 3 + 20)
    pixels = torch.zeros(height, width, 3, dtype=torch.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    fit = fit_of(Augment("resized-crop"), size)
    files = FileImages(tmp_path, file_names(["a.png"]), torch.zeros(1, dtype=torch.long))
    seen = region_box((fit(files.image(0))[0].float() / 255).numpy(), 0.5)
    assert fitted_box(box, files.path(0), fit.size, fit.short) == pytest.approx(seen, abs=1.0)


def test_localisation_refuses_images_without_a_box():
    with pytest.raises(ValueError, match="each image needs a box of some area"):
        max_box_acc(torch.rand(1, 4, 4), torch.tensor([[3, 3, 3, 9]]), (8, 8))


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
