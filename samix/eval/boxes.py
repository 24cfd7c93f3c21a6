"""Images with boxes, in the layouts of Pascal VOC and COCO; read without either's own package.

Boxes are (x0, y0, x1, y1) in pixels from the upper left corner, x1 and y1 just outside; classes count from 1, as 0 is
the background.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True, eq=False)
class Objects:
    """What is in one image."""

    boxes: Tensor  # (n, 4) float32
    labels: Tensor  # (n,) int64 in 1..K
    difficult: Tensor  # (n,) bool; trained on, but neither asked for nor held against a detector (VOC)
    crowd: Tensor  # (n,) bool; a box around many, not trained on and not asked for (COCO)
    outlines: tuple[object, ...] = ()  # COCO's "segmentation" of each object; empty where there are none

    @property
    def trained_on(self) -> Tensor:
        """(n,) bool: no crowd, and a box of some area."""
        return ~self.crowd & (self.boxes[:, 2:] > self.boxes[:, :2]).all(1)


@dataclass(frozen=True, eq=False)
class BoxSplit:
    """Images and what is in them."""

    files: tuple[Path, ...]  # of the images
    objects: tuple[Objects, ...]  # one for each

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class BoxData:
    """A detection data set.

    Raises:
        ValueError: a split without images, or no object to learn from.
    """

    name: str  # ``voc`` or ``coco``, which says how it is judged
    train: BoxSplit  # images to learn from
    test: BoxSplit  # images to test on
    class_names: tuple[str, ...]  # of the labels 1, 2,

    def __post_init__(self) -> None:
        if not len(self.train) or not len(self.test):
            raise ValueError(
                f"{self.name}: {len(self.train)} training and {len(self.test)} test images; both must be > 0"
            )
        if not any(bool(objects.trained_on.any()) for objects in self.train.objects):
            raise ValueError(f"{self.name}: the training images have no object")


def load_boxes(spec: str) -> BoxData:
    """Opens a detection data set.

    | spec | layout |
    |---|---|
    | `voc07:DIR` | DIR/VOC2007/{Annotations,ImageSets/Main,JPEGImages}; trainval to test |
    | `voc0712:DIR` | and DIR/VOC2012, whose trainval is trained on too |
    | `coco:DIR` | DIR/{train2017,val2017} and DIR/annotations/instances_{train2017,val2017}.json |

    Raises:
        FileNotFoundError: a folder or file of the layout is missing.
        ValueError: unknown name, or wrong contents.
    """
    name, _, path = spec.partition(":")
    if name not in ("voc07", "voc0712", "coco") or not path:
        raise ValueError(f"detection data must be voc07:DIR, voc0712:DIR or coco:DIR, got {spec!r}")
    folder = Path(path).expanduser()
    if name == "coco":
        return read_coco(folder)
    years = ("2007",) if name == "voc07" else ("2007", "2012")
    return read_voc(folder, [(year, "trainval") for year in years], [("2007", "test")])


def needed(path: Path) -> Path:
    """Returns the path, or raises FileNotFoundError."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; it belongs to the data set's layout")
    return path


