"""SMMix: a window of much attention over one of little (Chen et al., ICCV 2023, arXiv:2212.12977)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels, check_pair
from samix.mixups.base import Guides, Requirements, choose
from samix.mixups.boxes import span
from samix.mixups.cells import to_pixels
from samix.mixups.guided import GuidedAugmentation, need_guides
from samix.mixups.switching import SwitchingAugmentation
from samix.networks.attention import as_vit, attention_layers, patches_of, received_attention
from samix.networks.heads import idle
from samix.networks.inference import inspecting
from samix.runtime.typed_options import PositiveShare, Share, Weight


def smmix(
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    own_map: Tensor,
    partner_map: Tensor,
    *,
    min_side: float = 0.25,
    max_side: float = 0.75,
) -> Mixed:
    """Pastes the partner's window of most attention over the own window of least attention.

    SMMix (Chen et al., ICCV 2023, arXiv:2212.12977). The window's side is a whole number s of tokens, between
    ``floor(min_side g)`` and ``floor(max_side g)`` for a grid of side g, all alike likely when ``sqrt(1 - lam)`` is
    uniform between min_side and max_side; beyond these it is ``floor(g sqrt(1 - lam))``. Rows and columns of a grid
    that is not square have sides of their own.

    Args:
        own_map: (B, gh, gw) attention of x on the patch grid, at least 0; of equal windows the first one is taken.
        partner_map: of the partner.
        min_side: smallest side of a window drawn, as a share of the grid's.
        max_side: largest.

    Returns:
        Mixed; its lam is the exact area left to x, 1 - s^2 / g^2.
    """
    check_pair(x, partner, lam)
    (height, width), (rows, columns) = x.shape[2:], own_map.shape[1:]
    ratio = torch.sqrt(1.0 - lam)
    tall, wide = _window(ratio, rows, min_side, max_side), _window(ratio, columns, min_side, max_side)
    top, left = _best_window(own_map, tall, wide, least=True)
    from_top, from_left = _best_window(partner_map, tall, wide, least=False)
    inside = span(top, top + tall, rows).unsqueeze(2) & span(left, left + wide, columns).unsqueeze(1)
    at_row = _moved(top, from_top, rows, height)  # (B, H): where each row looks in the partner
    at_column = _moved(left, from_left, columns, width)
    moved = partner.gather(2, at_row.view(len(x), 1, height, 1).expand_as(partner))
    moved = moved.gather(3, at_column.view(len(x), 1, 1, width).expand_as(partner))
    return choose(x, moved, to_pixels((~inside).float(), (height, width)))


def _window(ratio: Tensor, size: int, min_side: float, max_side: float) -> Tensor:
    """(B,) side of the window in tokens, float32 whole numbers."""
    low, high = math.floor(min_side * size), math.floor(max_side * size)
    span = max(max_side - min_side, 1e-6)
    drawn = (low + torch.floor((ratio - min_side) / span * (high - low + 1))).clamp(low, high)
    between = (ratio >= min_side - 1e-6) & (ratio <= max_side + 1e-6)  # lam was squared and its root taken
    return torch.where(between, drawn, torch.floor(ratio * size))


def _best_window(guide: Tensor, tall: Tensor, wide: Tensor, *, least: bool) -> tuple[Tensor, Tensor]:
    """First row and column (both (B,) float32) of the window with the smallest or largest sum."""
    rows, columns = guide.shape[1:]
    down, across = _windows(tall, rows), _windows(wide, columns)  # (B, starts, cells)
    sums = down @ guide.float() @ across.transpose(1, 2)  # (B, rows, columns), by the window's first cell
    start = torch.arange(rows, device=guide.device), torch.arange(columns, device=guide.device)
    fits_down = start[0] + tall.unsqueeze(1) <= rows
    fits_across = start[1] + wide.unsqueeze(1) <= columns
    fits = fits_down.unsqueeze(2) & fits_across.unsqueeze(1)
    best = torch.where(fits, -sums if least else sums, -math.inf).flatten(1).argmax(1)
    return (best // columns).float(), (best % columns).float()


def _windows(side: Tensor, size: int) -> Tensor:
    """(B,) sides -> (B, size, size) float32: row t is 1 on t <= cell < t + side."""
    at = torch.arange(size, device=side.device)
    ahead = at.unsqueeze(0) - at.unsqueeze(1)  # cell - start
    return ((ahead >= 0) & (ahead < side.view(-1, 1, 1))).float()


def _moved(to: Tensor, source: Tensor, cells: int, size: int) -> Tensor:
    """(B, size) int64: the pixel that lands on each pixel when cell ``source`` is moved to cell ``to``."""
    first = [torch.ceil(cell * size / cells).long() for cell in (to, source)]  # of the cell's pixels
    at = torch.arange(size, device=to.device) + (first[1] - first[0]).unsqueeze(1)
    return at.clamp(0, size - 1)


def consistency_loss(logits: Tensor, clean: Tensor, batch: MixedBatch) -> Tensor:
    """How far the prediction of the mix is from the mix of the clean predictions.

    SMMix: KL(softmax(lam z_clean + (1 - lam) z_clean of the partner) || softmax(z)), mean over the batch.

    Args:
        logits: (B, K) of the mixed images.
        clean: (B, K) of the clean images, a target: no gradient.
        batch: the pairs and their lam.

    Returns:
        Scalar, in nats.
    """
    clean = clean.detach().float()
    expected = torch.lerp(clean[batch.index[:, 1]], clean, batch.lam.unsqueeze(1))
    log_p, log_q = F.log_softmax(logits.float(), dim=1), F.log_softmax(expected, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def region_loss(tokens: Tensor, batch: MixedBatch, classify: Callable[[Tensor], Tensor]) -> Tensor:
    """Cross-entropy of the own region's mean token against the own label, and of the partner's against the partner's.

    SMMix. A region that is empty, as the partner's in an unmixed row, does not count.

    Args:
        tokens: (B, gh, gw, D) of the mixed images.
        batch: with a mask (B, 1, H, W), and labels that are class ids (B, 2) or targets (B, 2, K).
        classify: (B, D) -> (B, K).

    Returns:
        Scalar, in nats: the sum of the two means over the batch.
    """
    assert batch.mask is not None
    own = F.adaptive_avg_pool2d(batch.mask, (tokens.shape[1], tokens.shape[2])).transpose(1, 3).transpose(1, 2)
    total = tokens.new_zeros((), dtype=torch.float32)
    for source, share in enumerate((own, 1.0 - own)):  # (B, gh, gw, 1)
        size = share.sum((1, 2))
        pooled = (tokens.float() * share).sum((1, 2)) / size.clamp(min=1e-6)
        each = F.cross_entropy(classify(pooled).float(), batch.labels[:, source], reduction="none")
        total = total + (each * (size.squeeze(1) > 0.0)).mean()
    return total


@dataclass
class SMMix(SwitchingAugmentation, GuidedAugmentation):
    """Pastes the window with the most attention over the one with the least, see :func:`smmix`; for ViTs of timm.

    The maps are the attention that each patch receives in the last block on the clean images: one extra pass in eval
    mode, without a graph, which also gives the clean predictions. A call on images alone mixes them, without losses.

    Args:
        alpha: <= 0 switches mixing off; otherwise without effect, as the window's side is drawn evenly.
        min_side: smallest side of a window, as a share of the grid's, in (0, 1].
        max_side: largest.
        regions: weight of the losses of the two regions' mean tokens, each classified by a head of its own; without
            that head, see :meth:`attach`, they are left out.
        consistency: weight of the divergence between the prediction and the mixed clean predictions.
        switch: half of the batches, as released.
        head: of the regions; made by :meth:`attach`.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2)
        >>> logits, batch = samix.SMMix().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "smmix"
    family: ClassVar[str] = "By patches"
    requirements = Requirements(model=True, preserves_geometry=False, own_losses=("consistency", "regions"))

    switch: Share = 0.5
    min_side: PositiveShare = 0.25
    max_side: PositiveShare = 0.75
    regions: Weight = 0.5
    consistency: Weight = 1.0
    head: nn.Linear | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_side > self.max_side:
            raise ValueError(f"min_side must be at most max_side, got {self.min_side} and {self.max_side}")

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) 1 - side^2, the side uniform; 1 where this batch is not to be mixed."""
        on = super().draw_lam(batch_size) < 1.0
        count = batch_size if self.per_sample else 1
        side = self.min_side + (self.max_side - self.min_side) * torch.rand(count, generator=self.generator)
        return torch.where(on, 1.0 - side**2, 1.0)

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        assert model is not None
        with inspecting(model) as inner:
            return received_attention(inner, images)[1]

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return smmix(x, partner, lam, *need_guides(guides), min_side=self.min_side, max_side=self.max_side)

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """Makes the head that classifies the regions' tokens.

        Raises:
            ValueError: not a timm ViT.
        """
        attention_layers(model)
        device = next(model.parameters()).device
        self.head = nn.Linear(as_vit(model).num_features, num_classes, device=device)
        return self.head

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Looks at the clean images, mixes them, runs the network on the mix, and adds the two losses."""
        check_images(images)
        check_labels(labels, len(images))
        self.check_kind(labels, "class", "soft", instead="call mix(images, labels, model=model), without its losses")
        if self.draw_switch():
            batch = self.instead()(images, labels)
            return model(batch.images), self._with(batch, {})
        lam = self.draw_lam(len(images))
        if len(images) == 1 or bool((lam == 1.0).all()):
            return model(images), self._with(
                GuidedAugmentation.__call__(self, images, labels, lam=1.0, model=model), {}
            )
        with torch.no_grad():
            with inspecting(model) as inner:
                clean, guide = received_attention(inner, images)
            batch = self.mix_guided(images, labels, guide, lam, None)
        tokens: list[Tensor] = []
        vit = as_vit(model)
        with vit.norm.register_forward_hook(lambda _layer, _args, output: tokens.append(output)):
            logits = model(batch.images)
        terms = {"consistency": self.consistency * consistency_loss(logits, clean, batch)}
        if (head := self.head) is not None:
            patches = patches_of(tokens[0], model, images)
            patches = patches.reshape(len(images), guide.shape[1], guide.shape[2], -1)
            # mean tokens pass the norm that the network puts behind its own mean
            terms["regions"] = self.regions * region_loss(
                patches, batch, lambda pooled: head(vit.fc_norm(pooled).to(head.weight.dtype))
            )
        return logits, self._with(batch, terms)

    def _with(self, batch: MixedBatch, terms: Mapping[str, Tensor]) -> MixedBatch:
        """The batch with further losses; the head is always part of the graph, as DistributedDataParallel asks."""
        extra = dict(terms)
        if self.head is not None and "regions" not in extra:
            extra["regions"] = idle(self.head)
        return dataclasses.replace(batch, extra=extra)
