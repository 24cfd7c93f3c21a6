"""What every mixup shares: the draws, the blend, and the object that is called.

Two conventions hold in the whole library. ``lam`` is the share of the *own* image, float32, one per sample; ``mask`` is
1 where the own pixel stays and 0 where the partner shows. A *policy* is a pure function of its draws,
``policy(x, partner, lam, ...) -> Mixed``; an :class:`Augmentation` draws, applies a policy and keeps the labels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samix.batch import (
    Mixed,
    MixedBatch,
    TargetKind,
    as_targets,
    check_images,
    check_labels,
    pair_batch,
    target_kind,
    target_loss,
)
from samix.runtime import distributed
from samix.runtime.docstrings import inherit_args
from samix.runtime.registry import Registry
from samix.runtime.typed_options import Share, check_options

Guides = tuple[Tensor, Tensor]  # what a mixup looks at: the guide of x, the guide of its partner
Pairing = Literal["randperm", "cycle", "flip", "roll"]


MIXUPS: Registry[type[Augmentation]] = Registry("mixups")  # filled by samix.mixups


# ---------------------------------------------------------------------------------------------------------------------
# Draws. All come from a CPU generator and move to the device afterwards: the same on every device, and no sync.


def new_generator() -> torch.Generator:
    """A generator seeded once from torch's global one (so ``torch.manual_seed`` decides), different on every rank."""
    seed = torch.randint(2**62, (1,)) + 7919 * distributed.rank()
    return torch.Generator().manual_seed(int(seed))


def check_alpha(alpha: float, name: str = "alpha") -> None:
    """Raises ValueError unless alpha is a finite number; Beta(alpha, alpha) is drawn for alpha > 0 only."""
    if not isinstance(alpha, (int, float, np.number)) or not math.isfinite(alpha):
        raise ValueError(f"{name} must be a finite number, got {alpha!r}; at most 0 switches mixing off")


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

    Example:
        >>> lam = samix.sample_lam(0.2, 4, per_sample=True)
        >>> lam.shape, bool(((lam >= 0) & (lam <= 1)).all())
        (torch.Size([4]), True)
    """
    check_alpha(alpha)
    if alpha <= 0:
        return torch.ones(batch_size)
    count = batch_size if per_sample else 1
    if alpha == 1:  # uniform; this is the most used, and saves a third of the time of all draws
        lam = torch.rand(count, generator=generator)
    else:
        # torch has no public Beta with a generator; NumPy's is exact down to alpha = 0.001. The seed is an array.
        rng = np.random.default_rng(torch.randint(2**62, (2,), generator=generator).numpy())
        lam = torch.from_numpy(rng.beta(alpha, alpha, size=count).astype(np.float32))
    return lam if per_sample else lam.repeat(batch_size)


def sample_partners(
    batch_size: int, pairing: Pairing = "randperm", *, generator: torch.Generator | None = None
) -> Tensor:
    """Draws the partner of each image.

    Args:
        batch_size: B.
        pairing: ``randperm`` a uniform permutation (one fixed point on average); ``cycle`` one random cycle, no fixed
            point for B >= 2; ``flip`` i -> B - 1 - i (timm); ``roll`` i -> i - 1 (torchvision).
        generator: CPU generator; None takes torch's global one.

    Returns:
        (B,) int64 permutation on the CPU.

    Raises:
        ValueError: unknown pairing.

    Example:
        >>> samix.sample_partners(4, "flip")
        tensor([3, 2, 1, 0])
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
    """Mixes by a mask: ``mask * x + (1 - mask) * partner``, exact where mask is 0 or 1 and where x equals partner.

    Args:
        x: (B, C, H, W). Not modified.
        partner: (B, C, H, W).
        mask: broadcastable to x, float32, share of x in [0, 1].

    Returns:
        (B, C, H, W) in x's type, computed in float32, or in float64 for float64 images.

    Example:
        >>> mask = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
        >>> samix.blend(torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 3), mask).flatten()
        tensor([0.0000, 0.5000, 1.0000])
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
    own = mask.bool()
    if x.device.type == "cpu" and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        own = own.expand_as(x).contiguous(memory_format=torch.channels_last)  # else an inner loop over channels: slow
    return Mixed(torch.where(own, x, partner), lam, mask)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]``, faster on the CPU for plain layouts; channels-last stays channels-last."""
    return x.index_select(0, index) if x.is_contiguous() else x[index]


