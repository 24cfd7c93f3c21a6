"""What a classifier is worth on held-out images: accuracy, likelihood, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.mixups.base import to_device
from samix.runtime.distributed import total

BINS = 15  # of the calibration error


@torch.no_grad()
def classification_metrics(
    predict: Callable[[Tensor], dict[str, Tensor]],
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Metrics of every classifier that ``predict`` returns; over all processes when there are several.

    ``ece`` is the textbook expected calibration error over 15 equal-width bins of the confidence.

    Args:
        predict: images (B, C, H, W) -> logits (B, K) by classifier.
        batches: (images, labels) pairs; every sample once.
        num_classes: K.
        device: where the logits are.

    Returns:
        By classifier: ``top1``, ``top5`` and ``ece`` in percent, ``nll`` in nats. top5 is top-K when K < 5.

    Raises:
        ValueError: no batches.
    """
    sums: dict[str, Sums] = {}
    for images, labels in batches:
        labels = to_device(labels, device)
        for name, logits in predict(images).items():
            sums.setdefault(name, Sums(device)).add(logits.float(), labels)
    if not sums:
        raise ValueError("nothing to evaluate: the held-out split is empty")
    return {name: found.metrics() for name, found in sums.items()}


class Sums:
    """What is added up over batches: images, hits, losses; and by bin of the confidence images, confidences and hits.

    Bins are closed below and open above, as torchmetrics has them: a confidence of exactly 1 has one of its own.

    Args:
        device: where the logits are.
    """

    def __init__(self, device: torch.device) -> None:
        self.totals = torch.zeros(4, dtype=torch.float64, device=device)
        self.bins = torch.zeros(BINS + 1, 3, dtype=torch.float64, device=device)
        self.edges = torch.linspace(0, 1, BINS + 1, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits (B, K) float32, labels (B,). Nothing waits for the device."""
        confidence, best = logits.softmax(1).max(dim=1)
        hit = best == labels
        near = (logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]).any(1)
        loss = F.cross_entropy(logits, labels, reduction="none").nan_to_num(nan=math.inf, posinf=math.inf)
        ones = torch.ones_like(loss)
        self.totals += torch.stack([ones, hit, near, loss]).double().sum(1)
        place = torch.bucketize(confidence, self.edges, right=True) - 1
        self.bins.index_add_(0, place, torch.stack([ones, confidence, hit], 1).double())

    def metrics(self) -> dict[str, float]:
        """The metrics, over all processes."""
        whole = total(torch.cat([self.totals, self.bins.flatten()]))
        images, top1, top5, nll = whole[:4].tolist()
        bins = whole[4:].view(-1, 3)
        ece = float((bins[:, 1] - bins[:, 2]).abs().sum())  # sum of n / N |accuracy - confidence|, times N
        return {
            "top1": 100.0 * top1 / images,
            "top5": 100.0 * top5 / images,
            "nll": nll / images,
            "ece": 100.0 * ece / images,
        }
