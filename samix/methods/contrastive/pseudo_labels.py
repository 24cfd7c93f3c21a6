"""Mixups that ask for labels, without labels: clusters stand in for classes.

What SAMix-C (Li et al. 2022, arXiv:2111.15454) is compared with: PuzzleMix* and Inter-Intra*. There is no released code
for them; the details are ours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.losses.cluster import weighted_cross_entropy
from samix.losses.contrastive import normalized
from samix.methods.base import ParameterGroups
from samix.methods.contrastive.clustering import ClusterOptions, OnlineClusters
from samix.methods.contrastive.mixup import Attachment, ContrastiveMixup, MoCoStep, for_views, same_draws, wrong_options
from samix.methods.contrastive.samix_c import apply_exactly
from samix.mixers.base import MaskGenerator
from samix.mixups.base import Augmentation
from samix.mixups.guided import GuidedAugmentation
from samix.networks.backbone import find_layer
from samix.networks.encoder import Encoder
from samix.networks.heads import idle
from samix.networks.last_map import check_timm, grad_cam

LENGTH = 4.0  # of the features that are classified; see ClusterClassifier


@dataclass(frozen=True)
class PseudoLabelOptions(ClusterOptions):
    """Options of a mixup that takes clusters in place of classes.

    Args:
        layer: dotted name of the layer of the last feature map, for Grad-CAM; empty for timm networks.

    Example:
        >>> samix.PseudoLabelOptions(clusters=50).clusters
        50
    """

    layer: str = ""

    def attach(self, mixup: Augmentation | MaskGenerator, to: Attachment) -> ContrastiveMixup:
        """Returns the mixup of clusters beside MoCo."""
        if not isinstance(mixup, Augmentation):
            raise wrong_options(self, mixup)
        return PseudoLabelMixup(mixup, to.encoder, self, to.generator, to.known_images(), to.dim)


class PseudoLabelMixup(ContrastiveMixup):
    """A mixup of classes or of saliency, with clusters as classes; until there are any, nothing is mixed.

    A mixup guided by maps, as PuzzleMix, reads the Grad-CAM of a linear classifier of clusters that is trained beside
    the encoder, for each image's own cluster.

    Args:
        mixup: :class:`samix.mixups.inter_intra.InterIntraMix`, or any mixup guided by maps.
        encoder: the query encoder.
        options: see :class:`PseudoLabelOptions`.
        generator: of the mixup's draws.
        images: N, number of training images.
        dim: D of the embedding.
    """

    def __init__(
        self,
        mixup: Augmentation,
        encoder: Encoder,
        options: PseudoLabelOptions,
        generator: torch.Generator,
        images: int,
        dim: int,
    ) -> None:
        super().__init__()
        guided = isinstance(mixup, GuidedAugmentation)
        if not guided and not mixup.requirements.classes:
            raise ValueError(
                f"{type(mixup).__name__} reads neither classes nor maps, so clusters change nothing; "
                "leave mixup_options= out"
            )
        self.options = options
        self.augmentation = for_views(mixup, generator, classes=True)
        device = next(encoder.parameters()).device
        self.clusters = OnlineClusters(images, dim, options).to(device)
        self.classifier: nn.Linear | None = None
        if guided:
            check_last_map(encoder.model, options.layer)
            self.classifier = ClusterClassifier(encoder.width, options.clusters).to(device)

    @property
    def loss_parts(self) -> tuple[str, ...]:
        return ("mixed", "clusters", "changed")

    def online_clusters(self) -> OnlineClusters:
        return self.clusters

    def losses(self, step: MoCoStep) -> tuple[Tensor, dict[str, Tensor]]:
        """Mixed infoNCE, and the classifier's cross-entropy; then the bank takes in this step's keys."""
        rows = self.clusters.rows(step.ids, len(step.view_q))
        mixed = head = idle(self) if self.classifier is not None else step.key.new_zeros(())
        if self.clusters.running:
            labels = self.clusters.labels[rows]
            batch, features = self.mix(step.encoder.model, step.view_q, labels)
            z = normalized(step.encoder(batch.images))
            mixed = step.mixed_nce(z, step.key[batch.index], batch.weights)
            head = self.classifier_loss(features, labels)
        parts = {"mixed": mixed, "clusters": head}
        if step.training:
            parts["changed"] = self.clusters.step(rows, step.key)
        return step.mixed_weight * mixed + head, parts

    def mix(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        lam: Tensor | float | None = None,
        index: Tensor | None = None,
    ) -> tuple[MixedBatch, Tensor | None]:
        """The mix by clusters (B,), and the clean features (B, F) computed on the way, without a graph."""
        if not isinstance(self.augmentation, GuidedAugmentation):
            return self.augmentation(images, labels, lam=lam, index=index), None
        assert self.classifier is not None
        maps, features = grad_cam(model, images, labels, self.options.layer, partial(apply_exactly, self.classifier))
        size = (images.shape[2], images.shape[3])
        maps = F.interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
        return self.augmentation(images, labels, lam=lam, index=index, guide=maps), features

    def classifier_loss(self, features: Tensor | None, labels: Tensor) -> Tensor:
        """Trains the classifier on clean features; the encoder learns from infoNCE alone."""
        if self.classifier is None or features is None:
            return self.clusters.weights.new_zeros(())
        logits = apply_exactly(self.classifier, features)
        ones = torch.ones(len(labels), 1, device=labels.device)
        return weighted_cross_entropy(logits, labels.unsqueeze(1), ones, self.clusters.weights)

    def parameter_groups(self, lr: float, weight_decay: float) -> ParameterGroups:
        """The classifier, where there is one: ``clusters``."""
        return [{**group, "name": "clusters"} for group in super().parameter_groups(lr, weight_decay)]

    def preview(
        self, encoder: Encoder, teacher: Encoder, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor
    ) -> MixedBatch | None:
        """The mix of these pairs by the clusters that are nearest now; None while there are none."""
        if not bool(self.clusters.started):
            return None
        nearest = self.clusters.nearest(normalized(teacher(images)))
        with same_draws(self.augmentation.generator):
            batch, _ = self.mix(encoder.model, images, nearest, lam, index)
        return dataclasses.replace(batch, labels=labels[batch.index])


class ClusterClassifier(nn.Linear):
    """A linear classifier of features (B, F) brought to one length, weights N(0, 0.01^2), bias 0.

    Features of an untrained network may have any length; as they are, the classifier diverges at the encoder's learning
    rate. At length 4 gradient descent with momentum 0.9 is stable up to rates of about 0.5, whatever the network.
    """

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__(width, clusters)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(LENGTH * F.normalize(features, dim=1, eps=1e-3))


def check_last_map(model: nn.Module, layer: str) -> None:
    """Raises ValueError unless the layer of the last feature map is there, or the network is timm's."""
    if layer:
        find_layer(model, layer, "feature")
    else:
        check_timm(model)
