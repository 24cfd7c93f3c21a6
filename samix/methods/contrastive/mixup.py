"""How a mixup enters learning without labels: the cross-view pipeline.

Each source of a mixed image is contrasted with the *other* view of the same source, so that no target comes from the
view that was pasted in.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch, check_images
from samix.losses.contrastive import mixed_info_nce, normalized
from samix.methods.contrastive.clustering import ClusterOptions
from samix.mixers.learned import MaskGenerator
from samix.mixups.base import Augmentation
from samix.mixups.handmade import NoMixup, RandomChoice
from samix.networks.encoder import Encoder

if TYPE_CHECKING:
    from samix.methods.contrastive.moco import MoCo


def check_views(batch: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two views and, where given, the images' row numbers.

    Raises:
        TypeError, ValueError: not two views of one shape, or row numbers that do not fit.
    """
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


class Seen(NamedTuple):
    """What the clean part of a step of MoCo had and made."""

    view_q: Tensor  # (B, C, H, W)
    view_k: Tensor
    key: Tensor  # (B, D) unit keys of view_k
    embedding: Tensor  # (B, D) what the keys were before they were brought to unit length, for clusters
    negatives: Tensor  # (K, D)
    ids: Tensor | None  # (B,) row numbers of the images


class Mixing(nn.Module):
    """What a mixup adds to a step without labels."""

    def losses(self, method: MoCo, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to be added, a scalar, and its parts for the log.

        Args:
            method: the step this belongs to, with its encoders.
            seen: what the clean part of that step had and made.
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step."""

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """What is to be trained here, as groups for a torch optimiser; all of it is one group, ``mixer``."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [{"name": "mixer", "params": trained, "lr": lr, "weight_decay": weight_decay}] if trained else []

    def extra_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beyond ``state_dict``."""
        return {}

    def load_extra_state(self, state: Any) -> None:
        """Takes it back."""

    def preview(
        self, method: Any, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor
    ) -> MixedBatch | None:
        """The mix of these pairs, for pictures."""
        raise NotImplementedError


class AugmentationMixup(Mixing):
    """Any augmentation object: hand-made, guided by pixels, hidden, or a frozen Mixer.

    Args:
        mixup: what mixes; a copy is taken whose partners are drawn without fixed points.
        generator: of its draws.
    """

    def __init__(self, mixup: Augmentation, generator: torch.Generator) -> None:
        super().__init__()
        self.mixup = for_views(mixup, generator)

    def losses(self, method: MoCo, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """``sum_s weights_s nce(z_m, key of source s)``: both sources from the query view, all keys of the key view."""
        z, mixed = mix_views(self.mixup, method.online, seen.view_q)
        keys = seen.key[mixed.index]  # (B, k, D)
        loss = mixed_info_nce(z, keys, mixed.weights, seen.negatives, method.options.temperature).mean()
        weighted = method.options.mixed_weight * loss + mixed.extra_loss
        return weighted, {"mixed": loss, **mixed.extra}

    def extra_state(self) -> dict[str, Tensor]:
        """What the mixup remembers."""
        return self.mixup.state_dict()

    def load_extra_state(self, state: Any) -> None:
        """Gives it back."""
        self.mixup.load_state_dict(state)

    def preview(
        self, method: Any, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor
    ) -> MixedBatch | None:
        """The mixup of these pairs; the run's generator does not move."""
        state = self.mixup.generator.get_state()
        try:
            return self.mixup(images, labels, lam=lam, index=index)
        finally:
            self.mixup.generator.set_state(state)


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

    Raises:
        ValueError: a mixup whose labels are more than shares of sources.
    """
    rows = torch.arange(len(view), device=view.device)
    features, mixed = mixup.forward_through(encoder.model, view, rows)
    if mixed.target is not None:
        raise ValueError(f"{type(mixup).__name__} makes dense targets of classes; without labels there are none")
    return encoder.projector(features), mixed


def for_views(mixup: Augmentation, generator: torch.Generator, *, classes: bool = False) -> Augmentation:
    """A copy of a mixup for use without labels: this generator, and partners in one cycle, nobody with itself.

    Args:
        mixup: any.
        generator: of all its draws.
        classes: there are pseudo labels, and maps of a network that knows them.

    Raises:
        ValueError: a mixup that needs class labels, to look at the network or for a further term of its loss.
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
            "mixing=PseudoLabelOptions(...) and images=N"
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


def make_mixing(
    mixup: Augmentation | MaskGenerator | None,
    encoder: Encoder,
    options: Any,
    generator: torch.Generator,
    images: int | None = None,
    dim: int = 128,
) -> Mixing | None:
    """The mixing of a mixup: given as it is, or learned; with options that have clusters, by pseudo labels.

    Args:
        mixup: see :class:`samix.MoCo`.
        encoder: the query encoder.
        options: of the mixing.
        generator: of its draws.
        images: N, number of training images, for clusters.
        dim: D of the embedding, for clusters.

    Raises:
        TypeError: not a mixup.
        ValueError: clusters without ``images``, or options that do not go with this mixup.
    """
    if mixup is None or isinstance(mixup, NoMixup):
        return None
    if isinstance(options, ClusterOptions):
        from samix.methods.contrastive.pseudo_labels import mixing_by_clusters

        return mixing_by_clusters(mixup, encoder, options, generator, images, dim)
    if isinstance(mixup, MaskGenerator):
        from samix.methods.contrastive.samix_i import SAMixIMixup

        return SAMixIMixup(mixup, encoder, options, generator)
    if not isinstance(mixup, Augmentation):
        raise TypeError(f"mixup must be an augmentation object or a learned Mixer, got {type(mixup).__name__}")
    return AugmentationMixup(mixup, generator)
