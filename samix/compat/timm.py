"""Drop-in replacements for timm's ``Mixup``: with timm's arguments, or around any mixup of images.

    from samix.compat.timm import Mixup      # instead of: from timm.data import Mixup
    mixup_fn = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=1000)

    mixup_fn = TimmMixup(samix.FMix(), num_classes=1000)     # another mixup, in the same training script

    images, target = mixup_fn(images, target)

Unlike timm's they do not write to the images they are given, take odd batches, draw from a generator of their own
that torch's seed decides, and refuse labels and images that would give a wrong target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from timm.data.loader import fast_collate
from timm.data.mixup import FastCollateMixup as FastCollate
from torch import Tensor

from samix.batch import Mixed, unmixed
from samix.compat.loader import InputStage
from samix.mixups.base import (
    Augmentation,
    Guides,
    Pairing,
    as_map,
    blend,
    check_alpha,
    choose,
    sample_lam,
    take_rows,
    to_device,
)
from samix.mixups.boxes import span
from samix.runtime.typed_options import Share

Mode = Literal["batch", "elem", "pair"]


class TimmMixup(InputStage):
    """Any mixup of images, called as timm's ``Mixup`` is: ``images, target = mixup_fn(images, target)``.

    ``mixup_fn.mixup_enabled = False`` stops the mixing, as timm's training script does in the last epochs; labels are
    smoothed all the same.

    Args:
        mixup: a mixup of images alone; timm's own pairing is ``pairing="flip"``.
        num_classes: K of the targets.
        label_smoothing: in [0, 1).
        multi_label: labels are (B, K), each smoothed towards 0.5.

    Raises:
        TypeError, ValueError: not a mixup, one that needs the network, or a number out of range.
    """

    def __init__(
        self,
        mixup: Augmentation,
        num_classes: int = 1000,
        label_smoothing: float = 0.1,
        *,
        multi_label: bool = False,
    ) -> None:
        super().__init__(mixup, num_classes, label_smoothing)
        self.mixup_enabled = True
        self.multi_label = multi_label

    @property
    def label_smoothing(self) -> float:
        """Label smoothing, in [0, 1)."""
        return self.smoothing

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes a batch.

        Args:
            x: (B, C, H, W) floating point. Not modified; given back as it is where mixing is disabled.
            target: (B,) class ids, or (B, K) float targets.

        Returns:
            Images (B, C, H, W), and targets (B, K) float32.

        Raises:
            TypeError, ValueError: wrong type, shape or range; the message says what to do.
        """
        self.check(x, target)
        if self.multi_label and target.dim() != 2:
            raise ValueError(f"multi_label needs float targets (B, {self.num_classes}), got {tuple(target.shape)}")
        batch = self.mix(x, target) if self.mixup_enabled else unmixed(x, target)
        assert self.num_classes is not None
        if self.multi_label:
            return batch.images, batch.values * (1.0 - self.smoothing) + 0.5 * self.smoothing
        return batch.images, batch.soft_targets(self.num_classes, self.smoothing)


class Mixup(TimmMixup):
    """timm's ``Mixup`` by its own arguments; MixUp, CutMix, or one of the two at random.

    Given the same draws it gives timm's images and targets, in every mode.

    Args:
        mixup_alpha: MixUp is on where > 0.
        cutmix_alpha: CutMix is on where > 0.
        cutmix_minmax: smallest and largest side of CutMix's box, as shares of the image's, instead of cutmix_alpha.
        prob: probability of mixing, per batch, element or pair.
        switch_prob: probability of CutMix where both are on.
        mode: ``batch`` draws once for all, ``elem`` for each image, ``pair`` for each image and its partner alike.
        correct_lam: the target takes the area of the box that the border has cut.
        label_smoothing: in [0, 1).
        num_classes: K.
        multi_label: labels are (B, K), each smoothed towards 0.5.
        generator: CPU generator of every draw; None makes one from torch's seed.

    Raises:
        ValueError: neither MixUp nor CutMix is on, an unknown mode, or a number out of range.
    """

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: Mode = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        multi_label: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        draws = MixUpOrCutMixAsTimm(
            prob=prob,
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            cutmix_minmax=None if cutmix_minmax is None else tuple(cutmix_minmax),
            switch_prob=switch_prob,
            mode=mode,
            correct_lam=correct_lam,
            generator=generator,  # type: ignore[arg-type]  # None makes one
        )
        super().__init__(draws, num_classes, label_smoothing, multi_label=multi_label)


