"""``localisation``: does a classifier's activation map find the object? MaxBoxAcc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from samix.analysis.base import Analysis, Findings, evenly, pixels_of
from samix.analysis.cam import enlarge
from samix.analysis.subject import Subject
from samix.data.decode import read_header
from samix.eval.boxes import needed
from samix.mixups.saliency import class_activation
from samix.runtime.typed_options import Count, CountOr0
from samix.viz.figures import IMAGE_A, IMAGE_B, THIRD, add_axes, bare, figure, label
from samix.viz.pictures import show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


OVERLAPS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Localisation:
    """How often the box around a map's largest region meets the object's."""

    thresholds: tuple[float, ...]  # of the maps scaled to [0, 1]
    overlaps: tuple[float, ...]  # smallest IoU that counts as found
    accuracy: tuple[tuple[float, ...], ...]  # for each overlap, percent of images found at each threshold
    max_box_acc: tuple[float, ...]  # for each overlap, the largest of them
    whole: tuple[float, ...]  # for each overlap, percent that a box around the whole image gets: the floor
    best: float  # threshold with the most images found at an overlap of 0.5


def max_box_acc(maps: Tensor, boxes: Tensor, size: tuple[int, int], *, steps: int = 100) -> Localisation:
    """Computes MaxBoxAcc (Choe et al. 2020, arXiv:2001.07437).

    Each map is scaled to [0, 1] by its own range and enlarged bilinearly; at each threshold t a box is drawn around the
    largest connected region (of 8 neighbours) that is above t. Theirs takes 1001 thresholds, and for MaxBoxAccV2, the
    mean over IoU 0.3, 0.5 and 0.7, the boxes of all regions; here it is the largest region for each.

    Args:
        maps: (N, h, w), larger where the class is seen.
        boxes: (N, 4) or (N, m, 4) boxes (x0, y0, x1, y1) in pixels of ``size``, x1 and y1 just outside; of several, the
            best met one counts. A box without area is no box.
        size: (H, W) of the images.
        steps: thresholds are 0, 1 / steps, ..., below 1.

    Raises:
        ValueError: other shapes, an image without a box, or fewer than two steps.
    """
    boxes = boxes.float().cpu()
    boxes = boxes[:, None] if boxes.dim() == 2 else boxes
    if maps.dim() != 3 or boxes.dim() != 3 or boxes.shape[2] != 4 or len(maps) != len(boxes) or len(maps) == 0:
        raise ValueError(f"need maps (N, h, w) and boxes (N, m, 4), got {tuple(maps.shape)} and {tuple(boxes.shape)}")
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    if not bool((boxes[..., 2:] > boxes[..., :2]).all(-1).any(-1).all()):
        raise ValueError("each image needs a box of some area; leave out the images without one")
    large = scaled(enlarge(maps.cpu(), size)).numpy()
    thresholds = [step / steps for step in range(steps)]
    drawn = np.stack([[region_box(one, t) for t in thresholds] for one in large])  # (N, steps, 4)
    met = overlap_of(torch.from_numpy(drawn), boxes)  # (N, steps)
    whole = overlap_of(torch.tensor([0, 0, size[1], size[0]]).float().expand(len(boxes), 1, 4), boxes)
    table = [100.0 * (met >= overlap).float().mean(0) for overlap in OVERLAPS]
    return Localisation(
        tuple(thresholds),
        OVERLAPS,
        tuple(tuple(row.tolist()) for row in table),
        tuple(float(row.max()) for row in table),
        tuple(100.0 * float((whole >= overlap).float().mean()) for overlap in OVERLAPS),
        thresholds[int(table[OVERLAPS.index(0.5)].argmax())],
    )


def scaled(maps: Tensor) -> Tensor:
    """Scales each of (N, h, w) to [0, 1] by its own range; a flat map becomes 1: its box is the whole image."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-30), 1.0)


def region_box(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], threshold: float) -> tuple[float, ...]:
    """Returns (x0, y0, x1, y1) around the largest region of (h, w) above a threshold; all 0 without one."""
    from scipy.ndimage import find_objects, label  # type: ignore[import-untyped, unused-ignore]

    regions, count = label(values > threshold, structure=np.ones((3, 3)))
    if count == 0:
        return (0.0, 0.0, 0.0, 0.0)
    largest = 0 if count == 1 else int(np.bincount(regions.ravel())[1:].argmax())
    rows, columns = find_objects(regions)[largest]
    return (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))


