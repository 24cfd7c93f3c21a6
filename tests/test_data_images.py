"""Reading image files: every mode becomes RGB, and what cannot be read is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from samix.data import ArrayImages, FileImages, load_images, open_image
from samix.data.images import file_names

RED = (200, 30, 10)


@pytest.mark.parametrize(
    ("mode", "color", "ending", "expected"),
    [
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("RGB", RED, "png", RED),
        ("RGBA", (*RED, 128), "png", RED),
        ("LA", (77, 128), "png", (77, 77, 77)),
        ("I;16", 77 * 257, "png", (77, 77, 77)),
        ("CMYK", (0, 0, 0, 0), "tif", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, color, ending, expected):
    path = tmp_path / f"image.{ending}"
    Image.new(mode, (4, 3), color).save(path)
    image = open_image(path)
    assert image.mode == "RGB"
    assert image.size == (4, 3)
    assert image.getpixel((1, 1)) == expected


def test_a_palette_with_transparent_entries_becomes_rgb_without_a_warning(tmp_path):
    image = Image.new("RGB", (4, 4), RED).quantize(4)
    image.save(tmp_path / "image.png", transparency=bytes([0, 255, 128, 255]))
    assert open_image(tmp_path / "image.png").getpixel((0, 0)) == RED


def test_a_corrupt_image_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read .*; replace or remove it"):
        open_image(path)
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:700])  # the header is whole, the pixels are not
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        open_image(path)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg is missing"):
        open_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("limit", [60, 20])  # above PIL's limit, and above twice that
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    Image.new("RGB", (10, 10)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=rf"bomb\.png has more than {limit} pixels"):
        open_image(tmp_path / "bomb.png")


def test_load_images_resizes_the_short_side_and_cuts_the_centre(tmp_path):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = RED  # the centre square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.new("L", (20, 20), 9).save(tmp_path / "grey.png")
    batch = load_images([tmp_path / "wide.png", tmp_path / "grey.png"], 20)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0], torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 20, 20))
    assert torch.equal(batch[1], torch.full((3, 20, 20), 9, dtype=torch.uint8))
    assert load_images([tmp_path / "wide.png"], 8).shape == (1, 3, 8, 8)


def test_load_images_refuses_no_paths():
    with pytest.raises(ValueError, match="at least one path"):
        load_images([], 8)


def test_image_sets_refuse_wrong_shapes():
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \(N, 3, H, W\), got torch.float32"):
        ArrayImages(torch.zeros(2, 3, 4, 4), labels)
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(5,\), got torch.int64 \(2,\)"):
        ArrayImages(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), labels)


def test_a_subset_keeps_names_and_labels_together(tmp_path):
    names = ["a.png", "ü/b c.png", "d.png"]
    images = FileImages(tmp_path, file_names(names), torch.tensor([4, 5, 6]))
    subset = images.subset(torch.tensor([2, 1]))
    assert [subset.path(i) for i in range(2)] == [tmp_path / "d.png", tmp_path / "ü/b c.png"]
    assert subset.labels.tolist() == [6, 5]
    assert len(subset) == 2
