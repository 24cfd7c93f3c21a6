"""RecursiveMix: the mixed batch of the step before, made smaller, is pasted into this one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, target_kind
from samix.mixups.base import Augmentation, Guides, Requirements, as_lam, choose, take_rows, to_device
from samix.mixups.boxes import cut_side, span
from samix.networks.last_map import catch_last_map, last_width
from samix.runtime.typed_options import Weight


def recursivemix(x: Tensor, earlier: Tensor, lam: Tensor, centre: Tensor) -> Mixed:
    """Pastes each earlier image whole, made smaller, into a box of the image.

    RecursiveMix (Yang et al. 2022, arXiv:2203.06844), section 3. The box is CutMix's, with the border cutting it; the
    earlier image is resized to what is left of the box, each pixel the nearest one: number ``floor(p H' / n)`` of its
    H' rows for row p of the box's n, and columns likewise.

    Args:
        x: (B, C, H, W) images. Not modified.
        earlier: (B, C, H', W') images of any size.
        lam: (B,) share of x wanted, in [0, 1].
        centre: (B, 2) in [0, 1), row and column of the box's centre.

    Returns:
        Mixed; its lam is the exact area left to x.

    Raises:
        ValueError: another number of images or channels, or lam's shape.
    """
    if earlier.shape[:2] != x.shape[:2] or lam.shape != x.shape[:1]:
        raise ValueError(
            f"x {tuple(x.shape)} needs as many earlier images and channels, and lam ({len(x)},); got "
            f"{tuple(earlier.shape)} and {tuple(lam.shape)}; call reset() where images change"
        )
    top, bottom, left, right = box_of(lam, centre, (x.shape[2], x.shape[3]))
    inside = span(top, bottom, x.shape[2]).unsqueeze(2) & span(left, right, x.shape[3]).unsqueeze(1)
    rows = _nearest(top, bottom, x.shape[2], earlier.shape[2])  # (B, H)
    columns = _nearest(left, right, x.shape[3], earlier.shape[3])  # (B, W)
    by_row = earlier.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, earlier.shape[3]))
    small = by_row.gather(3, columns[:, None, None, :].expand(-1, x.shape[1], x.shape[2], -1))
    return choose(x, small.to(x.dtype), (~inside).unsqueeze(1).float())


def box_of(lam: Tensor, centre: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, bottom, left and right (each (B,) float32, whole numbers of pixels) of the box that lam asks for."""
    ratio = torch.sqrt(1.0 - lam)
    (top, bottom), (left, right) = (cut_side(ratio, centre[:, axis], size[axis]) for axis in (0, 1))
    return top, bottom, left, right


def _nearest(start: Tensor, stop: Tensor, size: int, source: int) -> Tensor:
    """For each of ``size`` coordinates, the source coordinate that the box shows there: (B, size) int64."""
    at = torch.arange(size, device=start.device, dtype=torch.float32) - start.unsqueeze(1)
    length = (stop - start).clamp(min=1.0).unsqueeze(1)
    return torch.floor(at * source / length).clamp(0.0, source - 1.0).long()


def box_features(maps: Tensor, box: tuple[Tensor, Tensor, Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    """The mean feature of each image's box, by RoIAlign to one cell, with gradient.

    Args:
        maps: (B, D, h, w) feature maps.
        box: top, bottom, left, right in pixels of the image, each (B,).
        size: (H, W) of the images.

    Returns:
        (B, D) float32; 0 for an empty box.
    """
    from torchvision.ops import roi_align

    top, bottom, left, right = box
    down, across = maps.shape[2] / size[0], maps.shape[3] / size[1]
    rows = torch.arange(len(maps), device=maps.device, dtype=torch.float32)
    rois = torch.stack([rows, left * across, top * down, right * across, bottom * down], dim=1)  # (B, 5)
    with torch.autocast(maps.device.type, enabled=False):
        return roi_align(maps.float(), rois, output_size=(1, 1), aligned=True).flatten(1)  # type: ignore[no-any-return]


class Memory(NamedTuple):
    """The step before: images (B, C, H, W), targets (B, K), and the network's probabilities (B, K) in training."""

    images: Tensor
    target: Tensor
    probs: Tensor | None = None


@dataclass
class RecursiveMix(Augmentation):
    """Shrinks the previous mixed batch and pastes it into this one, see :func:`recursivemix`.

    Each row's earlier image is the same row of the batch before, as it was mixed then: its label is as mixed, so that a
    target may hold many classes. The first batch of an epoch is not mixed. In training a second head reads the box off
    the last feature map and must find there what the network said of the whole earlier image:
    ``weight (1 - lam) CE(head(RoIAlign(map, box)), softmax(earlier logits))``.

    Called with pairs (``index``), as for pictures, the partners take the place of the batch before and nothing is
    remembered.

    Args:
        alpha: largest area of the box, which is uniform in [0, alpha]; at most 1. <= 0 switches mixing off.
        weight: of the consistency term; 0.1 for CIFAR and 0.5 for ImageNet in the paper. 0 does without the head.
        layer: dotted name of the layer that gives the last feature map; empty for timm networks.

    Example:
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
        >>> mix = samix.RecursiveMix()
        >>> head = mix.attach(model, 10)  # give head.parameters() to the optimiser
        >>> logits, batch = mix.forward_through(model, images, labels)
        >>> bool(batch.loss(logits) > 0)
        True
    """

    name: ClassVar[str] = "recursivemix"

    alpha: float = 0.5
    weight: Weight = 0.1
    layer: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha > 1.0:
            raise ValueError(f"alpha is the largest area of the box, at most 1, got {self.alpha}")
        self.head: nn.Linear | None = None
        self.num_classes: int | None = None
        self.memory: Memory | None = None

    @property
    def requirements(self) -> Requirements:
        losses = ("consistency",) if self.weight else ()
        return Requirements(preserves_geometry=False, stateful=True, own_losses=losses)

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) 1 - area; all 1 when this batch is not to be mixed."""
        drawn = torch.rand(batch_size if self.per_sample else 1, generator=self.generator).expand(batch_size)
        skip = float(torch.rand(1, generator=self.generator)) >= self.prob
        return torch.ones(batch_size) if skip or self.alpha <= 0 else 1.0 - self.alpha * drawn

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        return {"centre": torch.rand(shape[0], 2, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return recursivemix(x, partner, lam, extras["centre"])

    def mix_batch(self, images: Tensor, labels: Tensor, lam: Tensor | float | None, index: Tensor | None) -> MixedBatch:
        """Mixes with the batch before, and remembers the result; or mixes the pairs of ``index`` and remembers nothing.

        The batch has a dense ``target``. Its second label is the likeliest class of the earlier image; K is the number
        of classes given to :meth:`attach`, otherwise one more than the largest label so far.
        """
        batch, *_ = self._mix(images, labels, lam, index)
        if index is None:
            self._remember(batch, None)
        return batch

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes, runs the model, and adds the consistency term, ``extra["consistency"]``.

        Raises:
            ValueError: the term is asked for and :meth:`attach` was not called.
        """
        self.check_batch(images, labels)
        with torch.no_grad():
            batch, earlier, box = self._mix(images, labels, None, None)
        if self.weight == 0.0:
            logits = model(batch.images)
        else:
            with catch_last_map(model, self.layer) as caught:
                logits = model(batch.images)
            size = (images.shape[2], images.shape[3])
            term = self._consistency(box_features(caught.read(model), box, size), earlier, batch)
            batch = dataclasses.replace(batch, extra={"consistency": self.weight * term})
        self._remember(batch, torch.softmax(logits.detach().float(), dim=1))
        return logits, batch

    def _consistency(self, features: Tensor, earlier: Memory, batch: MixedBatch) -> Tensor:
        """``mean_i (1 - lam_i) CE(head(features_i), probs_i)``; 0, but with a graph, where there are no probs."""
        if self.head is None:
            raise ValueError(
                "RecursiveMix trains a second head: call attach(model, num_classes) before training, and give its "
                "parameters to the optimiser; or set weight=0"
            )
        log_p = F.log_softmax(self.head(features).float(), dim=1)
        if earlier.probs is None:
            return 0.0 * log_p.mean()
        return -((1.0 - batch.lam) * (earlier.probs * log_p).sum(1)).mean()

    def _mix(
        self, images: Tensor, labels: Tensor, lam: Tensor | float | None, index: Tensor | None
    ) -> tuple[MixedBatch, Memory, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The mixed batch, what it was mixed with, and the boxes."""
        kind = target_kind(labels, self.targets, read=True)
        if kind not in ("class", "soft", "multilabel"):
            raise ValueError(
                f"RecursiveMix adds targets up over steps: labels must be class ids or (B, K) targets, got "
                f"{kind} labels {tuple(labels.shape)}; use CutMix or MixUp"
            )
        if kind == "multilabel" and self.head is not None:
            raise ValueError(
                "RecursiveMix's consistency term compares softmax predictions, these labels have several classes per "
                "image; set weight=0"
            )
        target = self._target(labels)
        if index is None:
            earlier, known = self._earlier(images, target)
            lam = self.draw_lam(len(images)) if lam is None else as_lam(lam, len(images))
            lam = torch.where(known, to_device(lam, images.device), 1.0)
            index = torch.arange(len(images), device=images.device)
        else:
            lam, index = self.draw(images, lam, index)
            earlier = Memory(take_rows(images, index), target[index])
        target = _widen(target, earlier.target.shape[1])
        earlier = earlier._replace(target=_widen(earlier.target, target.shape[1]))
        centre = self.extras_for(images)["centre"]
        mixed = self.apply(images, earlier.images, lam, centre=centre)
        weights = torch.stack([mixed.lam, 1.0 - mixed.lam], dim=1)
        labels = labels.argmax(1) if labels.dim() == 2 else labels.long()
        batch = MixedBatch(
            images=mixed.images,
            labels=torch.stack([labels, earlier.target.argmax(1)], dim=1),
            weights=weights,
            index=torch.stack([torch.arange(len(images), device=images.device), index], dim=1),
            mask=mixed.mask,
            target=weights[:, :1] * target + weights[:, 1:] * earlier.target,
            kind="multilabel" if kind == "multilabel" else "soft",
        )
        return batch, earlier, box_of(lam, centre, (images.shape[2], images.shape[3]))

    def _target(self, labels: Tensor) -> Tensor:
        """(B, K) float32."""
        if labels.dim() == 2:
            return labels.float()
        classes = int(labels.max()) + 1 if self.num_classes is None else self.num_classes
        return F.one_hot(labels.long(), classes).float()

    def _earlier(self, images: Tensor, target: Tensor) -> tuple[Memory, Tensor]:
        """One remembered row for each row of this batch, and (B,) bool whether there is one."""
        rows = torch.arange(len(images), device=images.device)
        if self.memory is None:
            return Memory(images, target), rows < 0
        known, rows = rows < len(self.memory.images), rows.clamp(max=len(self.memory.images) - 1)
        kept = [None if tensor is None else tensor.to(images.device)[rows] for tensor in self.memory]
        return Memory(*kept), known  # type: ignore[arg-type]  # the first two are tensors

    def _remember(self, batch: MixedBatch, probs: Tensor | None) -> None:
        """Keeps copies of this batch for the next."""
        assert batch.target is not None
        self.memory = Memory(batch.images.detach().clone(), batch.target.clone(), probs)

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """The second head, (B, D) -> (B, num_classes), or None where the consistency term has no weight."""
        self.num_classes = num_classes
        if self.weight == 0.0:
            return None
        device = next((p.device for p in model.parameters()), None)
        self.head = nn.Linear(last_width(model, self.layer), num_classes, device=device)
        return self.head

    def reset(self) -> None:
        self.memory = None

    def state_dict(self) -> dict[str, Tensor]:
        """The batch before: ``images``, ``target`` and, after training steps, ``probs``; empty at an epoch's start."""
        if self.memory is None:
            return {}
        state = {"images": self.memory.images, "target": self.memory.target}
        return state if self.memory.probs is None else {**state, "probs": self.memory.probs}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what :meth:`state_dict` gave.

        Raises:
            ValueError: something else.
        """
        if not state:
            self.memory = None
            return
        if not {"images", "target"} <= set(state) <= {"images", "target", "probs"}:
            raise ValueError(f"RecursiveMix remembers images, target and probs, got {', '.join(sorted(state))}")
        check_images(state["images"])
        self.memory = Memory(state["images"].clone(), state["target"].clone(), state.get("probs"))


def _widen(target: Tensor, columns: int) -> Tensor:
    """Appends classes not seen before, with share 0."""
    return F.pad(target, (0, columns - target.shape[1])) if target.shape[1] < columns else target