def read_voc(
    folder: Path,
    train: Sequence[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    classes: Sequence[str] = VOC_CLASSES,
) -> BoxData:
    """Reads Pascal VOC (Everingham et al. 2010): one XML file for each image.

    Args:
        folder: that holds VOC2007 and the like.
        train: (year, split) pairs to learn from.
        test: (year, split) pairs to test on.
        classes: names of labels 1, 2, ...; another class raises ValueError.
    """
    ids = {name: number for number, name in enumerate(classes, start=1)}

    def read(pairs: Sequence[tuple[str, str]]) -> BoxSplit:
        files: list[Path] = []
        objects: list[Objects] = []
        for year, split in pairs:
            base = folder / f"VOC{year}"
            names = needed(base / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split()
            for name in names:
                files.append(base / "JPEGImages" / f"{name}.jpg")
                objects.append(read_voc_objects(needed(base / "Annotations" / f"{name}.xml"), ids))
        return BoxSplit(tuple(files), tuple(objects))

    return BoxData("voc", read(train), read(test), tuple(classes))


def read_voc_objects(path: Path, ids: dict[str, int]) -> Objects:
    """Reads the objects of one XML file. Its first pixel is 1, so the upper left corner moves by one."""
    boxes, labels, difficult = [], [], []
    try:
        for entry in ElementTree.parse(path).getroot().findall("object"):
            box = [float(entry.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            boxes.append([box[0] - 1.0, box[1] - 1.0, box[2], box[3]])
            labels.append(ids[entry.findtext("name", "")])
            difficult.append(entry.findtext("difficult", "0").strip() == "1")
    except KeyError as error:
        raise ValueError(f"{path} has the class {error}; known: {', '.join(ids)}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is not a Pascal VOC annotation ({error})") from None
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(difficult, dtype=torch.bool),
        torch.zeros(len(labels), dtype=torch.bool),
    )


def read_coco(folder: Path) -> BoxData:
    """Reads COCO (Lin et al. 2014, arXiv:1405.0312): a JSON file for each split; categories in the order of their ids.

    Raises:
        FileNotFoundError: a file of the layout is missing.
        ValueError: a file of another form, or splits with other categories.
    """
    splits, names = [], []
    for split in ("train2017", "val2017"):
        path = needed(folder / "annotations" / f"instances_{split}.json")
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            part, classes = parse_coco(table, needed(folder / split))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a COCO annotation ({type(error).__name__}: {error})") from None
        splits.append(part)
        names.append(classes)
    if names[0] != names[1]:
        raise ValueError(f"{folder}: its splits differ in categories, {names[0][:3]}... and {names[1][:3]}...")
    return BoxData("coco", splits[0], splits[1], names[0])


def parse_coco(table: dict[str, Any], images: Path) -> tuple[BoxSplit, tuple[str, ...]]:
    """Returns a split and its class names from the content of its JSON file; ``images`` is the folder of the files."""
    categories = sorted(table["categories"], key=lambda c: int(c["id"]))
    ids = {category["id"]: number for number, category in enumerate(categories, start=1)}
    by_image: dict[Any, list[Any]] = {image["id"]: [] for image in table["images"]}
    for entry in table["annotations"]:
        by_image[entry["image_id"]].append(entry)
    objects = []
    for entries in by_image.values():
        boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float32).view(-1, 4)
        crowd = torch.tensor([bool(entry.get("iscrowd", 0)) for entry in entries], dtype=torch.bool)
        objects.append(
            Objects(
                torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),  # from x, y, width, height
                torch.tensor([ids[entry["category_id"]] for entry in entries], dtype=torch.int64),
                torch.zeros(len(entries), dtype=torch.bool),
                crowd,
                tuple(entry.get("segmentation") for entry in entries),
            )
        )
    files = tuple(images / image["file_name"] for image in table["images"])
    return BoxSplit(files, tuple(objects)), tuple(str(category["name"]) for category in categories)


def outline_mask(outline: object, height: int, width: int) -> Tensor:
    """Converts COCO's "segmentation" of an object to pixels (height, width) bool.

    Polygons are filled by PIL, which may differ from COCO's own code by a pixel at the border; run lengths are exact.

    Args:
        outline: polygons as lists x, y, x, y, ...; or run lengths ``{"counts": ..., "size": ...}``, plain or as text.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: neither, or run lengths of another size.
    """
    if isinstance(outline, dict):
        counts = outline["counts"]
        lengths = np.array(text_counts(counts) if isinstance(counts, str) else counts, dtype=np.int64)
        if int(lengths.sum()) != height * width:
            raise ValueError(f"run lengths of {int(lengths.sum())} pixels do not fit {height} x {width}")
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)  # 0 first; column by column
        return torch.from_numpy(flat.reshape(width, height).T.copy())
    if not isinstance(outline, list):
        raise ValueError(f"an outline is a list of polygons or run lengths, got {type(outline).__name__}")
    canvas = Image.new("L", (width, height), 0)
    for polygon in outline:
        ImageDraw.Draw(canvas).polygon(list(map(float, polygon)), fill=1)
    return torch.from_numpy(np.array(canvas) == 1)


def text_counts(text: str) -> list[int]:
    """Decodes COCO's run lengths: groups of 5 bits, low ones first; from the third on, differences by two."""
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue  # more groups follow
        if code & 16:
            value -= 1 << shift  # a negative difference
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    return counts


def image_targets(objects: Sequence[Objects], num_classes: int) -> Tensor:
    """Returns the classes of each image as SVM targets (N, K): 1 yes, 0 no, -1 only as "difficult" objects."""
    targets = torch.zeros(len(objects), num_classes, dtype=torch.int64)
    for row, shown in zip(targets, objects, strict=True):
        row[shown.labels[shown.difficult] - 1] = -1
        row[shown.labels[~shown.difficult] - 1] = 1
    return targets
