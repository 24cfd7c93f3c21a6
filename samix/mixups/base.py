"""What every mixup shares: the draws, the blend, and the object that is called.

Two conventions hold in the whole library. ``lam`` is the share of the *own* image, float32, one per sample; ``mask`` is
1 where the own pixel stays and 0 where the partner shows. A *policy* is a pure function of its draws,
``policy(x, partner, lam, ...) -> Mixed``; an :class:`Augmentation` draws, applies a policy and keeps the labels.

Every policy takes ``x`` (B, C, H, W) and ``partner`` of the same shape, which it does not modify, and ``lam`` (B,), the
share of x that is wanted, in [0, 1]. It raises ValueError where their shapes differ. The ``lam`` that it returns is the
exact share of pixels left to x, unless it says otherwise. Other arguments are the policy's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
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
from samix.mixups.draws import (
    Pairing,
    as_lam,
    check_alpha,
    check_index,
    new_generator,
    sample_lam,
    sample_partners,
    to_device,
)
from samix.mixups.pixels import as_array, as_map, blend, choose, on_host, take_rows
from samix.runtime.docstrings import inherit_args
from samix.runtime.registry import Registry
from samix.runtime.typed_options import Share, check_options

__all__ = [
    "MIXUPS",
    "Augmentation",
    "Guides",
    "Pairing",
    "Requirements",
    "as_array",
    "as_lam",
    "as_map",
    "blend",
    "check_alpha",
    "check_index",
    "choose",
    "new_generator",
    "on_host",
    "sample_lam",
    "sample_partners",
    "take_rows",
    "to_device",
]

Guides = tuple[Tensor, Tensor]  # what a mixup looks at: the guide of x, the guide of its partner


MIXUPS: Registry[type[Augmentation]] = Registry("mixups")  # filled by samix.mixups


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
        check_options(self)
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

    def extras_for(self, images: Tensor) -> dict[str, Tensor]:
        """The further draws for these images, on their device."""
        return {name: to_device(draw, images.device) for name, draw in self.draw_extras(images.shape).items()}

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
        return self.apply_rows(images, index, lam, **self.extras_for(images)), index

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
        return self.mix_batch(images, labels, lam, index)

    def mix_batch(self, images: Tensor, labels: Tensor, lam: Tensor | float | None, index: Tensor | None) -> MixedBatch:
        """Mixes images and labels that were checked; for mixups whose draws or labels need more than :meth:`mix`."""
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
        """Mixes and runs the model. Mixups that act inside the network, or have further losses, override this.

        Args:
            model: maps (B, C, H, W) to (B, K); its hooks are as before afterwards.
            images: (B, C, H, W). Not modified.
            labels: as :meth:`__call__` takes them.

        Returns:
            Logits (B, K), and the batch; where activations were mixed, its images are these, detached.

        Raises:
            TypeError, ValueError: images, labels or a network that this mixup cannot take.
        """
        mixed = self(images, labels, model=model)
        return model(mixed.images), mixed

    @property
    def members(self) -> tuple[Augmentation, ...]:
        """The mixups that one is drawn from for each batch; this one alone, unless it is a choice of several."""
        return (self,)

    @property
    def parts(self) -> tuple[Augmentation, ...]:
        """The mixups that this one is made of: what it is told they are told too, and their state is its state."""
        return ()

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

    def compile_parts(self, **options: object) -> None:
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
        for part in self.parts:
            part.set_targets(targets)

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Tells a mixup that looks at pixels how they were normalised, by channel."""
        for part in self.parts:
            part.set_normalization(mean, std)

    def reset(self) -> None:
        """Forgets earlier batches; called at the start of each epoch."""
        for part in self.parts:
            part.reset()

    def state_dict(self) -> dict[str, Tensor]:
        """What this mixup remembers of earlier batches, for a checkpoint; draws are not part of it."""
        return {f"{i}.{name}": value for i, part in enumerate(self.parts) for name, value in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        for i, part in enumerate(self.parts):
            own = f"{i}."
            part.load_state_dict({name[len(own) :]: v for name, v in state.items() if name.startswith(own)})

    def options(self) -> dict[str, object]:
        """The options as plain values, for a recipe file."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.kw_only}