def overlap_of(drawn: Tensor, boxes: Tensor) -> Tensor:
    """Computes the IoU (N, t) of (N, t, 4) with the best met of (N, m, 4); boxes without area meet none."""
    return torch.stack([box_iou(*pair).nan_to_num(0.0).amax(1) for pair in zip(drawn.float(), boxes, strict=True)])


# Boxes ----------------------------------------------------------------------------------------------------------------


def read_tiny_boxes(folder: Path) -> dict[str, tuple[float, ...]]:
    """Reads the boxes of Tiny-ImageNet's held-out images, by file name, from val/val_annotations.txt.

    The file gives the first and the last pixel of a box in a 64 x 64 image, so the box ends one pixel later.
    """
    inner = folder if (folder / "val").is_dir() else folder / "tiny-imagenet-200"
    path = needed(inner / "val" / "val_annotations.txt")
    boxes: dict[str, tuple[float, ...]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = line.split("\t")
        if len(cells) != 6 or not all(cell.isdigit() for cell in cells[2:]):
            raise ValueError(f"{path}: expected file, class, x0, y0, x1, y1 with tabs between, got {line!r}")
        x0, y0, x1, y1 = map(float, cells[2:])
        boxes[cells[0]] = (x0, y0, x1 + 1.0, y1 + 1.0)
    return boxes


def read_cub_boxes(folder: Path) -> dict[str, tuple[float, ...]]:
    """Reads the boxes of CUB-200-2011's images, by file below images/, from images.txt and bounding_boxes.txt.

    Folder and errors as of :func:`read_tiny_boxes`.
    """
    inner = folder if (folder / "images.txt").is_file() else folder / "CUB_200_2011"
    names = dict(line.split() for line in needed(inner / "images.txt").read_text(encoding="utf-8").splitlines())
    boxes: dict[str, tuple[float, ...]] = {}
    path = needed(inner / "bounding_boxes.txt")
    for line in path.read_text(encoding="utf-8").splitlines():
        number, *sides = line.split()
        if len(sides) != 4 or number not in names:
            raise ValueError(f"{path}: expected image id, x, y, width, height of an image, got {line!r}")
        x, y, width, height = map(float, sides)
        boxes[names[number]] = (x, y, x + width, y + height)
    return boxes


def fitted_box(box: Sequence[float], image: Path, size: int, short: int) -> tuple[float, ...]:
    """Moves a box as the test transform moves an image: short side to ``short``, then the ``size`` centre."""
    width, height, _ = read_header(image, str(image))
    scale = short / min(width, height)
    left, top = (round((int(side * scale) - size) / 2.0) for side in (width, height))
    moved = [box[0] * scale - left, box[1] * scale - top, box[2] * scale - left, box[3] * scale - top]
    return tuple(min(max(value, 0.0), float(size)) for value in moved)


def plant(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Puts each image at a random place of a canvas twice as wide and high, of the mean colour of the image's border.

    Returns:
        (N, C, 2 H, 2 W), and boxes (N, 4).
    """
    count, _, height, width = images.shape
    rim = torch.ones(height, width, dtype=torch.bool, device=images.device)
    rim[1:-1, 1:-1] = False
    canvas = images[:, :, rim].mean(2)[:, :, None, None].expand(-1, -1, 2 * height, 2 * width).clone()
    tops = torch.randint(height + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width + 1, (count,), generator=generator).tolist()
    for row, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        canvas[row, :, top : top + height, left : left + width] = images[row]
    boxes = [[left, top, left + width, top + height] for top, left in zip(tops, lefts, strict=True)]
    return canvas, torch.tensor(boxes, dtype=torch.float32)


def shrink(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Halves images (N, C, H, W) and boxes (N, 4), for networks that take one size only."""
    half = (images.shape[2] // 2, images.shape[3] // 2)
    return F.interpolate(images, half, mode="bilinear", antialias=True), boxes / 2.0


def draw(result: Localisation, pixels: Tensor, maps: Tensor, boxes: Tensor, title: str) -> Figure:
    """Draws accuracy by threshold, and images (n, 3, H, W) with map, true box and found box."""
    columns = (len(pixels) + 1) // 2
    fig = figure(4.2 + 1.5 * columns, 3.6)
    grid = fig.add_gridspec(2, 1 + columns, width_ratios=(3.4, *[1.5] * columns))
    ax = add_axes(fig, grid[:, 0])
    for overlap, values, best, floor, colour in zip(
        result.overlaps, result.accuracy, result.max_box_acc, result.whole, (IMAGE_A, THIRD, IMAGE_B), strict=False
    ):
        name = f"IoU ≥ {overlap:g}: {best:.1f} % (whole image {floor:.1f})"
        ax.plot(result.thresholds, values, color=colour, label=name)
    ax.set_ylim(-3, 128)
    ax.set_yticks(range(0, 101, 20))
    label(ax, "objects found by the box around the map", "threshold of the map", "%", legend="upper left")
    large = scaled(enlarge(maps.cpu(), (pixels.shape[2], pixels.shape[3])))
    for number, (image, one) in enumerate(zip(pixels, large, strict=True)):
        panel = bare(fig.add_subplot(grid[number // columns, 1 + number % columns]))
        show_image(panel, image)
        panel.imshow(one.numpy(), cmap="magma", alpha=0.35, vmin=0, vmax=1)
        for box, shade, style in (
            (boxes[number].tolist(), "#7CFC00", "-"),
            (region_box(one.numpy(), result.best), "white", "--"),
        ):
            x0, y0, x1, y1 = (value - 0.5 for value in box)
            panel.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=shade, lw=1.6, ls=style, clip_on=False)
    fig.suptitle(f"{title}\ngreen: the object's box, white: found at threshold {result.best:g}", fontsize=9)
    return fig


@dataclass(frozen=True)
class LocalisationAnalysis(Analysis):
    """Weakly supervised localisation: MaxBoxAcc of the true class's activation map, at IoU 0.3, 0.5 and 0.7.

    Boxes are known of tiny-imagenet:DIR and cub:DIR. Of other data each image is put at a random place of a canvas
    twice as wide and high, and has to be found there.

    Args:
        steps: thresholds of the maps, evenly spaced.
        planted: put images on a canvas where boxes are known too.
        feature: dotted name of the layer that gives the map; empty for timm's networks.
    """

    name: ClassVar[str] = "localisation"

    images: CountOr0 = 200
    steps: Count = 100
    planted: bool = False
    feature: str = ""

    def analyse(self, subject: Subject) -> Findings:
        images, boxes, origin = self.boxes(subject.classified())
        parts = zip(torch.split(images, self.batch_size), torch.split(subject.labels, self.batch_size), strict=True)
        maps = torch.cat([class_activation(subject.network, x, y, feature=self.feature) for x, y in parts])
        result = max_box_acc(maps, boxes, (images.shape[2], images.shape[3]), steps=self.steps)
        rows = evenly(len(images), 6)
        shown = pixels_of(subject, images[rows.to(images.device)])
        figure = draw(result, shown, maps[rows.to(maps.device)], boxes[rows], f"{subject.title}; {origin}")
        scores = ", ".join(f"{a:.1f} % at {o:g}" for o, a in zip(result.overlaps, result.max_box_acc, strict=True))
        floors = ", ".join(f"{floor:.1f}" for floor in result.whole)
        line = f"MaxBoxAcc {scores} of IoU (whole image: {floors}), {origin}"
        return Findings(line, {"boxes": origin, "result": result}, figure)

    def boxes(self, subject: Subject) -> tuple[Tensor, Tensor, str]:
        """Returns images, their boxes (N, 4), and where the boxes come from."""
        name, _, folder = (self.data or subject.recipe.data).partition(":")
        readers = {"tiny-imagenet": read_tiny_boxes, "cub": read_cub_boxes}
        if name in readers and not self.planted:
            known, size, short = readers[name](Path(folder).expanduser()), *subject.fit
            top = subject.files()[0].parents[0 if name == "tiny-imagenet" else 1]
            boxes = [fitted_box(known[str(f.relative_to(top))], f, size, short) for f in subject.files()]
            return subject.images, torch.tensor(boxes), f"boxes of {name}"
        images, planted = plant(subject.images, torch.Generator().manual_seed(self.seed))
        if hasattr(subject.network, "patch_embed"):
            images, planted = shrink(images, planted)
        return images, planted, "objects planted on a canvas"
