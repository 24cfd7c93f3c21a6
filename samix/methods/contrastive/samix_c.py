"""SAMix-C: a Mixer learned without labels from clusters (Li et al. 2022, arXiv:2111.15454, section 3.3).

SAMix-I whose Mixer learns from clusters instead of keys: the mix must look like the clusters of its two sources, in
lam's proportion. The encoder is still trained by infoNCE alone: no gradient of clusters reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from samix.losses.cluster import weighted_cross_entropy
from samix.losses.contrastive import exact, normalized
from samix.losses.supervised import local_cross_entropy
from samix.methods.base import ParameterGroups
from samix.methods.contrastive.clustering import ClusterOptions, OnlineClusters
from samix.methods.contrastive.mixup import Attachment, ContrastiveMixup, MoCoStep, wrong_options
from samix.methods.contrastive.samix_i import RELEASED, MixerBranch, PairSources, SAMixIMixup, SAMixIOptions
from samix.methods.learned import Draw
from samix.mixers.base import MaskGenerator
from samix.mixups.base import Augmentation
from samix.networks.ema import ema_copy, update_ema
from samix.networks.encoder import Encoder
from samix.networks.heads import idle
from samix.runtime.typed_options import Share


@dataclass(frozen=True)
class SAMixCOptions(SAMixIOptions, ClusterOptions):
    """Options of SAMix-C, a Mixer that learns from clusters: SAMix-I's, those of the clusters, and these.

    Args:
        local: the local term: ``clusters`` is the BCE of the two clusters' logits [paper]; ``keys`` is SAMix-I's, of
            the two keys [released code].
        auto_label: plain MixUp in the encoder branch where both images are of one cluster.
        head_ema_decay: of the frozen copy of the clusters' head that judges the mix; 0 copies the head after each step.

    Example:
        >>> samix.SAMixCOptions(clusters=50).clusters
        50
    """

    local: Literal["clusters", "keys"] = "clusters"
    auto_label: bool = True
    head_ema_decay: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extended and self.local != "keys":
            raise ValueError('extended positives are keys: local="keys"')

    def attach(self, mixup: Augmentation | MaskGenerator, to: Attachment) -> ContrastiveMixup:
        """Returns SAMix-C's part of MoCo's step."""
        if not isinstance(mixup, MaskGenerator):
            raise wrong_options(self, mixup)
        return SAMixCMixup(mixup, to.encoder, self, to.generator, to.known_images(), to.dim)


SAMIX_C_PRESETS: dict[str, SAMixCOptions] = {
    "paper": SAMixCOptions(),
    "reference": SAMixCOptions(
        **RELEASED, clusters=500, centroid_every=250, repair_every=50, warmup_epochs=0, local="keys"
    ),
}


class SAMixCMixup(SAMixIMixup):
    """A Mixer trained beside MoCo by clusters; until there are any, SAMix-I.

    Args:
        mixer: as for SAMix-I.
        encoder: as for SAMix-I.
        options: with the preset ``reference`` of :data:`SAMIX_C_PRESETS`, the caller makes the first clusters:
            ``method.clusters.initialise_from(method.teacher, batches)``.
        generator: of lam and pairs.
        images: N, number of training images.
        dim: D of the embedding.
    """

    extrapolates: ClassVar[bool] = False

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
        self.ema_head = ema_copy(self.head)

    @property
    def loss_parts(self) -> tuple[str, ...]:
        return (*super().loss_parts, "clusters", "changed")

    def online_clusters(self) -> OnlineClusters:
        return self.clusters

    # The step ---------------------------------------------------------------------------------------------------------

    def losses(self, step: MoCoStep) -> tuple[Tensor, dict[str, Tensor]]:
        """Both branches and the clusters' head; then the bank takes in this step's keys."""
        rows = self.clusters.rows(step.ids, len(step.view_q))
        running = self.clusters.running
        sources = self.pair_sources(step)
        if running:
            sources = sources._replace(label=self.clusters.labels[rows])
        loss, parts, branch = self.both_branches(step, sources)
        parts["clusters"] = self.head_loss(step.embedding, sources, branch) if running else idle(self.head)
        if step.training:
            parts["changed"] = self.clusters.step(rows, step.key)
        return loss + parts["clusters"], parts

    def generation_loss(self, step: MoCoStep, sources: PairSources, branch: MixerBranch) -> Tensor:
        """``local_weight * l_+ + global_weight * l_-`` by the frozen head; l_- is mixed cross-entropy of clusters."""
        label, draw = sources.label, branch.draw
        if label is None:
            return super().generation_loss(step, sources, branch)
        logits = apply_exactly(self.ema_head, branch.embedding)
        if self.options.local == "clusters":
            local = local_cross_entropy(logits, label, label[draw.index], draw.lam)
        else:
            local = self.local_loss(step, normalized(branch.embedding), sources, draw)
        return self.local_weight(step) * local + self.options.global_weight * self.cluster_loss(logits, label, draw)

    def head_loss(self, embedding: Tensor, sources: PairSources, branch: MixerBranch) -> Tensor:
        """Trains the head alone: cross-entropy of clean and of mixed embeddings (B, D), which are detached."""
        label = sources.label
        assert label is not None
        ones = torch.ones(len(embedding), 1, device=embedding.device)
        clean_logits = apply_exactly(self.head, embedding.detach())
        clean = weighted_cross_entropy(clean_logits, label.unsqueeze(1), ones, self.clusters.weights)
        mixed_logits = apply_exactly(self.head, branch.embedding.detach())
        return clean + self.cluster_loss(mixed_logits, label, branch.draw)

    def cluster_loss(self, logits: Tensor, label: Tensor, draw: Draw) -> Tensor:
        """Cross-entropy of mixed images with both clusters, in lam's proportion, with class weights."""
        labels = torch.stack([label, label[draw.index]], dim=1)
        shares = torch.stack([draw.lam, 1.0 - draw.lam], dim=1)
        return weighted_cross_entropy(logits, labels, shares, self.clusters.weights)

    # Its parts --------------------------------------------------------------------------------------------------------

    def finish_mask(self, mask: Tensor, sources: PairSources, draw: Draw) -> Tensor:
        """As for SAMix-I; with ``auto_label``, a constant mask lam for pairs of one cluster."""
        mask = super().finish_mask(mask, sources, draw)
        if sources.label is None or not self.options.auto_label:
            return mask
        same = (sources.label == sources.label[draw.index]).view(-1, 1, 1, 1)
        return torch.where(same, draw.lam.view(-1, 1, 1, 1), mask)

    def parameter_groups(self, lr: float, weight_decay: float) -> ParameterGroups:
        """The Mixer, and the clusters' head as a group of its own, ``clusters``."""
        return [
            {"name": "mixer", "params": list(self.mixer.parameters()), "lr": lr, "weight_decay": weight_decay},
            {"name": "clusters", "params": list(self.head.parameters()), "lr": lr, "weight_decay": weight_decay},
        ]

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        update_ema(self.head, self.ema_head, self.options.head_ema_decay)


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
