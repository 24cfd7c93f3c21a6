"""Small images and lists on disk, for the tests of the readers."""

import numpy as np
from PIL import Image


def write(path, value=0, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def values(images):
    """(value of the first pixel, label) of each image."""
    pixels = [np.asarray(images.image(i).resize((1, 1)))[0, 0, 0].item() for i in range(len(images))]
    return list(zip(pixels, images.labels.tolist(), strict=True))
