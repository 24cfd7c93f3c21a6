"""What every mixup shares: the draws, the blend, and the batch that comes out.

Two conventions hold in the whole library. ``lam`` is the share of the *own* image, float32, one per sample; ``mask`` is
1 where the own pixel stays and 0 where the partner shows. A *policy* is a pure function of its draws,
``policy(x, partner, lam, ...) -> Mixed``; an :class:`Augmentation` draws, applies a policy and keeps the labels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix import distributed

Guides = tuple[Tensor, Tensor]  # what a mixup looks at: the guide of x, the guide of its partner
Pairing = Literal["randperm", "cycle", "flip", "roll"]


class Mixed(NamedTuple):
    """What a policy returns: mixed images (B, C, H, W), lam (B,), mask (B, 1, H, W); all shares of the own image."""

    images: Tensor
    lam: Tensor
    mask: Tensor


@dataclass(frozen=True)
class MixedBatch:
    """A mixed batch and what its labels have become.

    Args:
        images: (B, C, H, W) mixed images, or a hidden feature map.
        labels: (B, k) int64 class ids, or (B, k, K) float targets (one-hot, multi-hot, regression) of the k sources.
        weights: (B, k) float32 share of each source in the label.
        index: (B, k) int64 row of each source; column 0 is the own row.
        mask: (B, 1, H, W) float32 share of the own image at each pixel, or None where there is no such thing.
        target: (B, K) dense target that replaces labels and weights, or None.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    index: Tensor
    mask: Tensor | None = None
    target: Tensor | None = None

    @property
    def lam(self) -> Tensor:
        """(B,) share of the own label."""
        return self.weights[:, 0]

    @property
    def partner_labels(self) -> Tensor:
        """(B,) or (B, K): the label of the second source."""
        return self.labels[:, 1]

    def soft_targets(self, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """The dense target, float32.

        Smoothing commutes with mixing: the result is ``(1 - smoothing) * mixed + smoothing / num_classes``.

        Args:
            num_classes: K, at least one more than the largest label.
            smoothing: label smoothing in [0, 1).

        Returns:
            (B, K); rows sum to 1 when labels are class ids and weights do.

        Raises:
            ValueError: smoothing outside [0, 1), or dense targets of another width.
        """
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        if self.target is not None:
            mixed = self.target.float()
        elif self.labels.is_floating_point():
            mixed = torch.einsum("bk,bkc->bc", self.weights, self.labels.float())
        else:
            mixed = torch.zeros(len(self.labels), num_classes, device=self.weights.device)
            mixed = mixed.scatter_add(1, self.labels, self.weights)
        if mixed.shape[1] != num_classes:
            raise ValueError(f"targets have {mixed.shape[1]} columns, expected num_classes = {num_classes}")
        return mixed * (1.0 - smoothing) + smoothing / num_classes if smoothing else mixed

    def loss(self, logits: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy against the mixed label, each sample weighed by its own lam before the mean.

        Args:
            logits: (B, K), any float type; the loss is computed in float32.
            smoothing: label smoothing in [0, 1).

        Returns:
            Scalar, in nats.
        """
        if self.target is None and not self.labels.is_floating_point() and smoothing == 0.0:
            log_p = F.log_softmax(logits.float(), dim=1)
            return -(self.weights * log_p.gather(1, self.labels)).sum(1).mean()
        return F.cross_entropy(logits.float(), self.soft_targets(logits.shape[1], smoothing))

    def accuracy(self, logits: Tensor) -> Tensor:
        """Share of the label's weight that the top prediction collects, averaged over the batch.

        Args:
            logits: (B, K).

        Returns:
            Scalar in [0, 1]; plain accuracy when lam is 1.
        """
        best = logits.argmax(1)
        if self.target is not None or self.labels.is_floating_point():
            return self.soft_targets(logits.shape[1]).gather(1, best[:, None]).mean()
        return (self.weights * (self.labels == best[:, None])).sum(1).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Draws. All come from a CPU generator and move to the device afterwards: the same on every device, and no sync.


def new_generator() -> torch.Generator:
    """A generator seeded once from torch's global one (so ``torch.manual_seed`` decides), different on every rank."""
    seed = torch.randint(2**62, (1,)) + 7919 * distributed.rank()
    return torch.Generator().manual_seed(int(seed))


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless alpha is a finite number; Beta(alpha, alpha) is drawn for alpha > 0 only."""
    if not isinstance(alpha, int | float | np.number) or not np.isfinite(alpha):
        raise ValueError(f"alpha must be a finite number, got {alpha!r}; alpha <= 0 switches mixing off")


def sample_lam(
    alpha: float, batch_size: int, *, per_sample: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Draws lam ~ Beta(alpha, alpha), exact for small alpha too.

    Args:
        alpha: > 0; alpha <= 0 gives 1 (no mixing).
        batch_size: B.
        per_sample: one draw per sample; otherwise one draw, repeated.
        generator: CPU generator; None takes torch's global one.

    Returns:
        (B,) float32 on the CPU, in [0, 1].

    Raises:
        ValueError: alpha is not a finite number.
    """
    check_alpha(alpha)
    if alpha <= 0:
        return torch.ones(batch_size)
    # torch has no public Beta with a generator; NumPy's is exact down to alpha = 0.001. The seed is passed as an array.
    seed = torch.randint(2**62, (2,), generator=generator).numpy()
    rng = np.random.default_rng(seed)
    if per_sample:
        return torch.from_numpy(rng.beta(alpha, alpha, size=batch_size)).float()
    return torch.full((batch_size,), float(rng.beta(alpha, alpha)))


def sample_partners(
    batch_size: int, pairing: Pairing = "randperm", *, generator: torch.Generator | None = None
) -> Tensor:
    """Draws who is paired with whom.

    Args:
        batch_size: B.
        pairing: ``randperm`` a uniform permutation (one fixed point on average); ``cycle`` one random cycle, no fixed
            point for B >= 2; ``flip`` i -> B - 1 - i (timm); ``roll`` i -> i - 1 (torchvision).
        generator: CPU generator; None takes torch's global one.

    Returns:
        (B,) int64 permutation on the CPU.

    Raises:
        ValueError: unknown pairing.
    """
    if pairing == "randperm":
        return torch.randperm(batch_size, generator=generator)
    if pairing == "cycle":
        order = torch.randperm(batch_size, generator=generator)
        return torch.empty_like(order).scatter_(0, order, order.roll(-1))
    if pairing == "flip":
        return torch.arange(batch_size).flip(0)
    if pairing == "roll":
        return torch.arange(batch_size).roll(1)
    raise ValueError(f"unknown pairing {pairing!r}; choose randperm, cycle, flip or roll")


def to_device(draw: Tensor, device: torch.device) -> Tensor:
    """Moves a small CPU draw without waiting for the device."""
    return draw if draw.device == device else draw.to(device, non_blocking=True)


# ---------------------------------------------------------------------------------------------------------------------
# Pixels.


def blend(x: Tensor, partner: Tensor, mask: Tensor) -> Tensor:
    """``mask * x + (1 - mask) * partner``, exact where mask is 0 or 1 and where x equals partner.

    Args:
        x: (B, C, H, W). Not modified.
        partner: (B, C, H, W).
        mask: broadcastable to x, float32, share of x in [0, 1].

    Returns:
        (B, C, H, W) in x's type, computed in float32, or in float64 for float64 images.
    """
    dtype = torch.promote_types(x.dtype, mask.dtype)
    return torch.lerp(partner.to(dtype), x.to(dtype), mask.to(dtype)).to(x.dtype)


def choose(x: Tensor, partner: Tensor, mask: Tensor) -> Mixed:
    """The mix by a binary mask: pixels are chosen, not added, so a NaN pixel stays where it is shown.

    Args:
        x: (B, C, H, W). Not modified.
        partner: (B, C, H, W).
        mask: (B, 1, H, W) float32, 0 or 1.

    Returns:
        Mixed; lam is the exact share of pixels left to x.
    """
    lam = mask.sum(dim=(1, 2, 3)) / (mask.shape[2] * mask.shape[3])
    return Mixed(torch.where(mask.bool(), x, partner), lam, mask)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]``, faster on the CPU for plain layouts; channels-last stays channels-last."""
    return x.index_select(0, index) if x.is_contiguous() else x[index]


def as_map(lam: Tensor, x: Tensor) -> Tensor:
    """A constant mask (B, 1, H, W) of lam (B,), over x (B, C, H, W); a view, no copy."""
    return lam.view(-1, *[1] * (x.dim() - 1)).expand(-1, 1, *x.shape[2:])


# ---------------------------------------------------------------------------------------------------------------------
# Checks at the border. Nothing here reads values on the device: shapes and types only.


def check_images(images: Tensor) -> None:
    """Raises unless images are floating point, (B, C, H, W), and not empty.

    Raises:
        TypeError: not a tensor.
        ValueError: integer pixels, another number of axes, or an empty axis.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}; use torch.as_tensor")
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point, got {images.dtype}; convert and normalise first: images.float() / 255"
        )
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (B, C, H, W), none of them 0, got {tuple(images.shape)}")


