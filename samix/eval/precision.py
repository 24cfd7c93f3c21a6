"""Average precision of boxes. VOC's is our own; COCO's comes from torchmetrics and pycocotools, an optional extra."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou

from samix.eval.boxes import Objects

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
Array = npt.NDArray[np.number]
Flags = npt.NDArray[np.bool_]
Detections = dict[str, Tensor]  # of an image: boxes (n, 4), labels (n,), scores (n,)


def eleven_points(recall: Array, precision: Array) -> float:
    """Computes VOC07's average precision: the mean of the best precision at recalls 0, 0.1, ..., 1 or above."""
    # With a margin for rounding: 3 of 5 reach a recall of 0.6. Common code compares with 0.1 * 6 = 0.6000000000000001.
    best = [precision[recall >= point / 10 - 1e-9].max(initial=0.0) for point in range(11)]
    return float(np.mean(best))


def ranked(detections: Sequence[Detections], truth: Sequence[Objects], label: int) -> tuple[Array, Array, Flags, int]:
    """Ranks all detections of a class, the surest first, each with the object it covers best.

    Returns:
        overlap (n,), the object's number over all images (n,) or -1, whether that object is difficult (n,); and the
        number of objects that count.
    """
    scores: list[Tensor] = []
    overlaps: list[Tensor] = []
    matches: list[Tensor] = []
    difficult: list[Tensor] = []
    first = 0
    for row, objects in zip(detections, truth, strict=True):
        mine, theirs = row["labels"] == label, objects.labels == label
        boxes = row["boxes"][mine]
        count = int(theirs.sum())
        if count and len(boxes):
            overlap, match = box_iou(boxes.double(), objects.boxes[theirs].double()).max(1)
            hard = objects.difficult[theirs][match]
            match = match + first
        else:
            overlap, match = torch.zeros(len(boxes)), torch.full((len(boxes),), -1)
            hard = torch.zeros(len(boxes), dtype=torch.bool)
        scores.append(row["scores"][mine])
        overlaps.append(overlap.double())
        matches.append(match)
        difficult.append(hard)
        first += count
    wanted = sum(int(((o.labels == label) & ~o.difficult).sum()) for o in truth)
    order = np.argsort(-torch.cat(scores).double().numpy(), kind="stable")
    joined = [torch.cat(parts).numpy()[order] for parts in (overlaps, matches, difficult)]
    return joined[0], joined[1], joined[2], wanted


def class_precision(overlap: Array, match: Array, difficult: Flags, wanted: int, threshold: float) -> float:
    """Computes the 11-point average precision of one class from the result of :func:`ranked`.

    VOC's rule: a detection is judged by the object it covers best. Above the threshold it is right if it is the first
    to claim that object, wrong if not; where the object is difficult, it does not count.
    """
    covers = overlap > threshold
    right = np.zeros(len(overlap), dtype=bool)
    claims = np.flatnonzero(covers & ~difficult)
    right[claims[np.unique(match[claims], return_index=True)[1]]] = True
    counted = ~(covers & difficult)
    hits = right[counted].cumsum()
    return eleven_points(hits / wanted, hits / np.arange(1, len(hits) + 1))


def voc_precision(
    detections: Sequence[Detections],
    truth: Sequence[Objects],
    num_classes: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """Computes VOC07's average precision by overlap; means over the classes that have an object.

    ``ap`` is the mean over overlaps 0.5 to 0.95, each with the 11-point interpolation, as the transfer tables of MoCo
    and others have it (detectron2's evaluator).

    Args:
        detections: of each image, on the CPU.
        truth: of each image.
        num_classes: K, labels 1..K.
        thresholds: overlaps (intersection over union); an overlap must be larger.

    Returns:
        ``ap``, and ``ap50`` and ``ap75`` where they are asked for, in percent.

    Raises:
        ValueError: images and detections differ in number, or no object counts.
    """
    if len(detections) != len(truth) or not detections:
        raise ValueError(f"expected detections of each image, got {len(detections)} for {len(truth)} images")
    rows = []
    for label in range(1, num_classes + 1):
        overlap, match, difficult, wanted = ranked(detections, truth, label)
        if wanted:
            rows.append([class_precision(overlap, match, difficult, wanted, t) for t in thresholds])
    if not rows:
        raise ValueError("no object of the test images counts, so precision is undefined")
    mean = 100.0 * np.mean(rows, axis=0)  # (thresholds,)
    named = {f"ap{round(100 * t)}": float(mean[i]) for i, t in enumerate(thresholds) if t in (0.5, 0.75)}
    return {"ap": float(mean.mean()), **named}


def coco_precision(pairs: Iterable[tuple[Detections, dict[str, Tensor]]], *, masks: bool = False) -> dict[str, float]:
    """Computes COCO's average precision by torchmetrics and pycocotools.

    Returns:
        ``ap``, ``ap50``, ``ap75`` of boxes, and ``mask_ap``, ``mask_ap50``, ``mask_ap75``, in percent.
    """
    if find_spec("pycocotools") is None:
        raise ImportError("COCO's average precision needs pycocotools; install samix[detection]")
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(iou_type=("bbox", "segm") if masks else "bbox", backend="pycocotools")
    metric.warn_on_many_detections = False
    for detections, truth in pairs:
        metric.update([detections], [truth])
    result = metric.compute()
    start = "bbox_" if masks else ""
    names = {"ap": "map", "ap50": "map_50", "ap75": "map_75"}
    scores = {name: 100.0 * float(result[start + key]) for name, key in names.items()}
    if masks:
        scores |= {f"mask_{name}": 100.0 * float(result["segm_" + key]) for name, key in names.items()}
    return scores
