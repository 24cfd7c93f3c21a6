"""How a mixup enters learning without labels: the cross-view pipeline.

Each source of a mixed image is contrasted with the *other* view of the same source, so that no target comes from the
view that was pasted in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch, check_images
from samix.losses.contrastive import mixed_info_nce, normalized
from samix.methods.base import ParameterGroups
from samix.methods.contrastive.clustering import OnlineClusters
from samix.mixers.base import MaskGenerator
from samix.mixups.base import Augmentation
from samix.mixups.handmade import RandomChoice
from samix.networks.encoder import Encoder

Views = Sequence[Any]  # two views (B, C, H, W), then the images' rows (B,), or small views where a method takes them


def check_views(batch: Views) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two views and, where given, the images' row numbers."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(f"a batch without labels is (view_q, view_k), two views of the same images; got {got}")
    view_q, view_k = batch[0], batch[1]
    check_images(view_q)
    if not isinstance(view_k, Tensor) or view_k.shape != view_q.shape:
        got = str(tuple(view_k.shape)) if isinstance(view_k, Tensor) else type(view_k).__name__
        raise ValueError(f"the second view must have the first's shape {tuple(view_q.shape)}, got {got}")
    check_images(view_k)
    ids = batch[2] if len(batch) > 2 else None
    if ids is not None and (not isinstance(ids, Tensor) or ids.shape != view_q.shape[:1] or ids.is_floating_point()):
        raise ValueError(f"row numbers must be ({len(view_q)},) integers, one per image")
    return view_q, view_k, ids


@dataclass(frozen=True)
class MoCoStep:
    """One step of MoCo, as a mixup sees it.

    Args:
        view_q: (B, C, H, W).
        view_k: (B, C, H, W), of the same images.
        ids: (B,) rows of the images in the data, or None.
        embedding: (B, D) of view_k by the EMA encoder.
        key: (B, D) the same, of unit length.
        negatives: (K, D).
        encoder: is trained.
        ema_encoder: its moving average.
        keys: gives the unit keys (B, D) of a view.
        feature_maps: gives the EMA encoder's feature maps (B, C', h, w) of a view.
        temperature: of the softmax.
        mixed_weight: weight of the mixed loss.
        progress: share of the run that is done, in [0, 1].
        done: optimiser steps that are done.
        training: whether the method is in train mode.
    """

    view_q: Tensor
    view_k: Tensor
    ids: Tensor | None
    embedding: Tensor
    key: Tensor
    negatives: Tensor
    encoder: Encoder
    ema_encoder: Encoder
    keys: Callable[[Tensor], Tensor]
    feature_maps: Callable[[Tensor], Tensor]
    temperature: float
    mixed_weight: float
    progress: float
    done: int
    training: bool

    def mixed_nce(self, z: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        """Mean infoNCE, a scalar, of mixes z (B, D) with the keys (B, k, D) of their sources in shares (B, k)."""
        return mixed_info_nce(z, keys, weights, self.negatives, self.temperature).mean()


class ContrastiveMixup(nn.Module):
    """A mixup in a self-supervised step: the loss that it adds, and its state."""

    @property
    def loss_parts(self) -> tuple[str, ...]:
        """Names of all parts that :meth:`losses` may return, in order, the same on every process."""
        return ("mixed",)

    def losses(self, step: MoCoStep) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to add, a scalar, and its parts for the log."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Follows an optimiser step."""

    def online_clusters(self) -> OnlineClusters | None:
        """The clusters that it keeps, if it keeps any."""
        return None

    def parameter_groups(self, lr: float, weight_decay: float) -> ParameterGroups:
        """Parameters to train, as groups for a torch optimiser: one group, ``mixer``, or none."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [{"name": "mixer", "params": trained, "lr": lr, "weight_decay": weight_decay}] if trained else []

    def extra_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beyond ``state_dict``."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads what :meth:`extra_state` gave."""

    def preview(
        self, encoder: Encoder, teacher: Encoder, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor
    ) -> MixedBatch | None:
        """The mix of these pairs, for pictures."""
        raise NotImplementedError


@dataclass(frozen=True)
class Attachment:
    """The method that a mixup becomes a part of.

    Args:
        encoder: is trained by the step.
        generator: of all draws.
        images: N, number of training images, or None if it is not known.
        dim: D of the embedding.
    """

    encoder: Encoder
    generator: torch.Generator
    images: int | None
    dim: int

    def known_images(self) -> int:
        """The number of training images."""
        if self.images is None:
            raise ValueError("clusters keep a feature of each training image; give their number, images=len(data)")
        return self.images