def check_labels(labels: Tensor, batch_size: int, num_classes: int | None = None) -> None:
    """Raises unless labels are (B,) integers or (B, K) float targets for this batch.

    The range of class ids is checked only where it costs nothing: on the CPU, when num_classes is known.

    Raises:
        TypeError: not a tensor.
        ValueError: wrong length, shape, type or range.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor, got {type(labels).__name__}; use torch.as_tensor")
    if labels.dim() not in (1, 2) or len(labels) != batch_size:
        raise ValueError(
            f"labels must have shape ({batch_size},) or ({batch_size}, num_classes), got {tuple(labels.shape)}"
        )
    if labels.dim() == 2 and not labels.is_floating_point():
        raise ValueError(f"labels of shape (B, num_classes) must be floating point, got {labels.dtype}; use .float()")
    if labels.dtype in (torch.bool, torch.uint8):
        raise ValueError(f"labels must be int64 class ids or float targets, got {labels.dtype}; use .long()")
    if num_classes is None:
        return
    if labels.dim() == 2 and labels.shape[1] != num_classes:
        raise ValueError(f"labels have {labels.shape[1]} columns, the network has {num_classes} classes")
    if labels.dim() == 1 and labels.is_floating_point():
        raise ValueError(f"class ids must be integers, got {labels.dtype}; use .long()")
    if labels.dim() == 1 and labels.device.type == "cpu":
        low, high = torch.aminmax(labels)
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels must be in [0, {num_classes - 1}], got values from {int(low)} to {int(high)}; "
                "check num_classes and whether your labels start at 0"
            )


def check_pair(x: Tensor, partner: Tensor, lam: Tensor) -> None:
    """Raises ValueError unless x and partner agree in shape and lam is (B,)."""
    if x.shape != partner.shape:
        raise ValueError(f"partner must have x's shape {tuple(x.shape)}, got {tuple(partner.shape)}")
    if lam.shape != x.shape[:1]:
        raise ValueError(f"lam must have shape ({len(x)},), got {tuple(lam.shape)}; use sample_lam")


# ---------------------------------------------------------------------------------------------------------------------
# The augmentation object.


@dataclass
class Augmentation:
    """Base of the objects called as ``batch = CutMix(alpha=1.0)(images, labels)``.

    A subclass gives :meth:`draw_extras` (what it draws beyond lam and pairs) and :meth:`apply` (its policy).

    Args:
        alpha: lam ~ Beta(alpha, alpha); <= 0 switches mixing off.
        prob: probability, per batch, that the batch is mixed at all.
        per_sample: one lam per sample instead of one per batch.
        pairing: how partners are drawn, see :func:`sample_partners`.
        generator: CPU generator of every draw; None makes one from torch's seed.
    """

    name: ClassVar[str] = ""

    alpha: float = 1.0
    prob: float = 1.0
    per_sample: bool = False
    pairing: Pairing = "randperm"
    generator: torch.Generator = field(default_factory=new_generator, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if not 0.0 <= self.prob <= 1.0:
            raise ValueError(f"prob must be in [0, 1], got {self.prob}")
        sample_partners(1, self.pairing, generator=torch.Generator())  # an unknown pairing fails here, not in epoch 1
        if self.generator is None:
            self.generator = new_generator()  # type: ignore[unreachable]  # None is let in

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) float32 on the CPU; all 1 when this batch is not to be mixed."""
        lam = sample_lam(self.alpha, batch_size, per_sample=self.per_sample, generator=self.generator)
        skip = float(torch.rand(1, generator=self.generator)) >= self.prob
        return torch.ones(batch_size) if skip else lam

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """Further draws for images of this shape (B, C, H, W), on the CPU."""
        return {}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, **extras: Tensor) -> Mixed:
        """The policy: pure, given its draws."""
        raise NotImplementedError

    def draw(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns lam (B,) and the partner index (B,) on the images' device: checked when given, drawn when None.

        A row paired with itself, as in a batch of one, gets lam 1: it is not mixed, whatever the policy.
        """
        size = len(images)
        lam = self.draw_lam(size) if lam is None else as_lam(lam, size)
        index = sample_partners(size, self.pairing, generator=self.generator) if index is None else index
        if not isinstance(index, Tensor):
            raise TypeError(f"index must be a torch.Tensor, got {type(index).__name__}; use torch.as_tensor")
        if index.shape != (size,) or index.dtype != torch.int64:
            raise ValueError(
                f"index must be int64 of shape ({size},), got {index.dtype} {tuple(index.shape)}; use sample_partners"
            )
        lam, index = to_device(lam, images.device), to_device(index, images.device)
        rows = torch.arange(size, device=index.device)
        return torch.where(index == rows, 1.0, lam), index

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        """Draws what is not given and mixes; returns the mix and the (B,) partner index."""
        lam, index = self.draw(images, lam, index)
        extras = {key: to_device(draw, images.device) for key, draw in self.draw_extras(images.shape).items()}
        return self.apply(images, take_rows(images, index), lam, **extras), index

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        lam: Tensor | float | None = None,
        index: Tensor | None = None,
    ) -> MixedBatch:
        """Mixes a batch.

        Args:
            images: (B, C, H, W) floating point, normalised. Not modified.
            labels: (B,) class ids, or (B, K) float targets.
            lam: share of the own image, a number or (B,) in [0, 1]; drawn when None.
            index: (B,) int64 partner of each row; drawn when None.

        Returns:
            MixedBatch with k = 2. A batch of one comes back unmixed, lam 1.

        Raises:
            TypeError, ValueError: wrong type, shape, range; the message says what to do.
        """
        check_images(images)
        check_labels(labels, len(images))
        mixed, index = self.mix(images, lam, index)
        return pair_batch(mixed, labels, index)

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes and runs the model: (logits (B, K), batch). Mixups that act inside the network override this."""
        mixed = self(images, labels)
        return model(mixed.images), mixed

    def options(self) -> dict[str, object]:
        """The options as plain values, for a recipe file."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "generator"}


def as_lam(lam: Tensor | float, batch_size: int) -> Tensor:
    """The lam that a caller gave, as (B,) float32.

    Raises:
        TypeError: neither a number nor a tensor.
        ValueError: a number outside [0, 1], or a tensor of another shape.
    """
    if not isinstance(lam, Tensor | int | float | np.number):
        raise TypeError(f"lam must be a number or a torch.Tensor, got {type(lam).__name__}; use torch.as_tensor")
    if not isinstance(lam, Tensor):
        if not 0.0 <= lam <= 1.0:
            raise ValueError(f"lam must be in [0, 1], got {lam}")
        return torch.full((batch_size,), float(lam))
    if lam.shape != (batch_size,):
        raise ValueError(f"lam must be a number or have shape ({batch_size},), got {tuple(lam.shape)}; use sample_lam")
    if lam.device.type == "cpu" and not bool(((lam >= 0) & (lam <= 1)).all()):
        raise ValueError(f"lam must be in [0, 1], got values from {float(lam.min())} to {float(lam.max())}")
    return lam.float()


def pair_batch(mixed: Mixed, labels: Tensor, index: Tensor) -> MixedBatch:
    """Puts labels to a pairwise mix: weights (lam, 1 - lam).

    Rows that are paired with themselves, as in a batch of one, are unmixed whatever was drawn: their lam is 1.
    """
    rows = torch.arange(len(index), device=index.device)
    lam = torch.where(index == rows, torch.ones_like(mixed.lam), mixed.lam)
    return MixedBatch(
        images=mixed.images,
        labels=torch.stack([labels, labels[index]], dim=1),
        weights=torch.stack([lam, 1.0 - lam], dim=1),
        index=torch.stack([rows, index], dim=1),
        mask=mixed.mask,
    )
