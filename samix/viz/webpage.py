"""Pages that are one file: style and script inside, pictures as data URIs, nothing loaded from anywhere.

Light or dark as the reader's system asks; readable on a phone.
"""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, features
from torch import Tensor

__all__ = ["data_uri", "escape", "page", "to_picture", "write_page"]

STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf8;--card:#fff;--ink:#1d2125;--soft:#5c636b;--line:#dfdcd6;--accent:#0067a5;
--c0:#767d85;--c1:#0072b2;--c2:#d55e00;--c3:#00805e;--c4:#b5518b;--c5:#9a6a00;--c6:#6a51a3;--c7:#2b8cbe;--c8:#8c510a}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1c2024;--ink:#e8e6e1;--soft:#a3abb3;--line:#343a40;
--accent:#6cb8ec;--c0:#9aa2aa;--c1:#58aee6;--c2:#ff8a50;--c3:#3ccb9f;--c4:#e892c2;--c5:#e5b445;--c6:#b7a0ea;--c7:#8fd3f5;
--c8:#d3a26a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0 .4rem}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p{max-width:46rem;margin:.5rem 0}
.soft{color:var(--soft)}
small,.small{font-size:.85rem}
code{font:.9em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
"""


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        title: plain text, for the window.
        body: HTML that goes into ``main``.
        style: more CSS.
        script: JavaScript, run when the page is there.
    """
    code = f"<script>\n{script}\n</script>\n" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}{style}</style>\n'
        f"</head>\n<body>\n<main>\n{body}\n</main>\n{code}</body>\n</html>\n"
    )


def write_page(path: Path, text: str) -> Path:
    """Writes a page, with its folder where that is missing; returns the path."""
    from samix.runtime.atomic_files import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def to_picture(pixels: Tensor, side: int = 0) -> Image.Image:
    """One image (C, H, W) in [0, 1] as a picture; one channel is grey, other numbers than 3 show their mean.

    Args:
        pixels: on any device.
        side: pixels of the long side where the image is larger; 0 leaves it as it is.
    """
    found = pixels.detach().float().cpu().clamp(0, 1)
    if found.shape[0] not in (1, 3):
        found = found.mean(0, keepdim=True)
    array = (found.permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
    if side and max(picture.size) > side:
        scale = side / max(picture.size)
        picture = picture.resize(
            (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)), Image.Resampling.LANCZOS
        )
    return picture


def data_uri(picture: Image.Image, quality: int | Literal["lossless"] = "lossless") -> str:
    """A picture as text for ``src``: WebP, or PNG and JPEG where Pillow was built without WebP.

    Args:
        picture: RGB, or RGBA.
        quality: 1 to 100, or ``lossless``.
    """
    found, lossless = io.BytesIO(), quality == "lossless"
    if features.check("webp"):
        kind = "webp"
        picture.save(found, "WEBP", lossless=lossless, quality=100 if quality == "lossless" else quality)
    elif lossless or picture.mode == "RGBA":
        kind = "png"
        picture.save(found, "PNG", optimize=True)
    else:
        kind = "jpeg"
        picture.save(found, "JPEG", quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(found.getvalue()).decode('ascii')}"
