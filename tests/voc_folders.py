"""Images of coloured rectangles with their boxes, and such images in the layout of Pascal VOC."""

import numpy as np
from PIL import Image, ImageDraw

from samix.eval.boxes import VOC_CLASSES

COLOURS = ((220, 40, 40), (40, 60, 220))


def rectangles(count, seed):
    """(image, boxes, labels): one or two coloured rectangles on grey, 72 x 64 pixels."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        image, boxes, labels = Image.new("RGB", (72, 64), (128, 128, 128)), [], []
        for part in range(generator.integers(1, 3)):
            x, y = int(generator.integers(1, 12)) + 36 * part, int(generator.integers(1, 34))
            w, h, label = *generator.integers(16, 24, 2).tolist(), int(generator.integers(2))
            boxes.append((x, y, x + w, y + h))
            labels.append(label + 1)
            ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=COLOURS[label])
        made.append((image, boxes, labels))
    return made


def write_voc(root, splits, year="2007", difficult=()):
    base = root / f"VOC{year}"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / part).mkdir(parents=True, exist_ok=True)
    for split, made in splits.items():
        names = [f"{year}_{split}_{number}" for number in range(len(made))]
        (base / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name, (image, boxes, labels) in zip(names, made, strict=True):
            image.save(base / "JPEGImages" / f"{name}.jpg", quality=95)
            entries = "".join(
                f"<object><name>{VOC_CLASSES[label - 1]}</name><difficult>{int(name in difficult)}</difficult><bndbox>"
                f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
                for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True)
            )
            (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{entries}</annotation>")
    return root
