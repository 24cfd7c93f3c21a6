"""SAMix-C: a Mixer learned without labels from clusters (Li et al. 2022, arXiv:2111.15454, section 3.3).

As SAMix-I, but what the Mixer learns from is clusters in place of keys: the mix must look like the clusters of its two
sources, in lam's proportion. The encoder is still trained by infoNCE alone: no gradient of clusters reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.losses.cluster import cluster_bce, weighted_cross_entropy
from samix.losses.contrastive import exact, normalized
from samix.methods.automix import Draw
from samix.methods.contrastive.clustering import ClusterOptions, OnlineClusters
from samix.methods.contrastive.samix_i import RELEASED, SAMixIMixup, SAMixIOptions, Sources
from samix.methods.options import mask_schedule
from samix.mixers.learned import MaskGenerator, check_choice
from samix.mixups.base import sample_lam, to_device
from samix.networks.ema import momentum_copy, update_momentum
from samix.networks.encoder import Encoder

if TYPE_CHECKING:
    from samix.methods.contrastive.mixup import Seen
    from samix.methods.contrastive.moco import MoCo


@dataclass(frozen=True)
class SAMixCOptions(SAMixIOptions, ClusterOptions):
    """Options of a Mixer's training by clusters: SAMix-I's, those of the clusters, and these.

    Args:
        local: the local term: ``clusters`` is the BCE of the two clusters' logits [paper]; ``keys`` is SAMix-I's, of
            the two keys [released code].
        auto_label: plain MixUp in the encoder branch where both images are of one cluster.
        head_momentum: of the frozen copy of the clusters' head that judges the mix; 0 copies it after each step.
    """

    name: ClassVar[str] = "samix-c"

    local: Literal["clusters", "keys"] = "clusters"
    auto_label: bool = True
    head_momentum: float = 0.0

    def __post_init__(self) -> None:
        SAMixIOptions.__post_init__(self)
        ClusterOptions.__post_init__(self)
        check_choice("local", self.local, ("clusters", "keys"))
        if self.extended and self.local != "keys":
            raise ValueError('extended positives are keys: local="keys"')
        if not 0.0 <= self.head_momentum <= 1.0:
            raise ValueError(f"head_momentum must be in [0, 1], got {self.head_momentum}")


SAMIX_C_PRESETS: dict[str, SAMixCOptions] = {
    "paper": SAMixCOptions(),
    "reference": SAMixCOptions(
        **RELEASED, clusters=500, centroid_every=250, repair_every=50, warmup_epochs=0, local="keys"
    ),
}


class ClusterMixing(SAMixIMixup):
    """A Mixer trained beside MoCo by clusters; until there are any, SAMix-I.

    Args:
        mixer: as for SAMix-I.
        encoder: as for SAMix-I.
        options: with ``preset="reference"`` in :data:`SAMIX_C_PRESETS`, the first clusters are made by the caller:
            ``method.mixing.clusters.initialise_from(method.momentum, batches)``.
        generator: of lam and pairs.
        images: N, number of training images.
        dim: D of the embedding.

    Raises:
        ValueError: a Mixer of another width, or too few images for the clusters.
    """

    options: SAMixCOptions

    def __init__(
        self,
        mixer: MaskGenerator,
        encoder: Encoder,
        options: SAMixCOptions,
        generator: torch.Generator,
        images: int,
        dim: int,
    ) -> None:
        super().__init__(mixer, encoder, options, generator)
        device = next(encoder.parameters()).device
        self.clusters = OnlineClusters(images, dim, options).to(device)
        self.head = cluster_head(dim, options.clusters).to(device)
        self.frozen_head = momentum_copy(self.head)

    # The step ---------------------------------------------------------------------------------------------------------

    def losses(self, method: MoCo, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """Both branches and the clusters' head; then the bank takes in this step's keys."""
        rows = self.clusters.rows(seen.ids, len(seen.view_q))
        if self.clusters.running:
            sources = self.sources(method, seen.view_q, seen.view_k, seen.key)
            sources = sources._replace(label=self.clusters.labels[rows])
            loss, parts = self.cluster_losses(method, sources, seen.negatives, seen.embedding)
        else:
            loss, parts = super().losses(method, seen)
            parts["clusters"] = untrained(self.head)  # so that every parameter has a gradient, as several processes ask
            loss = loss + parts["clusters"]
        if method.training:
            parts["changed"] = self.clusters.step(rows, seen.key)
        return loss, parts

    def cluster_losses(
        self, method: MoCo, sources: Sources, negatives: Tensor, embedding: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """SAMix-I's two branches, with the Mixer judged by clusters, and the loss of their head."""
        mixed = self.encoder_loss(method, sources, negatives)
        draw = self.draw(len(sources.image), sources.image.device)
        mask, mixed_embedding = self.judge(method, sources, draw)
        generation = self.generation_loss(method, mixed_embedding, sources, draw, negatives)
        mask_loss, report = self.mask_loss(mask, draw)
        head = self.head_loss(embedding, mixed_embedding, sources, draw)
        weight = self.options.mask_weight * mask_schedule(self.options.mask_schedule, method.progress)
        loss = method.options.mixed_weight * mixed + generation + weight * mask_loss + head
        return loss, {"mixed": mixed, "generation": generation, "mask": mask_loss, "clusters": head, **report}

    def generation_loss(
        self, method: MoCo, embedding: Tensor, sources: Sources, draw: Draw, negatives: Tensor
    ) -> Tensor:
        """``local_weight * l_+ + global_weight * l_-`` by the frozen head; l_- is mixed cross-entropy of clusters."""
        if sources.label is None:
            return super().generation_loss(method, embedding, sources, draw, negatives)
        logits = apply_exactly(self.frozen_head, embedding)
        if self.options.local == "clusters":
            local = cluster_bce(logits, sources.label, sources.label[draw.index], draw.lam)
        else:
            local = self.local_loss(method, normalized(embedding), sources, draw)
        local_weight = self.options.local_weight * mask_schedule(self.options.local_schedule, method.progress)
        return local_weight * local + self.options.global_weight * self.cluster_loss(logits, sources.label, draw)

    def head_loss(self, embedding: Tensor, mixed_embedding: Tensor, sources: Sources, draw: Draw) -> Tensor:
        """Trains the head alone: cross-entropy of clean and of mixed embeddings (B, D), which are detached."""
        assert sources.label is not None
        labels, ones = sources.label.unsqueeze(1), torch.ones(len(embedding), 1, device=embedding.device)
        clean_logits = apply_exactly(self.head, embedding.detach())
        clean = weighted_cross_entropy(clean_logits, labels, ones, self.clusters.weights)
        mixed_logits = apply_exactly(self.head, mixed_embedding.detach())
        return clean + self.cluster_loss(mixed_logits, sources.label, draw)

    def cluster_loss(self, logits: Tensor, label: Tensor, draw: Draw) -> Tensor:
        """Cross-entropy of mixed images with both clusters, in lam's proportion, with class weights."""
        labels = torch.stack([label, label[draw.index]], dim=1)
        shares = torch.stack([draw.lam, 1.0 - draw.lam], dim=1)
        return weighted_cross_entropy(logits, labels, shares, self.clusters.weights)

    # Its parts --------------------------------------------------------------------------------------------------------

    def finish(self, mask: Tensor, sources: Sources, draw: Draw) -> Tensor:
        """As for SAMix-I; with ``auto_label``, a constant mask lam for pairs of one cluster."""
        mask = super().finish(mask, sources, draw)
        if sources.label is None or not self.options.auto_label:
            return mask
        same = (sources.label == sources.label[draw.index]).view(-1, 1, 1, 1)
        return torch.where(same, draw.lam.view(-1, 1, 1, 1), mask)

    def extend(self, sources: Sources, draw: Draw) -> tuple[Tensor, Tensor]:
        """Positives of the released code; with clusters these are interpolations alone: w ~ Beta(2, 2) per element."""
        count, dim = sources.key.shape
        share = sample_lam(2.0, count * dim, per_sample=True, generator=self.generator).view(count, dim)
        share = to_device(share, sources.key.device)
        own = F.normalize(torch.lerp(sources.partner_key, sources.key, share), dim=1)
        other = F.normalize(torch.lerp(sources.key, sources.partner_key, share), dim=1)
        return own, other[draw.index]

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The Mixer, and the clusters' head as a group of its own, ``clusters``."""
        return [
            {"name": "mixer", "params": list(self.mixer.parameters()), "lr": lr, "weight_decay": weight_decay},
            {"name": "clusters", "params": list(self.head.parameters()), "lr": lr, "weight_decay": weight_decay},
        ]

    def after_step(self, progress: float) -> None:
        """As for SAMix-I; and the frozen head follows."""
        super().after_step(progress)
        update_momentum(self.head, self.frozen_head, self.options.head_momentum)


def cluster_head(width: int, clusters: int) -> nn.Linear:
    """A linear classifier of clusters, weights N(0, 0.01^2), bias 0."""
    head = nn.Linear(width, clusters)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def apply_exactly(head: nn.Module, embedding: Tensor) -> Tensor:
    """Logits (B, C) in float32, also under autocast."""
    with torch.autocast(embedding.device.type, enabled=False):
        return head(exact(embedding))  # type: ignore[no-any-return]


def untrained(head: nn.Module) -> Tensor:
    """A loss of 0 that gives every parameter a gradient of 0."""
    return sum((p.sum() for p in head.parameters()), torch.zeros((), device=next(head.parameters()).device)) * 0.0