def on_host(x: Tensor) -> bool:
    """Whether rows of x can be written one by one at little cost: a plain CPU tensor, with no graph to be recorded."""
    if type(x) is not Tensor or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (x.requires_grad and torch.is_grad_enabled())


def as_array(x: Tensor) -> NDArray[np.generic]:
    """The memory of a CPU tensor as an array of whole numbers of the same width, to copy bits from and to."""
    return x.detach().view(_WHOLE[x.element_size()]).numpy()


_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_map(lam: Tensor, x: Tensor) -> Tensor:
    """A constant mask (B, 1, H, W) of lam (B,), over x (B, C, H, W); a view, no copy."""
    return lam.view(-1, *[1] * (x.dim() - 1)).expand(-1, 1, *x.shape[2:])


# ---------------------------------------------------------------------------------------------------------------------
# The augmentation object.


@dataclass(frozen=True)
class Requirements:
    """Declares what a mixup needs and does, for whoever builds a training step around it.

    Args:
        model: calling it needs ``model=``: it reads the network in training.
        classes: it reads which class each image is of, so there must be class ids.
        preserves_geometry: each pixel stays where it is, so labels at each pixel can be mixed.
        stateful: it remembers earlier batches; see :meth:`Augmentation.state_dict`.
        inside_network: it mixes activations inside :meth:`Augmentation.forward_through`; a call on images is MixUp.
        relabels: it changes the weights of the labels inside :meth:`Augmentation.forward_through`.
        own_losses: names of the terms it may add to ``MixedBatch.extra``, in order.
    """

    model: bool = False
    classes: bool = False
    preserves_geometry: bool = True
    stateful: bool = False
    inside_network: bool = False
    relabels: bool = False
    own_losses: tuple[str, ...] = ()

    @property
    def images_only(self) -> bool:
        """Whether the mixup acts on images alone, before the network."""
        return not (self.model or self.stateful or self.inside_network or self.relabels or self.own_losses)

    @staticmethod
    def joined(parts: Sequence[Requirements]) -> Requirements:
        """Returns what any of several mixups requires."""
        return Requirements(
            model=any(part.model for part in parts),
            classes=any(part.classes for part in parts),
            preserves_geometry=all(part.preserves_geometry for part in parts),
            stateful=any(part.stateful for part in parts),
            inside_network=any(part.inside_network for part in parts),
            relabels=any(part.relabels for part in parts),
            own_losses=tuple(dict.fromkeys(name for part in parts for name in part.own_losses)),
        )


