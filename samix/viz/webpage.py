"""Pages that are one file, from the templates beside this module, and the pictures inside them."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, features
from torch import Tensor

from samix.runtime.atomic_files import write_text
from samix.runtime.console import printable
from samix.viz.figures import COLOURS, DARK_COLOURS


def _without_controls(value: object) -> object:
    """Escapes the control characters of a text before it enters a page."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("samix.viz"),
        autoescape=True,
        finalize=_without_controls,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals.update(colours=COLOURS, dark_colours=DARK_COLOURS)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def render(template: str, **values: object) -> str:
    """Fills a template; every text is escaped, and control characters are written as escapes."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, text: str) -> Path:
    """Writes a page and the folder it lies in; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def to_picture(pixels: Tensor, side: int = 0) -> Image.Image:
    """Converts one image (C, H, W) in [0, 1]; one channel is grey, other numbers than 3 show their mean.

    Args:
        pixels: on any device.
        side: pixels of the long side where the image is larger; 0 leaves it as it is.
    """
    image = pixels.detach().float().cpu().clamp(0, 1)
    if image.shape[0] not in (1, 3):
        image = image.mean(0, keepdim=True)
    array = (image.permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
    if side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def data_uri(picture: Image.Image, quality: int | Literal["lossless"] = "lossless") -> str:
    """Encodes a picture for ``src``: WebP, or PNG and JPEG where Pillow was built without WebP."""
    stream, lossless = io.BytesIO(), quality == "lossless"
    if features.check("webp"):
        form = "webp"
        picture.save(stream, "WEBP", lossless=lossless, quality=100 if quality == "lossless" else quality)
    elif lossless or picture.mode == "RGBA":
        form = "png"
        picture.save(stream, "PNG", optimize=True)
    else:
        form = "jpeg"
        picture.save(stream, "JPEG", quality=quality)
    return f"data:image/{form};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
