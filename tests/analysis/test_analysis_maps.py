"""Grad-CAM and localisation: each on a case with a known answer."""

import pytest
import torch
from analysis_cases import untouched
from PIL import Image
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.analysis.cam import grad_cam, mixed_cam
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
from samix.batch import Mixed, pair_batch
from samix.data import Augment, FileImages
from samix.data.images import file_names
from samix.data.transforms import test_transform as fit_of
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