class ContrastiveMixupOptions(Protocol):
    """Options of a mixup beside MoCo, which say how it enters the step."""

    def attach(self, mixup: Augmentation | MaskGenerator, to: Attachment) -> ContrastiveMixup:
        """The contrastive form of a mixup.

        Args:
            mixup: is mixed with, or trained.
            to: what it becomes a part of.
        """


def wrong_options(options: object, mixup: object) -> ValueError:
    """The error for options that do not go with a mixup."""
    return ValueError(
        f"{type(options).__name__} does not go with {type(mixup).__name__}: a Mixer that is trained (samix.SAMixer) "
        "takes SAMixIOptions or SAMixCOptions, InterIntraMix and mixups guided by maps take PseudoLabelOptions, and "
        "all others take no options"
    )


class AugmentationMixup(ContrastiveMixup):
    """Any augmentation object: hand-made, guided by pixels, hidden, or a frozen Mixer.

    Args:
        augmentation: mixes; a copy is taken whose partners are drawn without fixed points.
        generator: of its draws.
    """

    def __init__(self, augmentation: Augmentation, generator: torch.Generator) -> None:
        super().__init__()
        self.augmentation = for_views(augmentation, generator)

    def losses(self, step: MoCoStep) -> tuple[Tensor, dict[str, Tensor]]:
        """``sum_s weights_s nce(z_m, key of source s)``: both sources from the query view, all keys of the key view."""
        z, mixed = mix_views(self.augmentation, step.encoder, step.view_q)
        loss = step.mixed_nce(z, step.key[mixed.index], mixed.weights)
        return step.mixed_weight * loss, {"mixed": loss}

    def extra_state(self) -> dict[str, Tensor]:
        return self.augmentation.state_dict()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        self.augmentation.load_state_dict(state)

    def preview(
        self, encoder: Encoder, teacher: Encoder, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor
    ) -> MixedBatch | None:
        with same_draws(self.augmentation.generator):
            return self.augmentation(images, labels, lam=lam, index=index)


@contextmanager
def same_draws(generator: torch.Generator) -> Iterator[None]:
    """Restores the generator's state afterwards."""
    state = generator.get_state()
    try:
        yield
    finally:
        generator.set_state(state)


def mix_views(mixup: Augmentation, encoder: Encoder, view: Tensor) -> tuple[Tensor, MixedBatch]:
    """As :func:`embed_mixed`, with embeddings of unit length."""
    z, mixed = embed_mixed(mixup, encoder, view)
    return normalized(z), mixed


def embed_mixed(mixup: Augmentation, encoder: Encoder, view: Tensor) -> tuple[Tensor, MixedBatch]:
    """Mixes the images of one view and encodes the mix.

    Args:
        mixup: any; its "labels" are row numbers, so ``index`` and ``weights`` of the batch tell the sources.
        encoder: gets gradients.
        view: (B, C, H, W).

    Returns:
        Embeddings (B, D) of the mix, and the batch.
    """
    rows = torch.arange(len(view), device=view.device)
    features, mixed = mixup.forward_through(encoder.model, view, rows)
    if mixed.target is not None:
        raise ValueError(f"{type(mixup).__name__} makes dense targets of classes; without labels there are none")
    return encoder.projector(features), mixed


def for_views(mixup: Augmentation, generator: torch.Generator, *, classes: bool = False) -> Augmentation:
    """A copy of a mixup for use without labels: this generator, and partners in one cycle, no image with itself.

    Args:
        mixup: any.
        generator: of all its draws.
        classes: there are pseudo labels, and maps of a network that knows them.
    """
    own = copy.copy(mixup)
    own.generator = generator
    own.pairing = "cycle"
    needs = own.requirements
    if needs.stateful:
        raise ValueError(
            f"{type(mixup).__name__} is for labelled images: it mixes in the batch before, whose keys are gone"
        )
    if needs.relabels:
        raise ValueError(
            f"{type(mixup).__name__} is for labelled images: it corrects class labels by what a classifier says; use "
            "the mixup that it wraps"
        )
    if needs.classes and not classes:
        raise ValueError(
            f"{type(mixup).__name__} asks whether two images are of one class; without labels give it clusters: "
            "mixup_options=PseudoLabelOptions(...) and images=N"
        )
    if needs.model and not classes:
        raise ValueError(
            f"{type(mixup).__name__} looks at a network trained with labels, which is not there; choose one guided by "
            "pixels, or a frozen Mixer"
        )
    if needs.own_losses:
        raise ValueError(
            f"{type(mixup).__name__} adds losses of class labels ({', '.join(needs.own_losses)}), which are not there; "
            "set their weights to 0"
        )
    if isinstance(own, RandomChoice):
        own.choices = tuple(for_views(choice, generator, classes=classes) for choice in own.choices)
    return own