class CollateMixup(TimmMixup, FastCollate):  # type: ignore[misc]  # timm has no types of its own here
    """Any mixup of images as the ``collate_fn`` of timm's prefetcher, which the training script uses by default.

    ``mixup_enabled`` of timm's loader switches it off. Arguments as of :class:`TimmMixup`.
    """

    def __call__(  # type: ignore[override]  # timm's collate functions take samples
        self, samples: Sequence[object], _: object = None
    ) -> tuple[Tensor, Tensor]:
        """Collates and mixes.

        Args:
            samples: pairs of an image (C, H, W) uint8, array or tensor, and a class id or target (K,).

        Returns:
            Images (B, C, H, W) uint8, rounded, and targets (B, K) float32.

        Raises:
            ValueError: images of another type, or of several sizes, or labels that are neither class ids nor targets.
        """
        check_samples(samples)
        images, target = fast_collate(samples)
        channels = images.shape[1]
        self.mixup.set_normalization((0.0,) * channels, (1.0 / 255.0,) * channels)  # for those that look at pixels
        mixed, soft = TimmMixup.__call__(self, images.float(), target)
        return mixed.round().to(torch.uint8), soft


def check_samples(samples: Sequence[Any]) -> None:
    """Raises ValueError unless these can be collated as timm's prefetcher does, which would cast other images."""
    first: Any = samples[0][0]
    for image, label in samples:
        if not isinstance(image, np.ndarray | Tensor) or image.dtype not in (np.uint8, torch.uint8):
            got = f"{type(image).__name__} {getattr(image, 'dtype', '')}".strip()
            raise ValueError(
                f"images must be uint8 arrays or tensors (C, H, W), as timm's transforms with use_prefetcher=True make "
                f"them, got {got}; for float images take Mixup in the place of FastCollateMixup"
            )
        if image.shape != first.shape:
            raise ValueError(f"images must have one size, got {tuple(first.shape)} and {tuple(image.shape)}")
        if not isinstance(label, int | np.integer | np.ndarray | Tensor):
            raise ValueError(f"labels must be class ids or targets (K,), got {label!r}")


class FastCollateMixup(CollateMixup, Mixup):
    """timm's ``FastCollateMixup`` by its own arguments, see :class:`Mixup`."""


