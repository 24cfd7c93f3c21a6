"""Saliency maps against their loops and closed forms, and OpenCV where it is installed; what they leave alone."""

import copy

import numpy as np
import oracles_salient as oracle
import pytest
import timm
import torch
import torch.nn.functional as F
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.mixups.saliency import (
    activation_map,
    as_pixels,
    class_activation,
    fine_grained,
    gradient_saliency,
    spectral_residual,
)

DETECTORS = {
    "spectral": spectral_residual,
    "guided": lambda *a: spectral_residual(*a, size=128, style="guidedmixup"),
    "fine": fine_grained,
}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
every_detector = pytest.mark.parametrize("detect", DETECTORS.values(), ids=DETECTORS)


def grey_levels(size, seed=0):
    """Whole grey levels with something in them: smooth noise, and a bright square."""
    rng = np.random.default_rng(seed)
    levels = oracle.resized(rng.uniform(0, 120, (5, 6)), size) + rng.uniform(0, 20, size)
    levels[size[0] // 2 : size[0] // 2 + 3, 2:5] = 250
    return np.floor(levels)


def as_images(*levels):
    """Grey levels as images (B, 1, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(levels)).float().unsqueeze(1) / 255


# Pixels --------------------------------------------------------------------------------------------------------------


def test_as_pixels_undoes_the_normalisation_and_clamps():
    pixels = torch.rand(4, 3, 5, 6)
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    torch.testing.assert_close(as_pixels((pixels - mean) / std, MEAN, STD), pixels)
    assert as_pixels(torch.full((1, 3, 2, 2), 100.0), MEAN, STD).unique().tolist() == [1.0]


def test_as_pixels_without_statistics_scales_each_image_by_its_own_range():
    images = torch.randn(3, 2, 4, 5) * 7 + 3
    images[2] = 4.0
    pixels = as_pixels(images)
    for row, image in zip(pixels[:2], images[:2], strict=True):
        torch.testing.assert_close(row, (image - image.min()) / (image.max() - image.min()))
    assert pixels[2].unique().tolist() == [0.5]


@pytest.mark.parametrize("given", [(MEAN, None), (None, STD), (MEAN[:2], STD[:2])])
def test_as_pixels_refuses_half_or_other_statistics(given):
    with pytest.raises(ValueError, match="3 channels"):
        as_pixels(torch.rand(1, 3, 4, 4), *given)


@pytest.mark.parametrize(  # ratios whose weights are exact, so that no grey level is rounded otherwise
    ("style", "shape", "size"),
    [
        ("opencv", (32, 40), 16),
        ("opencv", (24, 40), 32),
        ("opencv", (16, 24), 32),
        ("guidedmixup", (24, 40), 64),
        ("guidedmixup", (32, 40), 20),
    ],
)
def test_spectral_residual_is_its_loop(style, shape, size):
    levels = [grey_levels(shape, seed) for seed in range(2)]
    maps = spectral_residual(as_images(*levels), (0,), (1,), size=size, style=style)
    for found, level in zip(maps, levels, strict=True):
        expected = oracle.spectral_residual(level, size, style)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(24, 40), (33, 17), (7, 7)])
def test_fine_grained_is_its_loop(shape):
    levels = [grey_levels(shape, seed) for seed in range(2)]
    maps = fine_grained(as_images(*levels), (0,), (1,))
    for found, level in zip(maps, levels, strict=True):
        np.testing.assert_allclose(found.numpy(), oracle.fine_grained(level), atol=1e-5)


@every_detector
def test_three_channels_are_taken_as_red_green_blue(detect):
    pixels = torch.rand(2, 3, 24, 40)
    grey = 0.299 * pixels[:, 0] + 0.587 * pixels[:, 1] + 0.114 * pixels[:, 2]
    torch.testing.assert_close(detect(pixels, (0, 0, 0), (1, 1, 1)), detect(grey.unsqueeze(1), (0,), (1,)))
    swapped = detect(pixels.flip(1), (0, 0, 0), (1, 1, 1))
    assert not torch.allclose(swapped, detect(pixels, (0, 0, 0), (1, 1, 1)), atol=1e-3)


@every_detector
def test_normalised_images_give_the_map_of_their_pixels(detect):
    pixels = (torch.rand(2, 3, 24, 40) * 255).floor() / 255
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    normalised = detect((pixels - mean) / std, MEAN, STD)
    assert (normalised - detect(pixels, (0, 0, 0), (1, 1, 1))).abs().mean() < 1e-3


@every_detector
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (33, 17), (7, 7), (1, 5)], ids=str)
def test_maps_are_between_zero_and_one_with_largest_one(detect, size):
    for channels, dtype in ((1, torch.float32), (3, torch.bfloat16), (5, torch.float16), (2, torch.float64)):
        maps = detect(torch.randn(3, channels, *size).to(dtype))
        assert maps.shape == (3, *size)
        assert maps.dtype == torch.float32
        assert maps.min() >= 0
        torch.testing.assert_close(maps.amax((1, 2)), torch.ones(3))


@every_detector
def test_each_map_depends_on_its_own_image_alone_and_a_flat_image_is_salient_everywhere(detect):
    images = torch.randn(4, 3, 24, 40)
    images[2] = 1.5
    before = images.clone()
    maps = detect(images)
    assert torch.equal(images, before)
    assert torch.equal(maps[2], torch.ones(24, 40))
    for row in (0, 3):
        torch.testing.assert_close(maps[row], detect(images[row : row + 1])[0], atol=1e-4, rtol=0)


@every_detector
def test_pixels_that_are_not_finite_spoil_no_map(detect):
    images = torch.rand(2, 3, 16, 16)
    images[0, 1, 3, 4], images[1, 0, 0, 0] = torch.nan, torch.inf
    assert detect(images).isfinite().all()
    assert detect(images).amin() < 1


def test_a_lone_disc_is_where_the_map_is_largest():
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    disc = (rows - 30) ** 2 + (columns - 12) ** 2 <= 16
    images = (torch.rand(1, 3, 48, 64) * 0.1 + 0.9 * disc).clamp(max=1)
    assert disc.flatten()[fine_grained(images).argmax()]
    near = (rows - 30) ** 2 + (columns - 12) ** 2 <= 36
    assert near.flatten()[spectral_residual(images).argmax()]


def test_detectors_are_not_lowered_by_autocast():
    images = torch.rand(2, 3, 24, 24)
    plain = [detect(images) for detect in DETECTORS.values()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for detect, expected in zip(DETECTORS.values(), plain, strict=True):
            assert torch.equal(detect(images), expected)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"style": "other"}])
def test_spectral_residual_refuses_other_options(wrong):
    with pytest.raises(ValueError, match="style opencv or guidedmixup"):
        spectral_residual(torch.rand(1, 3, 8, 8), **wrong)


@pytest.mark.parametrize("size", [(224, 224), (32, 32), (96, 128)])
def test_detectors_agree_with_opencv(size):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "saliency"):
        pytest.skip("this OpenCV comes without its saliency module")
    level = np.stack([grey_levels(size, seed) for seed in range(3)], axis=2)  # red, green, blue
    image = np.ascontiguousarray(level[..., ::-1].astype(np.uint8))  # OpenCV's order
    ours = torch.from_numpy(level).permute(2, 0, 1).unsqueeze(0).float() / 255
    theirs = {
        spectral_residual: cv2.saliency.StaticSaliencySpectralResidual_create(),
        fine_grained: cv2.saliency.StaticSaliencyFineGrained_create(),
    }
    for detect, detector in theirs.items():
        expected = detector.computeSaliency(image)[1]
        found = detect(ours, (0, 0, 0), (1, 1, 1))[0].numpy()
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


# Gradients -----------------------------------------------------------------------------------------------------------


def linear_net(shape=(2, 3, 4), classes=5, scale=0.3):
    net = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    nn.init.normal_(net[1].weight, std=scale)
    return net


def test_gradient_saliency_of_a_linear_network_is_known():
    net, x, labels = linear_net(), torch.randn(6, 2, 3, 4), torch.arange(6) % 5
    found = gradient_saliency(net, x, labels)
    for i in range(6):
        error = torch.softmax(net(x[i : i + 1])[0], 0) - F.one_hot(labels[i], 5)
        gradient = (net[1].weight * error.unsqueeze(1)).sum(0).view(2, 3, 4)
        torch.testing.assert_close(found[i], ((gradient[0] ** 2 + gradient[1] ** 2) / 2).sqrt())


def test_gradient_saliency_takes_targets_and_does_not_hang_on_the_batch():
    net, x, labels = PlainNet(), torch.randn(4, 3, 16, 24), torch.arange(4)
    found = gradient_saliency(net, x, labels)
    assert found.shape == (4, 16, 24)
    torch.testing.assert_close(gradient_saliency(net, x, F.one_hot(labels, 5).float()), found)
    torch.testing.assert_close(gradient_saliency(net, x[1:2], labels[1:2])[0], found[1])
    assert torch.equal(gradient_saliency(net, x, labels.int()), found)


def test_gradient_saliency_takes_class_ids_at_each_pixel():
    net = nn.Conv2d(3, 5, 1)
    found = gradient_saliency(net, torch.randn(2, 3, 6, 7), torch.randint(5, (2, 6, 7)))
    assert found.shape == (2, 6, 7)
    assert found.min() > 0


def test_gradient_saliency_works_where_gradients_are_off():
    net, x, labels = PlainNet(), torch.randn(3, 3, 16, 16), torch.arange(3)
    expected = gradient_saliency(net, x, labels)
    with torch.no_grad():
        assert torch.equal(gradient_saliency(net, x, labels), expected)
    with torch.inference_mode():
        assert torch.equal(gradient_saliency(net, x.clone(), labels.clone()), expected)
    assert not gradient_saliency(net, x.requires_grad_(), labels).requires_grad
    assert x.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_saliency_works_under_autocast(dtype):
    net, x, labels = tiny_cnn(), torch.randn(3, 3, 32, 32), torch.arange(3)
    expected = gradient_saliency(net, x, labels)
    with torch.autocast("cpu", dtype=dtype):
        found = gradient_saliency(net, x, labels)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.98


def test_small_gradients_do_not_vanish_in_half_precision():
    net, x = linear_net(scale=1e-3), torch.randn(2, 2, 3, 4)
    nn.init.constant_(net[1].bias, 0.0)
    net[1].bias.data[0] = 14.0  # sure of class 0: the error is about 1e-6
    labels = torch.zeros(2, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.float16):
        assert (gradient_saliency(net, x, labels) > 0).float().mean() > 0.5


def test_gradients_that_are_not_finite_count_as_zero():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt().flatten(1)[:, :4]

    x = torch.rand(2, 1, 2, 4) + 0.5
    x[0, 0, 0, 1] = 0.0  # the slope of the root there is infinite
    found = gradient_saliency(Root(), x, torch.tensor([0, 1]))
    assert found[0, 0, 1] == 0
    assert found.isfinite().all()
    assert found[0, 0, 0] > 0


def test_gradient_saliency_raises_for_values_and_for_labels_out_of_range():
    net, x = PlainNet(), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"do not fit logits .*train on batch.values"):
        gradient_saliency(net, x, torch.rand(2))
    with pytest.raises(ValueError, match="do not fit logits"):
        gradient_saliency(net, x, torch.tensor([0, 5]))


def test_maps_of_a_network_in_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        net, x, labels = tiny_cnn(), torch.randn(3, 3, 32, 32), torch.arange(3)
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert torch.equal(gradient_saliency(wrapped, x, labels), gradient_saliency(net, x, labels))
        assert torch.equal(class_activation(wrapped, x, labels), class_activation(net, x, labels))
    finally:
        torch.distributed.destroy_process_group()


# Activations ---------------------------------------------------------------------------------------------------------


def expected_cam(features, weight, labels):
    """Of features (B, D, h, w), in plain loops over rows."""
    maps = []
    for row, label in zip(features, labels, strict=True):
        cam = sum(weight[label, d] * row[d].clamp(min=0) for d in range(len(row)))
        maps.append(cam - cam.min())
    return torch.stack(maps)


def test_class_activation_weighs_the_last_map_as_the_classifier_does():
    x, labels = torch.randn(4, 3, 64, 96), torch.tensor([1, 0, 4, 1])
    net = randomised(tiny_cnn()).train()
    with torch.no_grad():
        features = copy.deepcopy(net).eval().forward_features(x)
    found = class_activation(net, x, labels)
    assert found.shape == (4, 2, 3)
    torch.testing.assert_close(found, expected_cam(features, net.fc.weight.detach(), labels), atol=1e-4, rtol=1e-4)


def test_class_activation_of_any_network_by_the_names_of_its_layers():
    x, labels = torch.randn(4, 3, 32, 48), torch.tensor([1, 0, 4, 1])
    net = randomised(PlainNet()).eval()
    with torch.no_grad():
        features = net.late(net.body(net.stem(x)))
    expected = expected_cam(features, net.fc.weight.detach(), labels)
    for names in ({"feature": "late"}, {"feature": "late", "classifier": "fc"}):
        torch.testing.assert_close(class_activation(net, x, labels, **names), expected, atol=1e-5, rtol=1e-4)
    targets = F.one_hot(labels, 5).float()
    torch.testing.assert_close(class_activation(net, x, targets, feature="late"), expected, atol=1e-5, rtol=1e-4)


def test_class_activation_counts_what_is_active_alone():
    x, labels = torch.randn(4, 3, 32, 48), torch.tensor([1, 0, 4, 1])
    net = randomised(PlainNet()).eval()
    with torch.no_grad():
        features = net.late[0](net.body(net.stem(x)))  # before its ReLU
    assert (features < 0).any()
    expected = expected_cam(features, net.fc.weight.detach(), labels)
    torch.testing.assert_close(class_activation(net, x, labels, feature="late.0"), expected, atol=1e-4, rtol=1e-4)


def test_activation_map_is_the_mean_over_channels():
    x = torch.randn(3, 3, 32, 48)
    net = randomised(PlainNet()).eval()
    with torch.no_grad():
        features = net.body[:2](net.stem(x))
    torch.testing.assert_close(activation_map(net, x, feature="body.1"), features.mean(1))
    torch.testing.assert_close(activation_map(net, x, feature="body.1", absolute=True), features.abs().mean(1))
    assert (activation_map(net, x, feature="body.1") < 0).any()


def test_the_tokens_of_a_vit_are_put_back_in_place():
    x, net = torch.randn(2, 3, 32, 48), tiny_vit(img_size=(32, 48)).eval()
    with torch.no_grad():
        tokens = net.forward_features(x)[:, 1:]
    expected = tokens.mean(2).view(2, 4, 6)
    torch.testing.assert_close(activation_map(net, x), expected, atol=1e-6, rtol=1e-5)
    assert class_activation(net, x, torch.tensor([0, 1])).shape == (2, 4, 6)


def test_maps_with_channels_last_are_turned():
    options = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    net = timm.models.swin_transformer.SwinTransformer(num_classes=5, **options).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        last = net.forward_features(x)  # (B, h, w, D)
    torch.testing.assert_close(activation_map(net, x), last.mean(3), atol=1e-6, rtol=1e-5)
    assert class_activation(net, x, torch.tensor([0, 1])).shape == last.shape[:3]


def test_layers_that_are_not_there_or_do_not_fit_are_named():
    x, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="not a timm network"):
        activation_map(PlainNet(), x)
    with pytest.raises(ValueError, match="'nowhere' is not in the network"):
        activation_map(PlainNet(), x, feature="nowhere")
    with pytest.raises(ValueError, match="12 channels, the classifier takes 16"):
        class_activation(PlainNet(), x, labels, feature="body", classifier="fc")
    with pytest.raises(ValueError, match=r"must be (one|an) nn\.Linear"):
        class_activation(PlainNet(), x, labels, feature="late", classifier="stem")
    with pytest.raises(ValueError, match=r"must be one nn\.Linear, got Identity"):
        class_activation(tiny_cnn(num_classes=0), x, labels)


# No trace ------------------------------------------------------------------------------------------------------------

PASSES = {
    "gradient": gradient_saliency,
    "cam": class_activation,
    "activation": lambda net, x, labels: activation_map(net, x),
}


class Nervous(nn.Module):
    """A timm network with dropout that may raise at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_cnn(drop_rate=0.5)
        self.raises = False
        self.net.layer4.register_forward_hook(self._maybe)

    def _maybe(self, *_: object) -> None:
        torch.rand(1)
        if self.raises:
            raise OSError("on purpose")


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("look", PASSES.values(), ids=PASSES)
def test_looking_leaves_no_trace(look, raises):
    nervous = Nervous().train()
    nervous.net.layer1.eval()
    net = nervous.net
    for p in net.parameters():
        p.grad = torch.full_like(p, 2.0)
    nervous.raises = raises
    x, labels = torch.randn(3, 3, 32, 32), torch.arange(3)
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    rng, before = torch.get_rng_state(), x.clone()
    if raises:
        with pytest.raises(OSError, match="on purpose"):
            look(net, x, labels)
    else:
        look(net, x, labels)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in net.modules()] == modes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()] == hooks
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())
    assert all((p.grad == 2).all() and p.requires_grad for p in net.parameters())
    assert torch.equal(x, before)
    assert not x.requires_grad