@dataclass
class Augmentation:
    """Base class of the mixups, which are called as ``batch = CutMix(alpha=1.0)(images, labels)``.

    A subclass gives :meth:`draw_extras` (what it draws beyond lam and pairs) and :meth:`apply` (its policy).

    Args:
        alpha: lam ~ Beta(alpha, alpha); <= 0 switches mixing off.
        prob: probability, per batch, that the batch is mixed at all.
        per_sample: one lam per sample instead of one per batch.
        pairing: how partners are drawn, see :func:`sample_partners`.
        targets: kind of the labels, see :data:`samix.batch.TargetKind`; None reads it from the labels.
        generator: CPU generator of every draw; None makes one from torch's seed.

    Example:
        >>> class Half(samix.Augmentation):
        ...     name = "half"
        ...     def apply(self, x, partner, lam, guides=None, **extras):
        ...         left = torch.arange(x.shape[3]) < lam.view(-1, 1, 1, 1) * x.shape[3]
        ...         mask = left.float().expand(-1, 1, x.shape[2], -1)
        ...         return samix.Mixed(samix.blend(x, partner, mask), mask.mean(dim=(1, 2, 3)), mask)
        >>> Half()(torch.randn(4, 3, 8, 8), torch.tensor([3, 1, 4, 1]), lam=0.5, index=torch.tensor([1, 0, 3, 2])).lam
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        inherit_args(cls)

    name: ClassVar[str] = ""
    family: ClassVar[str] = "Hand-made"  # heading under which pages list it

    alpha: float = 1.0
    prob: Share = 1.0
    per_sample: bool = False
    pairing: Pairing = "randperm"
    targets: TargetKind | None = field(default=None, repr=False, kw_only=True)
    generator: torch.Generator = field(default_factory=new_generator, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_types(self)
        check_options(self)
        check_finite(self)
        if self.generator is None:
            self.generator = new_generator()  # type: ignore[unreachable]  # None is let in

    @property
    def requirements(self) -> Requirements:
        """What this mixup needs and does; a subclass sets ``requirements = Requirements(...)`` or overrides this."""
        return Requirements()

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) float32 on the CPU; all 1 when this batch is not to be mixed."""
        lam = sample_lam(self.alpha, batch_size, per_sample=self.per_sample, generator=self.generator)
        skip = float(torch.rand(1, generator=self.generator)) >= self.prob
        return torch.ones(batch_size) if skip else lam

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """Further draws for images of this shape (B, C, H, W), on the CPU."""
        return {}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """The policy: pure, given its draws (and its guides, for mixups that look at maps of x and partner)."""
        raise NotImplementedError

    def draw(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns lam (B,) and the partner index (B,) on the images' device: checked when given, drawn when None.

        A row paired with itself, as in a batch of one, gets lam 1: it is not mixed, whatever the policy.
        """
        size = len(images)
        lam = self.draw_lam(size) if lam is None else as_lam(lam, size)
        if index is None:
            index = sample_partners(size, self.pairing, generator=self.generator)
        else:
            check_index(index, size)
        lam, index = to_device(lam, images.device), to_device(index, images.device)
        rows = torch.arange(size, device=index.device)
        return lam.masked_fill(index == rows, 1.0), index

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        """Draws what is not given and mixes; returns the mix and the (B,) partner index."""
        lam, index = self.draw(images, lam, index)
        extras = {key: to_device(draw, images.device) for key, draw in self.draw_extras(images.shape).items()}
        return self.apply_rows(images, index, lam, **extras), index

    def apply_rows(self, x: Tensor, index: Tensor, lam: Tensor, **extras: Tensor) -> Mixed:
        """:meth:`apply` on x and its own rows; for mixups that can do with less than a copy of every partner."""
        return self.apply(x, take_rows(x, index), lam, None, **extras)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        lam: Tensor | float | None = None,
        index: Tensor | None = None,
        model: nn.Module | None = None,
    ) -> MixedBatch:
        """Mixes a batch.

        Args:
            images: (B, C, H, W) floating point, normalised. Not modified.
            labels: (B,) class ids or values, (B, K) float targets, or (B, H, W) class ids or values at each pixel.
            lam: share of the own image, a number or (B,) in [0, 1]; drawn when None.
            index: (B,) int64 partner of each row; drawn when None.
            model: the network in training, for mixups that look at it; the others do without.

        Returns:
            MixedBatch with k = 2. A batch of one comes back unmixed, lam 1.
        """
        self.check_batch(images, labels)
        mixed, index = self.mix(images, lam, index)
        return pair_batch(mixed, labels, index, self.targets)

    def check_batch(self, images: Tensor, labels: Tensor) -> None:
        """Raises unless this mixup can mix these images and labels."""
        check_images(images)
        check_labels(labels, len(images), size=tuple(images.shape[2:]))
        if labels.dim() == 3 and not self.requirements.preserves_geometry:
            raise ValueError(
                f"{type(self).__name__} moves pixels, so it cannot mix labels at each pixel; use CutMix, FMix, "
                "GridMix, SmoothMix or MixUp, which leave pixels in their places"
            )

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes and runs the model: (logits (B, K), batch). Mixups that act inside the network override this."""
        mixed = self(images, labels, model=model)
        return model(mixed.images), mixed

    @property
    def members(self) -> tuple[Augmentation, ...]:
        """The mixups that one is drawn from for each batch; this one alone, unless it is a choice of several."""
        return (self,)

    def with_generator(self, generator: torch.Generator) -> Augmentation:
        """Returns a copy of this mixup that draws from ``generator``."""
        return dataclasses.replace(self, generator=generator)

    def with_clean_loss(
        self, batch: MixedBatch, model: nn.Module, images: Tensor, labels: Tensor, weight: float
    ) -> MixedBatch:
        """Adds the loss of the clean images, times weight, to the batch as ``extra["clean"]``; nothing for weight 0."""
        if weight == 0.0:
            return batch
        kind = target_kind(labels, self.targets)
        clean = target_loss(model(images), as_targets(labels, kind), kind)
        return dataclasses.replace(batch, extra={**batch.extra, "clean": weight * clean})

    def check_kind(self, labels: Tensor, *fits: TargetKind, instead: str) -> None:
        """Raises ValueError unless labels are of one of the kinds that fit this mixup, or of a kind not known.

        Args:
            labels: that are to be mixed.
            fits: the kinds.
            instead: end of the message: what to do.
        """
        kind = target_kind(labels, self.targets)
        if kind is not None and kind not in fits:
            got = f"{labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"{type(self).__name__} takes {' or '.join(fits)} labels, got {kind} ({got}); {instead}")

    # For pictures ----------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Returns a note on what a picture drawn without the network shows; empty where it shows the mixup itself."""
        return ""

    def preview_guide(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Returns the maps (B, h, w) that a picture drawn without the network is mixed with; None for no maps."""
        return None

    # What only some mixups have ---------------------------------------------------------------------------------------

    def compile_parts(self, **options: Any) -> None:
        """Makes ready for a network whose pass is compiled; one that runs networks of its own compiles these.

        Args:
            options: of ``torch.compile``.

        Raises:
            ValueError: it acts inside the network, where a compiled pass would not see it.
        """
        needs = self.requirements
        if needs.model or needs.inside_network or needs.relabels or needs.own_losses:
            raise ValueError(
                f"{self.name} looks into the network or runs it in its own way, which is not compiled; "
                "leave --compile out"
            )

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """Makes what is to be trained beside the network, such as a second head; called once, before training.

        Returns:
            A module whose parameters go to the optimiser, or None.
        """
        return None

    def set_targets(self, targets: TargetKind) -> None:
        """Sets ``targets``, the kind of the labels."""
        self.targets = targets

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Tells a mixup that looks at pixels how they were normalised, by channel."""

    def reset(self) -> None:
        """Forgets earlier batches; called at the start of each epoch."""

    def state_dict(self) -> dict[str, Tensor]:
        """What this mixup remembers of earlier batches, for a checkpoint; draws are not part of it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what :meth:`state_dict` gave."""

    def options(self) -> dict[str, object]:
        """The options as plain values, for a recipe file."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.kw_only}


@cache
def option_types(kind: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's options: of the fields that are not keyword-only."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if not f.kw_only}


def check_types(options: Any) -> None:
    """Raises TypeError unless each option of a dataclass has its field's type, ValueError for huge whole numbers."""
    kind: Any = type(options)
    for name, hint in option_types(kind).items():
        value = getattr(options, name)
        choices = get_args(hint)
        if get_origin(hint) is Literal:
            kinds: tuple[Any, ...] = tuple(type(choice) for choice in choices)
        else:
            kinds = tuple({float: Real, int: Integral, bool: Integral}.get(kind, kind) for kind in choices or (hint,))
        if not all(isinstance(kind, type) for kind in kinds):
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in (hint, *choices)):
            wanted = getattr(hint, "__name__", None) if not choices else str(hint)
            raise TypeError(f"{name} must be {wanted}, got {value!r}")
        if isinstance(value, Integral) and not -(2**31) < int(value) < 2**31:
            raise ValueError(f"{name} must be below 2^31, got {value}")


def check_finite(options: Any) -> None:
    """Raises ValueError for an option that is nan or infinite, or a tuple that holds such a number."""
    kind: Any = type(options)
    for name in option_types(kind):
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, Real) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {value!r}")


def check_index(index: Tensor, batch_size: int) -> None:
    """Raises unless index (B,) names rows of this batch; its values are looked at on the CPU only."""
    if not isinstance(index, Tensor):
        raise TypeError(f"index must be a torch.Tensor, got {type(index).__name__}; use torch.as_tensor")
    if index.shape != (batch_size,) or index.dtype != torch.int64:
        raise ValueError(
            f"index must be int64 of shape ({batch_size},), got {index.dtype} {tuple(index.shape)}; use sample_partners"
        )
    if index.device.type == "cpu" and not bool(((index >= 0) & (index < batch_size)).all()):
        raise ValueError(
            f"index must name rows 0 to {batch_size - 1}, got values from {int(index.min())} to {int(index.max())}"
        )


def as_lam(lam: Tensor | float, batch_size: int) -> Tensor:
    """The lam that a caller gave, as (B,) float32."""
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
