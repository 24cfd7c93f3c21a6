"""``samix analyse localisation | cam``: where a network looks."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from samix.analysis import pictures
from samix.analysis.base import Analysis, paint, pixels_of
from samix.analysis.cam import mixed_cam
from samix.analysis.localisation import (
    fitted_box,
    max_box_acc,
    plant,
    read_cub_boxes,
    read_tiny_boxes,
    shrink,
)
from samix.analysis.subject import Subject
from samix.mixups.saliency import class_activation
from samix.runtime.checks import COUNT, SHARE, Ranges


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
    ranges: ClassVar[Ranges] = {"steps": COUNT}

    images: int = 200
    steps: int = 100
    planted: bool = False
    feature: str = ""

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """The class activation map against the box."""
        images, boxes, told = self.boxes(subject.classified())
        parts = zip(torch.split(images, self.batch_size), torch.split(subject.labels, self.batch_size), strict=True)
        maps = torch.cat([class_activation(subject.network, x, y, feature=self.feature) for x, y in parts])
        size = (images.shape[2], images.shape[3])
        found = max_box_acc(maps, boxes, size, steps=self.steps)
        rows = torch.linspace(0, len(images) - 1, min(6, len(images))).long()
        shown = pixels_of(subject, images[rows.to(images.device)])
        title = f"{subject.title}; {told}"
        paint(
            path,
            lambda p: pictures.draw_localisation(p, found, shown, maps[rows.to(maps.device)], boxes[rows], title),
        )
        scores = ", ".join(f"{a:.1f} % at {o:g}" for o, a in zip(found.overlaps, found.max_box_acc, strict=True))
        floors = ", ".join(f"{floor:.1f}" for floor in found.whole)
        line = f"MaxBoxAcc {scores} of IoU (whole image: {floors}), {told}"
        return line, {"boxes": told, "result": found}

    def boxes(self, subject: Subject) -> tuple[Tensor, Tensor, str]:
        """Images, their boxes (N, 4), and where these come from."""
        kind, _, place = (self.data or subject.recipe.data).partition(":")
        readers = {"tiny-imagenet": read_tiny_boxes, "cub": read_cub_boxes}
        if kind in readers and not self.planted:
            known, size, short = readers[kind](Path(place).expanduser()), *subject.fit
            top = subject.files()[0].parents[0 if kind == "tiny-imagenet" else 1]
            boxes = [fitted_box(known[str(f.relative_to(top))], f, size, short) for f in subject.files()]
            return subject.images, torch.tensor(boxes), f"boxes of {kind}"
        images, boxes_ = plant(subject.images, torch.Generator().manual_seed(self.seed))
        if hasattr(subject.network, "patch_embed"):
            images, boxes_ = shrink(images, boxes_)
        return images, boxes_, "objects planted on a canvas"


@dataclass(frozen=True)
class Cam(Analysis):
    """Grad-CAM of mixed images for both of their classes.

    Args:
        mixup: by which images are mixed, by name or mixer:PATH; empty takes the run's own, or mixup.
        lam: share of the own image.
        rows: pairs in the picture.
        layer: dotted name of the layer that gives the map; empty for timm's networks.
    """

    name: ClassVar[str] = "cam"
    ranges: ClassVar[Ranges] = {"lam": SHARE, "rows": COUNT}

    images: int = 100
    mixup: str = ""
    lam: float = 0.5
    rows: int = 4
    layer: str = ""

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Pairs of two classes; the number is over all, the picture shows the first."""
        index = subject.classified().partners(self.seed)
        mix, name = subject.mixing(self.mixup, index, self.seed)
        batch = mix(self.lam)
        kept = (batch.labels[:, 0] != batch.labels[:, 1]).nonzero().flatten()
        if len(kept) == 0:
            raise ValueError("no pair has two classes; take more images, or images of several classes")
        mask = None if batch.mask is None else batch.mask[kept]
        batch = dataclasses.replace(
            batch,
            images=batch.images[kept],
            labels=batch.labels[kept],
            weights=batch.weights[kept],
            index=batch.index[kept],
            mask=mask,
        )
        found = mixed_cam(subject.network, batch, self.layer)
        few = torch.linspace(0, len(kept) - 1, min(self.rows, len(kept))).long().to(kept.device)
        sources = tuple(pixels_of(subject, subject.images[batch.index[few, k]]) for k in (0, 1))
        known = subject.class_names
        names = [(known[int(a)], known[int(b)]) for a, b in batch.labels[few, :2].tolist()]
        shown = pixels_of(subject, batch.images[few])
        masks = None if mask is None else mask[few]
        title = f"{subject.title}; mixed by {name} at λ = {self.lam:g}"
        cams = dataclasses.replace(found, own=found.own[few], partner=found.partner[few])
        paint(path, lambda p: pictures.draw_cam(p, (sources[0], sources[1]), shown, masks, cams, names, title))
        nowhere = float(((found.own.amax((1, 2)) <= 0) | (found.partner.amax((1, 2)) <= 0)).float().mean())
        told = "no masks to compare with"
        if not math.isnan(found.inside):
            told = (
                f"{100 * found.inside:.1f} % of the maps lie on pixels of their class (a flat map: "
                f"{100 * found.chance:.1f} %)"
            )
        line = f"mixed by {name} at lambda {self.lam:g}, {len(kept)} pairs: {told}; a class unseen in {nowhere:.1%}"
        return line, {"mixup": name, "pairs": len(kept), "unseen": nowhere, "result": found}
