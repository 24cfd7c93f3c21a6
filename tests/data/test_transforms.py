"""Augmentations: batched crops against plain loops with the same draws, recipes, and the scale of pixels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from samix.data import ArrayImages, Augment, ImageData, default_augment, denormalize, load_data, normalize
from samix.data.on_device import DRAWS, crop_boxes, padded_crop, resized_crop, stored_size
from samix.data.transforms import NoiseErasing, test_transform, train_transform

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)
KINDS = ("none", "digits", "crop-flip", "crop-flip-reflect", "resized-crop-full", "resized-crop", "fine-grained")


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def uniform(count, seed=0):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_padded_crop_equals_pad_cut_and_flip_of_each_image(reflect, flip):
    images, draws, padding = noise(64, 3, 9, 9), uniform(64), 3
    result = padded_crop(images, draws, padding, reflect=reflect, flip=flip)
    for image, draw, got in zip(images, draws, result, strict=True):
        padded = F.pad(image[None].float(), [padding] * 4, mode="reflect" if reflect else "constant")[0]
        top, left = (math.floor(draw[k].item() * (2 * padding + 1)) for k in (1, 2))
        expected = padded[:, top : top + 9, left : left + 9]
        expected = expected.flip(-1) if flip and draw[0] < 0.5 else expected
        assert torch.equal(got.float(), expected)
    assert result.dtype == torch.uint8


def test_padded_crop_takes_every_place_and_both_directions():
    draws = torch.rand(4000, DRAWS, generator=torch.Generator().manual_seed(1))
    image = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5).expand(4000, 3, 5, 5) + 1
    result = padded_crop(image, draws, 1, reflect=False, flip=True)
    assert len({tuple(row.tolist()) for row in result.flatten(1)}) == 3 * 3 * 2


def test_resized_crop_equals_cut_interpolate_and_flip_of_each_image():
    images, draws, scale = noise(48, 3, 20, 20), uniform(48), (0.08, 1.0)
    result = resized_crop(images, draws, scale, 16)
    boxes = torch.cat(crop_boxes(draws, 20, scale), 1).tolist()
    for image, draw, got, (top, left, height, width) in zip(images, draws, result, boxes, strict=True):
        box = image[None, :, top : top + height, left : left + width].float() / 255
        expected = F.interpolate(box, size=(16, 16), mode="bilinear", align_corners=False)[0]
        expected = expected.flip(-1) if draw[0] < 0.5 else expected
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (1.0, 1.0)])
def test_crop_boxes_follow_the_rule_of_ten_tries(scale):
    draws, side = uniform(200), 32
    for draw, box in zip(draws.tolist(), torch.cat(crop_boxes(draws, side, scale), 1).tolist(), strict=True):
        height = width = side
        for k in range(10):
            area = (scale[0] + draw[3 + k] * (scale[1] - scale[0])) * side**2
            ratio = math.exp(math.log(3 / 4) + draw[13 + k] * (math.log(4 / 3) - math.log(3 / 4)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= side and 0 < h <= side:
                height, width = h, w
                break
        top, left = math.floor(draw[1] * (side - height + 1)), math.floor(draw[2] * (side - width + 1))
        assert box == [top, left, height, width]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(48, 64), (32, 32)])
def test_every_kind_gives_uint8_squares_for_train_and_test(kind, shape):
    augment, tensor = Augment(kind), noise(3, *shape)
    for image in (tensor, Image.fromarray(np.ascontiguousarray(tensor.permute(1, 2, 0)))):
        for transform in (train_transform(augment, 32, MEAN, STD), test_transform(augment, 32)):
            result = transform(image)
            assert (result.shape, result.dtype) == ((3, 32, 32), torch.uint8)


@pytest.mark.parametrize("kind", ["none", "digits", "crop-flip", "crop-flip-reflect", "resized-crop-full"])
def test_small_images_are_tested_whole(kind):
    image = noise(3, 32, 32)
    assert torch.equal(test_transform(Augment(kind), 32)(image), image)


def test_imagenet_kinds_are_tested_on_the_centre_of_a_larger_image():
    for kind in ("resized-crop", "fine-grained"):
        assert Augment(kind).short_side(224) == 256
        image = Image.new("RGB", (256, 256))
        image.paste((255, 255, 255), (16, 16, 240, 240))  # the centre of 224 pixels
        assert test_transform(Augment(kind), 224)(image).min() == 255


def test_flips_only_where_the_recipe_flips():
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(3, 32, 32).contiguous()
    for kind in KINDS:
        torch.manual_seed(0)
        transform = train_transform(Augment(kind), 32, MEAN, STD)
        falling = {bool(image[0, 16, 8] > image[0, 16, 24]) for image in (transform(ramp) for _ in range(20))}
        assert (True in falling) == (kind not in ("none", "digits"))


def test_reflection_leaves_no_black_border_and_zero_padding_does():
    white = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    darkest = {
        kind: min(int(train_transform(Augment(kind), 32, MEAN, STD)(white).min()) for _ in range(20))
        for kind in ("crop-flip", "crop-flip-reflect")
    }
    assert darkest == {"crop-flip": 0, "crop-flip-reflect": 255}


def test_min_scale_of_one_keeps_nearly_the_whole_image():
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(3, 32, 32).contiguous()
    torch.manual_seed(0)
    small = [train_transform(Augment("resized-crop", min_scale=0.9), 32, MEAN, STD)(ramp) for _ in range(20)]
    assert all(int(image.max()) - int(image.min()) > 200 for image in small)
    assert Augment("fine-grained").scale == (0.5, 1.0)
    assert Augment("resized-crop").scale == (0.08, 1.0)


def test_random_erasing_writes_noise_of_the_data_sets_spread():
    torch.manual_seed(0)
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    pixels = torch.stack([NoiseErasing(1.0, (0.5, 0.5, 0.5), (0.1, 0.1, 0.1))(image) for _ in range(30)])
    erased = pixels[pixels > 0].float() / 255
    assert 0.02 < len(erased) / pixels.numel() < 0.34
    assert erased.mean() == pytest.approx(0.5, abs=0.01)
    assert erased.std() == pytest.approx(0.1, abs=0.01)
    assert image.max() == 0
    assert NoiseErasing(0.0, MEAN, STD)(image) is image


def test_randaugment_changes_images_and_can_be_repeated():
    image, transform = noise(3, 32, 32), train_transform(Augment("none", randaugment=9), 32, MEAN, STD)
    torch.manual_seed(0)
    first = [transform(image) for _ in range(5)]
    torch.manual_seed(0)
    assert all(torch.equal(transform(image), before) for before in first)
    assert any(not torch.equal(image, before) for before in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "mixup"}, r"kind must be one of none, digits, crop-flip, .*; got 'mixup'"),
        ({"kind": "crop-flip", "min_scale": 0.5}, "min_scale belongs to resized-crop-full.* not to 'crop-flip'"),
        ({"min_scale": 0.0}, r"min_scale must be in \(0, 1\], got 0.0"),
        ({"randaugment": 31}, r"randaugment must be a whole number in \[0, 30\], got 31"),
        ({"random_erasing": 1.5}, r"random_erasing must be in \[0, 1\], got 1.5"),
    ],
)
def test_augment_refuses_wrong_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)


def test_default_augment_is_the_published_one():
    images = ArrayImages(noise(2, 3, 8, 8), torch.tensor([0, 1]))
    for name, size, kind in [
        ("cifar10", 32, "crop-flip"),
        ("cifar100", 32, "crop-flip-reflect"),
        ("tiny-imagenet", 64, "resized-crop-full"),
        ("cub", None, "fine-grained"),
        ("imagenet", None, "resized-crop"),
        ("folder", 32, "crop-flip"),
        ("folder", None, "resized-crop"),
    ]:
        data = ImageData(name, images, images, ("a", "b"), native_size=size)
        assert default_augment(data) == Augment(kind)
    assert default_augment(load_data("digits")).kind == "digits"


def test_the_split_is_kept_larger_only_where_crops_can_use_it():
    assert stored_size(Augment("crop-flip"), 32, 96) == 32
    assert stored_size(Augment("resized-crop-full"), 64, 64) == 64
    assert stored_size(Augment("resized-crop"), 224, None) == 256
    assert stored_size(Augment("fine-grained"), 224, 500) == 256
    assert stored_size(Augment("resized-crop"), 224, 32) == 224


def test_denormalize_undoes_normalize():
    images = noise(4, 3, 5, 5)
    pixels = images.float() / 255
    torch.testing.assert_close(denormalize(normalize(images, MEAN, STD), MEAN, STD), pixels)
    torch.testing.assert_close(normalize(pixels, MEAN, STD), normalize(images, MEAN, STD))
    assert denormalize(torch.full((3, 2, 2), 99.0), MEAN, STD).max() == 1


def test_normalize_centres_each_channel():
    constant = torch.tensor(MEAN)[None, :, None, None].expand(2, 3, 4, 4)
    assert normalize(constant, MEAN, STD).abs().max() < 1e-6
    spread = normalize(constant + torch.tensor(STD)[:, None, None], MEAN, STD)
    torch.testing.assert_close(spread, torch.ones_like(spread))