@dataclass
class MixUpOrCutMixAsTimm(Augmentation):
    """MixUp and CutMix with timm's draws: its modes, its box, its pairs. For its options see :class:`Mixup`.

    The box differs from :class:`samix.CutMix`'s in three things: a side of odd length keeps its last pixel, where the
    CutMix authors' code rounds the half down; in mode ``batch`` all images have the same box; and the border cuts the
    box of lam = 0, too.
    """

    name: ClassVar[str] = "timm"

    pairing: Pairing = "flip"
    mixup_alpha: float = field(default=1.0, kw_only=True)
    cutmix_alpha: float = field(default=0.0, kw_only=True)
    cutmix_minmax: tuple[float, ...] | None = field(default=None, kw_only=True)
    switch_prob: Share = field(default=0.5, kw_only=True)
    mode: Mode = field(default="batch", kw_only=True)
    correct_lam: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.mode not in ("batch", "elem", "pair"):
            raise ValueError(f"unknown mode {self.mode!r}; choose batch, elem or pair; half is for timm's own collate")
        super().__post_init__()
        check_alpha(self.mixup_alpha, "mixup_alpha")
        check_alpha(self.cutmix_alpha, "cutmix_alpha")
        if self.cutmix_minmax is not None:
            ends = self.cutmix_minmax
            if len(ends) != 2 or not 0.0 <= ends[0] < ends[1] <= 1.0:
                raise ValueError(f"cutmix_minmax needs two shares, 0 <= min < max <= 1, got {ends}")
            self.cutmix_alpha = 1.0
        if self.mixup_alpha <= 0.0 and self.cutmix_alpha <= 0.0:
            raise ValueError(
                "nothing to mix: set mixup_alpha or cutmix_alpha above 0, or cutmix_minmax; for no mixing at all, set "
                "mixup_enabled = False"
            )

    def draw_rows(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draws for each row whether it is cut (B,), lam (B,), and four numbers in [0, 1) for the box (B, 4)."""
        rows = torch.arange(batch_size)
        draws = {"batch": 1, "elem": batch_size, "pair": (batch_size + 1) // 2}[self.mode]
        source = {"batch": rows * 0, "elem": rows, "pair": torch.minimum(rows, rows.flip(0))}[self.mode]
        switch = self.switch_prob if self.mixup_alpha > 0.0 else 1.0
        if self.cutmix_alpha <= 0.0:
            switch = 0.0
        cut = torch.rand(draws, generator=self.generator) < switch
        by_cut = sample_lam(self.cutmix_alpha, draws, per_sample=True, generator=self.generator)
        by_sum = sample_lam(self.mixup_alpha, draws, per_sample=True, generator=self.generator)
        off = torch.rand(draws, generator=self.generator) >= self.prob
        lam = torch.where(cut, by_cut, by_sum).masked_fill(off, 1.0)
        return cut[source], lam[source], torch.rand(draws, 4, generator=self.generator)[source]

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        """Draws what is not given and mixes."""
        cut, drawn, box = self.draw_rows(len(images))
        lam, index = self.draw(images, drawn if lam is None else lam, index)
        partner = take_rows(images, index)
        if not bool(cut.any()):
            return Mixed(blend(images, partner, as_map(lam, images)), lam, as_map(lam, images)), index
        mixed = self.paste(images, partner, lam, to_device(box, images.device))
        if not bool(cut.all()):
            some, summed = to_device(cut, images.device), as_map(lam, images)
            rows = some.view(-1, 1, 1, 1)
            pixels = torch.where(rows, mixed.images, blend(images, partner, summed))
            mixed = Mixed(pixels, torch.where(some, mixed.lam, lam), torch.where(rows, mixed.mask, summed))
        return mixed, index

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Any) -> Mixed:
        """Refuses: :meth:`mix` needs the draws of all rows."""
        raise NotImplementedError("call mix, or the object itself")

    def paste(self, x: Tensor, partner: Tensor, lam: Tensor, box: Tensor) -> Mixed:
        """Applies CutMix with timm's box."""
        height, width = x.shape[-2:]
        top, bottom = self._side(lam, box[:, 0], box[:, 2], height)
        left, right = self._side(lam, box[:, 1], box[:, 3], width)
        inside = span(top, bottom, height).unsqueeze(2) & span(left, right, width).unsqueeze(1)
        inside = inside & (lam < 1.0).view(-1, 1, 1)
        mixed = choose(x, partner, (~inside.unsqueeze(1)).float())
        return mixed if self.correct_lam or self.cutmix_minmax is not None else Mixed(mixed.images, lam, mixed.mask)

    def _side(self, lam: Tensor, first: Tensor, second: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Returns first row and end of the box along one side, whole numbers, (B,) each."""
        if self.cutmix_minmax is None:
            cut = torch.floor(size * torch.sqrt(1.0 - lam.double()))
            centre = torch.floor(first * size)
            start, stop = centre - torch.floor(cut / 2.0), centre + torch.floor((cut + 1.0) / 2.0)
            return start.clamp(min=0.0), stop.clamp(max=size)
        low, high = (math.floor(size * share) for share in self.cutmix_minmax)
        if low == high:
            raise ValueError(f"cutmix_minmax {self.cutmix_minmax} leaves no side to draw at {size} pixels; widen it")
        cut = torch.floor(low + first * (high - low))
        start = torch.floor(second * (size - cut + 1.0))
        return start, start + cut
