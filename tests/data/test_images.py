"""Reading image files: every mode becomes RGB, and what cannot be read is named."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from samix.data import ArrayImages, FileImages, load_images, open_image
from samix.data.decode import UnreadableImage
from samix.data.images import file_names
from samix.data.order import epoch_order
from samix.data.replacements import check_readable, read_image, report, with_replacements

RED = (200, 30, 10)


@pytest.mark.parametrize(
    ("mode", "color", "ending", "expected"),
    [
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("RGB", RED, "png", RED),
        ("RGBA", (*RED, 255), "png", RED),
        ("RGBA", (*RED, 0), "png", (255, 255, 255)),
        ("RGBA", (*RED, 51), "png", (244, 210, 206)),  # a fifth of the colour on white
        ("LA", (77, 255), "png", (77, 77, 77)),
        ("LA", (77, 0), "png", (255, 255, 255)),
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
    assert open_image(tmp_path / "image.png").getpixel((0, 0)) == (255, 255, 255)
    image.save(tmp_path / "image.png", transparency=bytes([255, 0, 0, 0]))
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


@pytest.mark.filterwarnings("ignore")  # PIL warns of odd metadata
@pytest.mark.parametrize("name", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_a_file_damaged_anywhere_is_named_or_read(tmp_path, name, capfd):
    """PIL's decoders raise errors of many kinds; all of them become one."""
    draw, path = random.Random(0), tmp_path / f"image.{name}"
    Image.effect_noise((20, 15), 60).convert("RGB").save(path)
    good, refused = path.read_bytes(), []
    for _ in range(60):
        place = draw.randrange(len(good))
        cut = good[:place] if draw.random() < 0.5 else good[:place] + draw.randbytes(4) + good[place + 4 :]
        path.write_bytes(cut)
        try:
            assert open_image(path).mode == "RGB"
        except UnreadableImage as error:
            refused.append(str(error))
    assert len(refused) > 5
    assert all(str(path) in words and "\n" not in words for words in refused)


# Another image stands in ----------------------------------------------------------------------------------------------


@pytest.fixture
def some_bad(tmp_path):
    """Twelve images, of which 2, 5 and 6 cannot be read."""
    for number in range(12):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"{number}.png")
    for number in (2, 5):
        (tmp_path / f"{number}.png").write_bytes(b"")
    (tmp_path / "6.png").unlink()
    return FileImages(tmp_path, file_names([f"{n}.png" for n in range(12)]), torch.arange(12))


def test_the_stand_in_is_a_function_of_seed_epoch_and_index(some_bad):
    def used(seed, epoch, index):
        image, chosen = read_image(some_bad, seed, epoch, index, skip=True)
        assert image.getpixel((0, 0))[0] == chosen
        return chosen

    assert [used(0, 0, index) for index in (0, 1, 3, 4)] == [0, 1, 3, 4]
    found = {(seed, epoch): used(seed, epoch, 2) for seed in range(3) for epoch in range(5)}
    assert all(used(*key, 2) == chosen for key, chosen in found.items())
    assert not {2, 5, 6} & set(found.values())
    assert len(set(found.values())) > 3


def test_without_skip_the_error_is_the_images(some_bad):
    with pytest.raises(UnreadableImage, match=r"2\.png cannot be read"):
        read_image(some_bad, 0, 0, 2, skip=False)
    with pytest.raises(FileNotFoundError, match=r"6\.png is missing"):
        read_image(some_bad, 0, 0, 6, skip=False)


def test_whole_orders_have_the_same_with_replacements_as_single_images(some_bad):
    for epoch in range(5):
        order = epoch_order(12, 3, epoch)
        whole = with_replacements(order, {2, 5, 6}, 3, epoch)
        assert whole.tolist() == [read_image(some_bad, 3, epoch, row, skip=True)[1] for row in order.tolist()]
    assert torch.equal(with_replacements(order, set(), 3, 0), order)


def test_nothing_but_unreadable_images_is_an_error(tmp_path):
    images = FileImages(tmp_path, file_names(["a.png", "b.png"]), torch.arange(2))
    with pytest.raises(
        UnreadableImage, match=r"20 images in a row cannot be read; check that the disk.*[ab]\.png is missing"
    ):
        read_image(images, 0, 0, 0, skip=True)
    with pytest.raises(UnreadableImage, match="20 images in a row cannot be read; 2 of 2 in all"):
        with_replacements(torch.arange(2), {0, 1}, 0, 0)


def test_a_report_names_the_first_ten(some_bad):
    line = report(some_bad, list(range(12)), "could not be read")
    assert line.startswith(f"12 of 12 could not be read: {some_bad.path(0)}, ")
    assert line.endswith("9.png, and 2 more")
    assert report(ArrayImages(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.arange(3)), [1], "x").endswith(
        "number 1"
    )


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


# Held-out images are looked at before training ------------------------------------------------------------------------


def test_missing_damaged_and_truncated_images_are_found_before_training(tmp_path):
    noise = Image.effect_noise((40, 40), 60).convert("RGB")
    names = ["a.png", "cut.jpg", "b.jpg", "cut.png", "c.bmp", "note.png", "gone.png", "tail.jpg"]
    for name in names[:-2]:
        noise.save(tmp_path / name)
    noise.save(tmp_path / "tail.jpg")
    with (tmp_path / "tail.jpg").open("ab") as file:
        file.write(bytes(9000))  # behind the end, which is not wrong
    for name in ("cut.jpg", "cut.png"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    (tmp_path / "note.png").write_text("Hello")
    images = FileImages(tmp_path, file_names(names), torch.arange(8))
    assert check_readable(images, "skip") == {1, 3, 5, 6}
    with pytest.raises(UnreadableImage, match=r"cut.jpg cannot be read .*; 4 of 8 images cannot be read: .*gone.png$"):
        check_readable(images)
    assert check_readable(images.subset(torch.tensor([0, 2, 4, 7]))) == set()
    assert check_readable(ArrayImages(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.arange(3))) == set()


def test_whole_images_are_not_decoded_to_look_at_them(tmp_path, monkeypatch):
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    monkeypatch.setattr(FileImages, "image", lambda self, row: pytest.fail("decoded"))
    assert check_readable(FileImages(tmp_path, file_names(["a.png", "b.jpg"]), torch.arange(2))) == set()
