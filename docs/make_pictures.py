"""Paints every mixup on the same four pairs of photographs, for the pages in docs/methods.

    python docs/make_pictures.py FOLDER --mixer runs/NAME/mixer

FOLDER holds the photographs named below, as JPEG. Names after it paint only those mixups.
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from samix.mixups import MIXUPS
from samix.viz.show import Show

PAIRS = (
    ("goldfish", "zebra"),
    ("monarch", "teapot"),
    ("bald_eagle", "strawberry"),
    ("golden_retriever", "sports_car"),
)
LAMS = (0.1, 0.3, 0.5, 0.7, 0.9)
LEARNED = "learned"  # the page of the learned ones
SIZE = 128  # pixels per side of a photograph
OPTIONS = {  # where the defaults draw the number of blocks, or look at a network
    "puzzlemix": {"blocks": 8, "saliency": "spectral"},
    "comixup": {"saliency": "spectral"},
}
WITHOUT = ("vanilla", "rsb")  # nothing to see, and what deit shows
LARGEST = 200_000  # bytes


def paint(source: str, photos: list[Path], out: Path) -> None:
    """Writes the picture of a mixup."""
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.png"
        told = Show(source, tuple(photos), full, SIZE, LAMS).write(options=OPTIONS.get(source), dpi=88)
        with Image.open(full) as picture:
            data = reduced(picture.convert("RGB"))
    out.write_bytes(data)
    print(f"{source}: {len(data) // 1000} kB, {told.partition(': ')[2]}")


def reduced(picture: Image.Image) -> bytes:
    """The picture as a PNG with a palette: dithered if that is small enough, else not, else with half the colours."""
    data = b""
    for colours, dither in ((256, Image.Dither.FLOYDSTEINBERG), (256, Image.Dither.NONE), (128, Image.Dither.NONE)):
        stream = io.BytesIO()
        picture.quantize(palette=palette(picture, colours), dither=dither).save(stream, "png", optimize=True)
        data = stream.getvalue()
        if len(data) < LARGEST:
            break
    return data


def palette(picture: Image.Image, colours: int) -> Image.Image:
    """A palette in which rare colours have a place too: each counts by the 0.4th power of how often it is there."""
    pixels = np.asarray(picture).reshape(-1, 3)
    key = (pixels >> 3).astype(np.int64) @ np.array([1024, 32, 1])
    _, first, count = np.unique(key, return_index=True, return_counts=True)
    counted = np.repeat(pixels[first], np.ceil(count**0.4).astype(np.int64), axis=0)
    return Image.fromarray(counted[None]).quantize(colours, kmeans=4, dither=Image.Dither.NONE)


def page_of(name: str) -> str:
    """The page, and so the picture, of a mixup: mostly its name on the command line, with hyphens."""
    return {"deit": "random-choice"}.get(name, name.replace("_", "-"))


def main() -> None:
    """Reads the command line and paints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the photographs")
    parser.add_argument("names", nargs="*", help="mixups to paint; all without")
    parser.add_argument("--mixer", type=Path, help="a trained Mixer, or a checkpoint (.pt), for learned.png")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "methods", help="where pictures go")
    given = parser.parse_args()
    photos = [given.folder / f"{name}.jpg" for pair in PAIRS for name in pair]
    for name in given.names or [name for name in MIXUPS if name not in WITHOUT]:
        if name != LEARNED:
            paint(name, photos, given.out / f"{page_of(name)}.png")
    if given.mixer is not None and (not given.names or LEARNED in given.names):
        source = str(given.mixer) if given.mixer.suffix == ".pt" else f"mixer:{given.mixer}"
        paint(source, photos, given.out / f"{LEARNED}.png")


if __name__ == "__main__":
    main()
