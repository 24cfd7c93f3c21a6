"""Every mode and depth has a defined value, only known formats and regular files are opened, and sizes are bounded."""

import os
import struct
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image, features

from samix.data import Augment, open_image
from samix.data.decode import FORMATS, IMAGE_ENDINGS, UnreadableImage, read_header, to_rgb
from samix.data.images import MAX_ASPECT, bound_aspect
from samix.data.transforms import test_transform as fitted
from samix.data.transforms import train_transform

RED = (200, 30, 10)
STORED = np.arange(0, 256, dtype=np.int64).reshape(16, 16)


def grey(path):
    """The values of a file as read, (H, W), which must be grey."""
    pixels = np.asarray(open_image(path))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def write_tiff(path, values, order, sample_format, photometric=1):
    """A grey TIFF without compression, as bytes of either order; sample format 1: unsigned, 2: signed, 3: floating."""
    height, width = values.shape
    bits = values.dtype.itemsize * 8
    short = lambda value: struct.pack(f"{order}HH", value, 0)  # noqa: E731
    long = lambda value: struct.pack(f"{order}I", value)  # noqa: E731
    tags = [
        (256, 4, long(width)),
        (257, 4, long(height)),
        (258, 3, short(bits)),
        (259, 3, short(1)),
        (262, 3, short(photometric)),
        (273, 4, long(8 + 2 + 12 * 10 + 4)),
        (277, 3, short(1)),
        (278, 4, long(height)),
        (279, 4, long(values.nbytes)),
        (339, 3, short(sample_format)),
    ]
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(f"{order}HHI", tag, kind, 1) + value for tag, kind, value in tags)
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(head + long(8) + struct.pack(f"{order}H", len(tags)) + entries + long(0) + data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_where_0_is_white_is_inverted(tmp_path, dtype):
    values = (STORED * (np.iinfo(dtype).max // 255)).astype(dtype)
    write_tiff(tmp_path / "a.tif", values, "<", 1, photometric=0)
    assert np.array_equal(grey(tmp_path / "a.tif"), 255 - STORED)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("values", "sample_format", "expected"),
    [
        (STORED.astype(np.uint8), 1, STORED),
        ((STORED * 257).astype(np.uint16), 1, STORED),
        (STORED.astype(np.uint16), 1, STORED // 257),  # 16 bit is the full range, however dark
        (STORED.astype(np.int32), 2, STORED),
        ((STORED * 257).astype(np.int32), 2, STORED),
        ((STORED * 10**6).astype(np.int32), 2, STORED),  # the largest becomes 255
        ((STORED - 50).astype(np.int32), 2, (STORED - 50).clip(0)),
        ((STORED / 255).astype(np.float32), 3, STORED),
        (STORED.astype(np.float32), 3, STORED),
        ((STORED * 257.0).astype(np.float32), 3, STORED),
        (np.zeros((4, 4), np.float32), 3, np.zeros((4, 4))),
    ],
)
def test_grey_tiffs_of_every_depth_and_byte_order(tmp_path, order, values, sample_format, expected):
    write_tiff(tmp_path / "a.tif", values, order, sample_format)
    assert np.array_equal(grey(tmp_path / "a.tif"), expected)


def test_unsigned_numbers_of_32_bit_are_not_taken_for_negative_ones(tmp_path):
    write_tiff(tmp_path / "a.tif", STORED.astype(np.uint32) * (2**24 + 1), "<", 1)
    assert np.array_equal(grey(tmp_path / "a.tif"), STORED)
    write_tiff(tmp_path / "a.tif", STORED.astype(np.uint32), "<", 1)
    assert np.array_equal(grey(tmp_path / "a.tif"), STORED)
    write_tiff(tmp_path / "a.tif", STORED.astype(np.uint32), ">", 1)
    with pytest.raises(UnreadableImage, match="pixels of a kind that Pillow does not read"):
        open_image(tmp_path / "a.tif")


def test_floats_that_are_not_numbers_become_black_and_infinite_ones_white(tmp_path):
    write_tiff(tmp_path / "a.tif", np.array([[np.nan, 0.5], [np.inf, -np.inf]], np.float32), "<", 3)
    assert grey(tmp_path / "a.tif").tolist() == [[0, 128], [255, 0]]


def test_16_bit_files_of_mode_i_are_16_bit_however_dark(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", 514, 65535))
    assert grey(tmp_path / "a.pgm").tolist() == [[2, 255]]
    Image.fromarray(np.array([[514, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert grey(tmp_path / "a.png").tolist() == [[2, 255]]


def make(mode):
    """A 2 x 2 image of a mode, and the colour that its pixels should have."""
    on_white = tuple(round(value * 0.2 + 255 * 0.8) for value in RED)
    colour = Image.new("RGB", (2, 2), RED)
    translucent = Image.new("RGBA", (2, 2), (*RED, 51))
    lit = Image.new("LA", (2, 2), (100, 51))
    palette = colour.quantize(4)
    return {
        "1": (Image.new("1", (2, 2), 1), (255, 255, 255)),
        "L": (Image.new("L", (2, 2), 77), (77, 77, 77)),
        "P": (palette, RED),
        "RGB": (colour, RED),
        "RGBX": (colour.convert("RGBX"), RED),
        "RGBA": (translucent, on_white),
        "RGBa": (translucent.convert("RGBa"), on_white),
        "LA": (lit, (224, 224, 224)),
        "La": (lit.convert("La"), (224, 224, 224)),
        "PA": (palette.convert("PA"), RED),
        "CMYK": (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        "YCbCr": (colour.convert("YCbCr"), RED),
        "HSV": (colour.convert("HSV"), RED),
        "LAB": (Image.new("LAB", (2, 2), (255, 128, 128)), (255, 255, 255)),
        "I": (Image.new("I", (2, 2), 77), (77, 77, 77)),
        "F": (Image.new("F", (2, 2), 0.5), (128, 128, 128)),
        "I;16": (Image.new("I;16", (2, 2), 77 * 257), (77, 77, 77)),
        "I;16B": (Image.new("I;16B", (2, 2), 77 * 257), (77, 77, 77)),
        "I;16L": (Image.new("I;16L", (2, 2), 77 * 257), (77, 77, 77)),
        "I;16N": (Image.new("I;16N", (2, 2), 77 * 257), (77, 77, 77)),
    }[mode]


MODES = "1 L P RGB RGBX RGBA RGBa LA La PA CMYK YCbCr HSV LAB I F I;16 I;16B I;16L I;16N".split()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_a_value(mode):
    image, expected = make(mode)
    assert image.mode == mode
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert np.abs(np.subtract(rgb.getpixel((0, 0)), expected)).max() <= 3  # roundings of HSV and YCbCr


def test_no_mode_of_pillow_is_forgotten():
    from PIL import ImageMode

    assert {*Image.MODES, "LA", "PA", "RGBa", "La", "I;16", "I;16B", "I;16L", "I;16N"} == set(MODES)
    assert all(ImageMode.getmode(mode) for mode in MODES)


def test_opaque_pixels_keep_their_values_and_transparent_ones_lie_on_white(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[0, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = np.asarray(open_image(tmp_path / "a.png"))
    assert np.array_equal(seen[1:], pixels[1:, :, :3])
    assert (seen[0] == 255).all()
    Image.new("L", (2, 2), 9).save(tmp_path / "b.png", transparency=9)  # one transparent grey
    assert open_image(tmp_path / "b.png").getpixel((0, 0)) == (255, 255, 255)


# Rotation -------------------------------------------------------------------------------------------------------------

CORNERS = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)[..., None].repeat(3, 2) * 10)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_images_are_turned_as_their_exif_data_say(tmp_path, orientation, ending):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    CORNERS.save(tmp_path / f"a.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    expected = CORNERS.copy()
    expected.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(expected)
    assert np.array_equal(np.asarray(open_image(tmp_path / f"a.{ending}")), np.asarray(upright))
    if ending != "tif":  # which Pillow itself turns
        stored = open_image(tmp_path / f"a.{ending}", exif_rotation=False)
        assert np.array_equal(np.asarray(stored), np.asarray(CORNERS))


def test_damaged_exif_data_leave_the_pixels_as_they_are(tmp_path):
    CORNERS.save(tmp_path / "a.png", exif=b"Exif\0\0II*\0 nonsense")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(CORNERS))


# Formats, files and sizes ---------------------------------------------------------------------------------------------


def test_only_allowed_formats_are_opened(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: started.append(a))
    (tmp_path / "a.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(UnreadableImage, match=r"a.jpg cannot be read \(none of the formats JPEG, PNG, .*; replace or"):
        open_image(tmp_path / "a.jpg")
    assert not started
    assert not {"EPS", "WMF", "PSD", "HDF5"} & set(FORMATS)


def test_the_endings_are_those_that_pillow_reads():
    assert {".jpg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tiff", ".gif"} <= set(IMAGE_ENDINGS)
    assert (".avif" in IMAGE_ENDINGS) == ("avif" in features.get_supported())
    known = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
    assert known - {".mpo"} <= set(IMAGE_ENDINGS)


@pytest.mark.parametrize("ending", ["jfif", "jpe", "jpeg", "webp", "dib", "pnm", "apng", "jp2", "avif"])
def test_each_ending_is_read(tmp_path, ending):
    if f".{ending}" not in IMAGE_ENDINGS:
        pytest.skip(f"this Pillow does not read {ending}")
    Image.new("RGB", (8, 8), RED).save(tmp_path / f"a.{ending}")
    assert np.abs(np.subtract(open_image(tmp_path / f"a.{ending}").getpixel((3, 3)), RED)).max() < 9


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, tmp_path.__class__("/dev/zero")):
        with pytest.raises(
            UnreadableImage, match=rf"image {path} cannot be read .it is not a regular file.; replace or"
        ):
            open_image(path)


def test_the_limit_of_pixels_can_be_lifted(tmp_path, monkeypatch):
    Image.new("RGB", (30, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # more than twice as many, which Pillow itself refuses
    with pytest.raises(
        UnreadableImage, match=r"more than 100 pixels, .*; shrink .* variable SAMIX_MAX_PIXELS to a larg"
    ):
        open_image(tmp_path / "a.png")
    monkeypatch.setenv("SAMIX_MAX_PIXELS", "300")
    assert open_image(tmp_path / "a.png").size == (30, 10)
    monkeypatch.setenv("SAMIX_MAX_PIXELS", "299")
    with pytest.raises(UnreadableImage, match="more than 299 pixels"):
        read_header(tmp_path / "a.png", "a.png")
    monkeypatch.setenv("SAMIX_MAX_PIXELS", "many")
    with pytest.raises(
        ValueError, match="SAMIX_MAX_PIXELS must be a whole number of pixels from 1, got 'many'"
    ) as error:
        open_image(tmp_path / "a.png")
    assert not isinstance(error.value, UnreadableImage)  # nobody may skip it


@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1), (3, 5000)])
@pytest.mark.parametrize("kind", ["none", "crop-flip", "resized-crop", "fine-grained"])
def test_thin_images_are_cut_before_they_are_resized(shape, kind, monkeypatch):
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, *a, **k: sizes.append(image.size) or resize(image, *a, **k)
    )
    image, augment = Image.new("RGB", shape[::-1], RED), Augment(kind)
    for transform in (fitted(augment, 32), train_transform(augment, 32, (0.5,) * 3, (0.2,) * 3)):
        assert transform(image).shape == (3, 32, 32)
    assert sizes
    assert all(max(size) <= MAX_ASPECT * min(size) for size in sizes)
    assert fitted(augment, 32)(image)[:, 16, 16].tolist() == list(RED)


def test_other_images_are_not_cut():
    for shape in ((16, 1), (5, 3), (1, 16)):
        image = torch.zeros(3, *shape)
        assert bound_aspect(image) is image
    assert bound_aspect(torch.arange(100).expand(3, 2, 100))[0, 0].tolist() == list(range(34, 66))
