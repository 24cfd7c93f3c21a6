"""GridMix: two mixups that share a name, a grid of holes and a chequerboard of whole cells."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_pair
from samix.mixups.base import Augmentation, Guides, Requirements, choose
from samix.mixups.cells import to_pixels
from samix.networks.last_map import catch_last_map, last_width
from samix.runtime.typed_options import Count, Positive, PositiveShare, Weight


def gridmix_holes(
    x: Tensor, partner: Tensor, lam: Tensor, cells: Tensor, area: Tensor, aspect: Tensor, place: Tensor
) -> Mixed:
    """Lets each partner show through a regular grid of holes in a crop of the image.

    The form that OpenMixup and its benchmark tables call GridMix, from community code. The crop has the width
    ``floor(sqrt(area H W / aspect))`` and the height ``floor(aspect * width)``, cut to the image, where OpenMixup lets
    it reach outside in almost half of its draws. It is tiled from its corner by square cells of
    ``ceil(width / cells)`` pixels; each has, in its own corner, a square hole of side ``floor(cell * sqrt(1 - lam))``,
    at least one pixel and at most the cell's side less one.

    Args:
        lam: (B,) in [0, 1]; 1 - lam is the share of a *cell* that is hole. 1 makes none, 0 shows the whole partner.
        cells: (B,) cells across the crop; lowered to half the crop's width where that is less.
        area: (B,) share of the image that the crop covers, in (0, 1].
        aspect: (B,) height of the crop over its width, > 0.
        place: (B, 2) in [0, 1), row and column of the crop's corner among the places possible.
    """
    check_pair(x, partner, lam)
    height, width = x.shape[-2:]
    crop_width = torch.floor(torch.sqrt(area * (height * width) / aspect)).clamp(1.0, width)
    crop_height = torch.floor(crop_width * aspect).clamp(1.0, height)
    across = torch.minimum(cells, torch.floor(crop_width / 2.0)).clamp(min=1.0)
    side = torch.ceil(crop_width / across)
    hole = torch.floor(side * torch.sqrt(1.0 - lam)).clamp(min=1.0)
    hole = torch.minimum(hole, side - 1.0) * (lam < 1.0)
    rows = _holes_along(height, crop_height, side, hole, place[:, 0])
    columns = _holes_along(width, crop_width, side, hole, place[:, 1])
    holes = rows.unsqueeze(2) & columns.unsqueeze(1)  # (B, H, W)
    own = ~holes & (lam > 0.0).view(-1, 1, 1)
    return choose(x, partner, own.unsqueeze(1).float())


def _holes_along(size: int, crop: Tensor, side: Tensor, hole: Tensor, place: Tensor) -> Tensor:
    """Along one side of the image, which coordinates lie in the crop and in a hole: (B, size) bool."""
    start = torch.floor(place * (size - crop + 1.0)).unsqueeze(1)
    at = torch.arange(size, device=crop.device) - start
    return (at >= 0.0) & (at < crop.unsqueeze(1)) & (torch.remainder(at, side.unsqueeze(1)) < hole.unsqueeze(1))


def gridmix_cells(x: Tensor, partner: Tensor, lam: Tensor, scores: Tensor) -> Mixed:
    """Takes each cell of a grid whole, from the image or from the partner.

    GridMix (Baek, Bang and Shim 2021, Pattern Recognition); known second-hand, not checked against the authors' code.
    Its loss on the cells is :func:`cell_loss`. Exactly round(lam * cells) of the cells keep x. Where the grid
    does not divide the image evenly, some cells are a pixel larger than others.

    Args:
        lam: (B,) share of the cells that keep x, in [0, 1].
        scores: (B, gh, gw) uniform; the cells with the lowest keep x.
    """
    check_pair(x, partner, lam)
    _, down, across = scores.shape
    order = scores.flatten(1).argsort(dim=1)
    kept = torch.arange(down * across, device=x.device) < torch.round(lam * (down * across)).unsqueeze(1)
    own = torch.zeros_like(kept).scatter(1, order, kept).view(-1, down, across)
    return choose(x, partner, to_pixels(own.float(), (x.shape[2], x.shape[3])))


def cell_loss(logits: Tensor, batch: MixedBatch) -> Tensor:
    """Cross-entropy of each cell with the label of the image it shows, averaged over cells and samples.

    GridMix's "local context mapping" (Baek, Bang and Shim 2021).

    Args:
        logits: (B, K, gh, gw), one prediction per cell.
        batch: of :func:`gridmix_cells` with as many cells; class ids or (B, K) float targets.

    Returns:
        Scalar, in nats.
    """
    assert batch.mask is not None
    (down, across), (height, width) = logits.shape[2:], batch.mask.shape[2:]
    row = -(-torch.arange(down, device=logits.device) * height // down)  # the first pixel row of each row of cells
    column = -(-torch.arange(across, device=logits.device) * width // across)
    row, column = row.clamp(max=height - 1), column.clamp(max=width - 1)  # more cells than pixels
    own = batch.mask[:, 0, row][:, :, column]  # (B, gh, gw), 1 where the own cell stays
    log_p = F.log_softmax(logits.float(), dim=1)
    if batch.labels.is_floating_point():
        picked = torch.einsum("bsk,bkhw->bshw", batch.labels.float(), log_p)
    else:
        picked = log_p.gather(1, batch.labels[:, :, None, None].expand(-1, -1, down, across))  # (B, 2, gh, gw)
    return -(torch.stack([own, 1.0 - own], dim=1) * picked).sum(1).mean()


@dataclass
class GridMix(Augmentation):
    """Mixes two images in a grid: ``style="holes"`` is :func:`gridmix_holes`, ``"cells"`` :func:`gridmix_cells`.

    Published for holes: alpha 0.2 (CIFAR) or 1 (ViTs), and the bounds below.

    Args:
        style: which of the two.
        cells: cells: the grid is cells x cells.
        cells_min: holes: fewest cells across the crop.
        cells_max: holes: most.
        area_min: holes: smallest crop, as a share of the image, in (0, 1].
        area_max: holes: largest.
        aspect_min: holes: smallest height over width of the crop, > 0.
        aspect_max: holes: largest.
        cell_weight: cells: weight of :func:`cell_loss`, for which a 1x1 convolution reads the last feature map, pooled
            to one value per cell; 0 does without.
        layer: cells: dotted name of the layer that gives the last feature map; empty for timm networks.

    Example:
        >>> batch = samix.GridMix(alpha=0.2)(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "gridmix"

    style: Literal["holes", "cells"] = "holes"
    cells: Count = 4
    cells_min: Count = 2
    cells_max: Count = 6
    area_min: PositiveShare = 0.5
    area_max: PositiveShare = 1.0
    aspect_min: Positive = 0.5
    aspect_max: Positive = 2.0
    cell_weight: Weight = 0.0
    layer: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cells", "area", "aspect"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(f"{name}_min must be at most {name}_max, got {low} and {high}")
        if self.cell_weight > 0.0 and self.style != "cells":
            raise ValueError(f'cell_weight is for style="cells", got {self.cell_weight} with {self.style!r}')
        self.head: nn.Conv2d | None = None

    @property
    def requirements(self) -> Requirements:
        return Requirements(own_losses=("cells",) if self.cell_weight else ())

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """Scores (B, cells, cells), or cells, area, aspect (B,) and place (B, 2).

        Raises:
            ValueError: the image is too narrow for cells_min cells of two pixels.
        """
        batch, width = shape[0], shape[-1]
        if self.style == "cells":
            return {"scores": torch.rand(batch, self.cells, self.cells, generator=self.generator)}
        if self.cells_min > width // 2:
            raise ValueError(f"cells_min must be at most half the image's width {width}, got {self.cells_min}")
        draws = torch.rand(5, batch, generator=self.generator)
        return {
            "cells": self.cells_min + torch.floor(draws[0] * (self.cells_max - self.cells_min + 1)),
            "area": self.area_min + (self.area_max - self.area_min) * draws[1],
            "aspect": self.aspect_min + (self.aspect_max - self.aspect_min) * draws[2],
            "place": draws[3:].T,
        }

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        if self.style == "cells":
            return gridmix_cells(x, partner, lam, extras["scores"])
        return gridmix_holes(x, partner, lam, extras["cells"], extras["area"], extras["aspect"], extras["place"])

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """The classifier of the cells, (B, D, gh, gw) -> (B, num_classes, gh, gw), where it has a weight."""
        if self.cell_weight == 0.0:
            return None
        device = next((p.device for p in model.parameters()), None)
        self.head = nn.Conv2d(last_width(model, self.layer), num_classes, 1, device=device)
        return self.head

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes and runs the model; with ``cell_weight``, adds the loss of the cells as ``extra["cells"]``.

        Raises:
            ValueError: the loss of the cells is asked for and :meth:`attach` was not called, or labels at each pixel.
        """
        if self.cell_weight == 0.0:
            return super().forward_through(model, images, labels)
        if self.head is None:
            raise ValueError(
                "GridMix trains a classifier of cells: call attach(model, num_classes) before training, and give its "
                "parameters to the optimiser; or set cell_weight=0"
            )
        batch = self(images, labels, model=model)
        self.check_kind(labels, "class", "soft", instead="set cell_weight=0, which leaves out the classifier of cells")
        with catch_last_map(model, self.layer) as caught:
            logits = model(batch.images)
        cells = self.head(F.adaptive_avg_pool2d(caught.read(model), (self.cells, self.cells)))
        return logits, dataclasses.replace(batch, extra={"cells": self.cell_weight * cell_loss(cells, batch)})
