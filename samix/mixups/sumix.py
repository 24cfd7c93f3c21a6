"""SUMix: labels follow how the mix is predicted (Qin et al., ECCV 2024, arXiv:2407.07805)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch, check_range
from samix.mixups.base import Requirements
from samix.mixups.relabelling import Relabelling, area, with_lam
from samix.networks.classifier import linear_classifier
from samix.networks.heads import idle
from samix.networks.inference import unwrap
from samix.runtime.typed_options import Weight


def sumix_distance(clean: Tensor, mixed: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """How the prediction of the mixed image differs from that of one of its two images.

    SUMix: ``l2norm(softmax(p_mixed - p))``, p the clean prediction without the class of the other image.

    Args:
        clean: (B, K) logits of the clean image.
        mixed: (B, K) logits of the mixed image.
        own: (B,) class id of the clean image.
        other: (B,) class id of the other image; where it is the same class, nothing is taken out.

    Returns:
        (B, K) float32, rows of length 1, without a graph.
    """
    p, q = clean.detach().float().softmax(dim=1), mixed.detach().float().softmax(dim=1)
    classes = torch.arange(p.shape[1], device=p.device)
    taken = (other.unsqueeze(1) == classes) & (own != other).unsqueeze(1)
    return F.normalize((q - torch.where(taken, 0.0, p)).softmax(dim=1), dim=1)


def sumix_lam(lam: Tensor, own_distance: Tensor, partner_distance: Tensor, labels: Tensor, kappa: float) -> Tensor:
    """The label's lam: smaller for the image that the mix has less to do with.

    SUMix (Qin et al., ECCV 2024, arXiv:2407.07805): ``lam g_a / (lam g_a + (1 - lam) g_b)`` with ``g = exp(-kappa d)``
    at the true class; as ``sigmoid(logit(lam) + kappa (d_b - d_a))``, which never divides 0 by 0.

    Args:
        lam: (B,) share of the own image.
        own_distance: (B, K), see :func:`sumix_distance`.
        partner_distance: (B, K).
        labels: (B, 2) class ids; where they are the same, lam stays.
        kappa: at least 0.

    Returns:
        (B,) float32 in [0, 1].
    """
    gap = partner_distance.gather(1, labels[:, 1:]) - own_distance.gather(1, labels[:, :1])
    moved = torch.sigmoid(torch.logit(lam) + kappa * gap.squeeze(1))
    keep = (labels[:, 0] == labels[:, 1]) | (lam == 0.0) | (lam == 1.0) | (gap.squeeze(1) == 0.0)
    return torch.where(keep, lam, moved)


def uncertainty_loss(
    distances: tuple[Tensor, Tensor], uncertainty: tuple[Tensor, Tensor, Tensor], batch: MixedBatch, kappa: float
) -> Tensor:
    """What trains the uncertainty head: cross-entropies of ``exp(-(u + u_mixed + kappa d))``, taken as logits.

    SUMix's second loss, each image's by its share.

    Args:
        distances: (B, K) of the own image and of the partner, see :func:`sumix_distance`.
        uncertainty: (B, K) of the own image, the partner and the mix.
        batch: with class ids and the mixup's own weights.
        kappa: as :func:`sumix_lam`.

    Returns:
        Scalar, in nats.
    """
    total = torch.zeros_like(batch.lam)
    for source in (0, 1):
        value = torch.exp(-(uncertainty[source] + uncertainty[2] + kappa * distances[source]))
        total = total + batch.weights[:, source] * F.cross_entropy(value, batch.labels[:, source], reduction="none")
    return total.mean()


@dataclass
class SUMix(Relabelling):
    """Wraps a mixup: labels follow how the network predicts the mix. For networks with a linear classifier.

    Each step also runs the network on the clean images, as part of training (with a gradient, in the mode it is in).

    Args:
        alpha: 0.2 as published with CutMix and FMix, 1 with ResizeMix.
        kappa: how much the distances count, at least 0. In the released code it is the batch size, so
            100 is what it does for batches of 100.
        gamma: weight of the loss of the uncertainty head; without that head, see :meth:`attach`, it is left out.
        classifier: dotted name of the last linear layer; empty takes timm's, or the last one of the network.
        head: of the uncertainty; made by :meth:`attach`.

    Example:
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
        >>> mix = samix.SUMix()
        >>> head = mix.attach(model, 10)  # give head.parameters() to the optimiser
        >>> logits, batch = mix.forward_through(model, images, labels)
        >>> bool(batch.loss(logits) > 0)
        True
    """

    name: ClassVar[str] = "sumix"

    alpha: float = 0.2
    kappa: Weight = 100.0
    gamma: Weight = 0.5
    classifier: str = ""
    head: nn.Linear | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def requirements(self) -> Requirements:
        return dataclasses.replace(super().requirements, own_losses=("uncertainty",))

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """Makes the uncertainty head, (B, F) -> (B, K).

        Raises:
            ValueError: no linear classifier of num_classes outputs is found, or the wrapped mixup wants a head.
        """
        super().attach(model, num_classes)
        linear = linear_classifier(model, self.classifier, num_classes)
        self.head = nn.Linear(linear.in_features, num_classes, device=linear.weight.device)
        return self.head

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        if batch.labels.is_floating_point():
            raise ValueError("SUMix compares predictions at the true class: give class ids (B,), as one_hot.argmax(1)")
        batch = with_lam(batch, area(batch))
        layer = None if self.head is None else linear_classifier(model, self.classifier)
        logits, mixed_features = _with_features(model, batch.images, layer)
        clean, clean_features = _with_features(unwrap(model), images, layer)
        check_range(batch.labels, logits.shape[1])
        partner = batch.index[:, 1]
        own_label, partner_label = batch.labels.unbind(1)
        distances = (
            sumix_distance(clean, logits, own_label, partner_label),
            sumix_distance(clean[partner], logits, partner_label, own_label),
        )
        lam = sumix_lam(batch.lam, *distances, batch.labels, self.kappa)
        if clean_features is None or mixed_features is None:
            return logits, with_lam(batch, lam)
        own, mixed = self._uncertainty(clean_features), self._uncertainty(mixed_features)
        term = self.gamma * uncertainty_loss(distances, (own, own[partner], mixed), batch, self.kappa)
        return logits, with_lam(batch, lam, extra={**batch.extra, "uncertainty": term})

    def _uncertainty(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, K) float32, rows of length 1: ``l2norm(softmax(W f))``."""
        assert self.head is not None
        return F.normalize(self.head(features.to(self.head.weight.dtype)).float().softmax(dim=1), dim=1)

    def untrained(self, batch: MixedBatch) -> MixedBatch:
        """The head is part of every step's graph, as DistributedDataParallel asks."""
        return batch if self.head is None else dataclasses.replace(batch, extra={"uncertainty": idle(self.head)})


def _with_features(model: nn.Module, images: Tensor, layer: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """The logits, and the input (B, F) of a layer, both with their graph."""
    if layer is None:
        return model(images), None
    kept: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _layer, args: kept.append(args[0])):
        logits = model(images)
    if len(kept) != 1 or kept[0].dim() != 2:
        raise ValueError(f"the classifier must run once, on (B, F), in each pass; it ran {len(kept)} times")
    return logits, kept[0]
