"""Opening of image files: which formats are read, within which limits, and how each mode becomes RGB.

| mode | value in 0..255 |
|---|---|
| `1`, `L`, `RGB`, `RGBX`, `P` | as stored; grey is repeated, a palette looked up |
| `LA`, `La`, `PA`, `RGBA`, `RGBa`, a transparent colour | composited on white |
| `CMYK`, `YCbCr`, `HSV`, `LAB` | converted by Pillow; `LAB` by LittleCMS to sRGB |
| `I;16`, `I;16B`, `I;16L`, `I;16N` (16 bit) | value // 257 |
| `I` (32 bit) | as stored up to 255; up to 65535 // 257; else scaled so that the largest value is 255 |
| `F` | 255 times the value up to 1; else as `I`, rounded |

Values below 0 and NaN become 0. The largest value is that of the image; PNG and PPM files of mode `I` hold 16 bit.
16-bit RGB keeps its upper byte; 16-bit TIFFs where 0 is white are inverted. Colour profiles are ignored. Of several
frames or pages the first is read.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from samix.runtime.console import printable

# Formats by an allowlist: EPS would start Ghostscript, and others are rare or have no signature.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
}
_OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # not in every build of Pillow
_SUPPORTED = features.get_supported()  # features.check warns of names that an older Pillow does not know
FORMATS = tuple(name for name in ENDINGS if name not in _OPTIONAL or _OPTIONAL[name] in _SUPPORTED)
IMAGE_ENDINGS = tuple(ending for name in FORMATS for ending in ENDINGS[name])
LIMIT_VARIABLE = "SAMIX_MAX_PIXELS"
REMEDY = "replace or remove it, or leave it out: --on-bad-image skip"
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_END_BYTES = 4096  # in which it is looked for
WHITE = (255, 255, 255, 255)
_ORIENTATION, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 262, 339  # tags of EXIF and TIFF
_TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # its values to Image.Transpose


# Images above the limit are refused with what to do; Pillow's own warning would only stand before that.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


class UnreadableImage(ValueError):
    """A file that is not an image, is damaged, or is too large."""


UNREADABLE = (UnreadableImage, FileNotFoundError)  # what `ImageSet.image` raises for an image that cannot be read


def open_image(path: Path, *, exif_rotation: bool = True) -> Image.Image:
    """Reads a file as RGB; the table above says how.

    Args:
        path: a regular file.
        exif_rotation: turn the image upright as its EXIF data say, as viewers do.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImage: no regular file, a format that is not read, damaged, or more pixels than the limit.
    """
    with _open(path) as file:
        return decode_image(file, str(path), exif_rotation=exif_rotation)


def decode_image(source: BinaryIO, name: str, *, exif_rotation: bool = True) -> Image.Image:
    """Reads an open file, or bytes, as `open_image` does; `name` is for the errors, which are the same."""
    limit = max_pixels()
    try:
        with _header(source, limit) as image:
            image.load()  # all of it: the file will be closed, and some formats hold their EXIF data at the end
            turn = _TURNS.get(_orientation(image)) if exif_rotation and image.format != "TIFF" else None  # Pillow's own
            rgb = to_rgb(image)
            return rgb if turn is None else rgb.transpose(Image.Transpose(turn))
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(error, name) from None


def read_header(source: Path | BinaryIO, name: str) -> tuple[int, int, bool]:
    """Reads width, height, and whether the mark of the file's end is there; the errors are those of `open_image`.

    No pixel is decoded. Only JPEG and PNG have such a mark.
    """
    if isinstance(source, Path):
        with _open(source) as file:
            return read_header(file, name)
    limit = max_pixels()
    try:
        with _header(source, limit) as image:
            mark = _END_MARKS.get(image.format or "")
            source.seek(-min(_END_BYTES, source.seek(0, os.SEEK_END)), os.SEEK_END)
            return *image.size, mark is not None and mark in source.read()
    except Exception as error:
        raise _unreadable(error, name) from None


def max_pixels() -> int | None:
    """Returns the largest number of pixels allowed: `SAMIX_MAX_PIXELS`, else Pillow's `Image.MAX_IMAGE_PIXELS`.

    Raises:
        ValueError: the variable holds something else than a whole number.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if text is not None:
        if not text.isdecimal() or int(text) == 0:
            raise ValueError(f"{LIMIT_VARIABLE} must be a whole number of pixels from 1, got {text!r}")
        Image.MAX_IMAGE_PIXELS = int(text)  # Pillow would refuse by its own limit
    return Image.MAX_IMAGE_PIXELS


def one_line(name: str) -> str:
    """Escapes control characters in the name of a file, for messages."""
    return printable(name).replace("\n", "\\n").replace("\t", "\\t")


def _open(path: Path) -> BinaryIO:
    """Opens a regular file; a pipe would wait for a writer, and a device may do anything."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _unreadable(error, str(path)) from None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return os.fdopen(handle, "rb")
    os.close(handle)
    fault = "empty" if stat.S_ISREG(status.st_mode) else "not a regular file"
    raise UnreadableImage(f"image {one_line(str(path))} cannot be read (it is {fault}); {REMEDY}")


def _header(source: BinaryIO, limit: int | None) -> Image.Image:
    image = Image.open(source, formats=FORMATS)
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return image


def _unreadable(error: Exception, name: str) -> Exception:
    """Makes one error of Pillow's many, whose decoders fail on damaged files in their own ways."""
    name = one_line(name)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"image {name} is missing; restore it, or leave it out: --on-bad-image skip")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return UnreadableImage(
            f"image {name} has more than {Image.MAX_IMAGE_PIXELS} pixels, the limit against decompression bombs; "
            f"shrink or remove it, or set the environment variable {LIMIT_VARIABLE} to a larger number"
        )
    if isinstance(error, UnidentifiedImageError):
        reason = f"none of the formats {', '.join(FORMATS)}, or pixels of a kind that Pillow does not read"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return UnreadableImage(f"image {name} cannot be read ({reason}); {REMEDY}")


def _orientation(image: Image.Image) -> int:
    """Reads the EXIF orientation, 1..8; 1 where there is none, or it is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data leave the pixels as they are
        return 1
    return value if isinstance(value, int) else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB, by the table above; RGB without a transparent colour is returned as is."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if isinstance(image, TiffImageFile) and image.mode == "I" and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 1:
            values = values.view(np.uint32)  # Pillow keeps the bits of unsigned numbers
        if isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and image.tag_v2.get(_PHOTOMETRIC) == 0:
            values = 65535 - values  # white is 0, which Pillow minds in 8 bits only
        return Image.fromarray(_to_bytes(values, image.mode, image.format)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(values: np.ndarray, mode: str, file_format: str | None) -> np.ndarray:
    """Converts grey values of modes I;16, I and F to uint8."""
    if mode.startswith("I;16") or (mode == "I" and file_format in ("PNG", "PPM")):
        return (values.clip(0, 65535) // 257).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=np.inf, neginf=0.0).clip(min=0)
    finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else 0.0
    if mode == "F" and largest <= 1:
        values = (values * 255).round()
    elif largest > 65535:
        values = (values * (255 / largest)).round()
    elif largest > 255:
        values = values // 257 if mode == "I" else (values / 257).round()
    return values.clip(0, 255).round().astype(np.uint8)
