"""Label-side methods: the weights of a mixed label, read from the network that sees the mixed image.

TransMix, MixPro and TL-Align read the attention of a timm ViT, SUMix compares predictions of any network. Each wraps a
mixup of images, any that has a mask, named by ``base`` or handed in as ``mixup``. They act in ``forward_through``;
called on images alone they give the batch of the mixup they wrap. The arithmetic is in plain functions beside each
method, for a loop of your own:

    logits, attention = class_attention(model, batch.images)
    lam = transmix_lam(attention, batch.mask)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels
from samix.mixups.base import MIXUPS, Augmentation, Requirements
from samix.mixups.handmade import RandomChoice
from samix.mixups.switching import SwitchingAugmentation


@dataclass
class Relabelling(SwitchingAugmentation):
    """Base of the label-side methods.

    ``alpha``, ``prob``, ``per_sample`` and ``pairing`` are handed to the mixup that is named by ``base``; a ready
    ``mixup`` keeps its own, and these fields then tell what they are. Draws come from one generator, this object's.
    Only the images of the wrapped mixup are taken: further losses it may have are left out.

    Args:
        base: name of the mixup whose labels are changed; any that mixes pixels by a mask.
        mixup: a ready object instead; it is copied.
    """

    family: ClassVar[str] = "On the label's side"

    base: str = "cutmix"
    mixup: Augmentation | None = field(default=None, kw_only=True, repr=False)
    inner: Augmentation = field(init=False, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        shared = ("alpha", "prob", "per_sample", "pairing")
        if self.mixup is None:
            self.inner = self.named(**{name: getattr(self, name) for name in shared}, **self.base_options())
        else:
            self.inner = self.mixup.with_generator(self.generator)
            self.base = self.mixup.name
            for name in shared:
                setattr(self, name, getattr(self.mixup, name))
        needs = self.inner.requirements
        if needs.inside_network or needs.relabels:
            raise ValueError(
                f"{type(self.inner).__name__} acts inside or after the forward pass, so it cannot be the mixup of "
                "images that is relabelled; take one that mixes pixels by a mask, such as cutmix, fmix or gridmix"
            )
        if self.targets is not None:
            self.set_targets(self.targets)

    def named(self, **options: Any) -> Augmentation:
        """Makes the mixup that ``base`` names; it draws from this object's generator, so who seeds one seeds both."""
        kinds = {name: cls for name, cls in MIXUPS.items() if not issubclass(cls, RandomChoice | Relabelling)}
        if self.base not in kinds:
            more = "; hand in a ready one as mixup" if self.base in MIXUPS else ""
            raise ValueError(f"unknown base {self.base!r}{more}; choose one of {', '.join(sorted(kinds))}")
        return kinds[self.base](generator=self.generator, **options)

    def base_options(self) -> dict[str, Any]:
        """Further options for the mixup that is named by ``base``."""
        return {}

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        """Runs the model on the mixed batch and changes its weights; ``images`` are the clean ones."""
        raise NotImplementedError

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes, runs the model, and changes the labels' weights, unless the batch is left to MixUp (``switch``)."""
        check_images(images)
        check_labels(labels, len(images))  # a label at each pixel has no single weight
        if self.draw_switch():
            batch = self.instead()(images, labels)
            return model(batch.images), self.untrained(batch)
        batch = self.inner(images, labels, model=model)
        if batch.mask is None or batch.labels.shape[1] != 2 or batch.target is not None:
            raise ValueError(
                f"{type(self).__name__} changes the weights of two labels by the mask that mixed their images; "
                f"{type(self.inner).__name__} gave no mask, more sources, or a label of its own"
            )
        return self.relabel(model, batch, images)

    def untrained(self, batch: MixedBatch) -> MixedBatch:
        """A batch that was left to another mixup."""
        return batch

    # All else is the wrapped mixup's ---------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[Augmentation, ...]:
        return (self.inner,)

    @property
    def requirements(self) -> Requirements:
        return dataclasses.replace(self.inner.requirements, relabels=True, own_losses=())

    def describe(self) -> str:
        return f"images as {self.inner.name} mixes them; the label's shares need the network"

    def preview_guide(self, images: Tensor, labels: Tensor) -> Tensor | None:
        return self.inner.preview_guide(images, labels)

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        return self.inner.mix(images, lam, index)

    def check_batch(self, images: Tensor, labels: Tensor) -> None:
        self.inner.check_batch(images, labels)

    def __call__(
        self, images: Tensor, labels: Tensor, *, lam: Tensor | float | None = None, **given: Any
    ) -> MixedBatch:
        """The wrapped mixup's batch, or MixUp's where that is drawn; labels are changed in :meth:`forward_through`."""
        if lam is None and self.draw_switch():
            return self.instead()(images, labels, index=given.get("index"))
        return self.inner(images, labels, lam=lam, **given)

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """Nothing, unless the method says so."""
        if self.inner.attach(model, num_classes) is not None:
            raise ValueError(
                f"{type(self.inner).__name__} trains a head by a further loss, which {type(self).__name__} leaves out; "
                "set that loss to 0 (as cell_weight=0 of gridmix), or take another mixup"
            )
        return None


def with_lam(batch: MixedBatch, lam: Tensor, **changes: Any) -> MixedBatch:
    """The batch with weights (lam, 1 - lam)."""
    return dataclasses.replace(batch, weights=torch.stack([lam, 1.0 - lam], dim=1), **changes)


def area(batch: MixedBatch) -> Tensor:
    """(B,) share of own pixels; 1 for a row that is paired with itself."""
    assert batch.mask is not None
    size = batch.mask.shape[2] * batch.mask.shape[3]
    same = batch.index[:, 0] == batch.index[:, 1]
    return torch.where(same, 1.0, batch.mask.sum((1, 2, 3)) / size)
