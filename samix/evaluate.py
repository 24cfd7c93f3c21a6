"""What a classifier is worth on held-out images: accuracy, likelihood, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.mixing import to_device

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
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    def new_metrics() -> dict[str, object]:
        return {
            "top1": MulticlassAccuracy(num_classes, average="micro"),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            "nll": MeanMetric(nan_strategy=float("inf")),  # by default it would leave them out
            "ece": MulticlassCalibrationError(num_classes, n_bins=BINS),
        }

    metrics: dict[str, dict[str, object]] = {}
    for images, labels in batches:
        labels = to_device(labels, device)
        for name, logits in predict(images).items():
            if name not in metrics:
                metrics[name] = {key: metric.to(device) for key, metric in new_metrics().items()}  # type: ignore[attr-defined]
            update(metrics[name], logits.float(), labels)
    if not metrics:
        raise ValueError("nothing to evaluate: the held-out split is empty")
    scale = {"top1": 100.0, "top5": 100.0, "nll": 1.0, "ece": 100.0}
    return {
        name: {key: float(metric.compute()) * scale[key] for key, metric in row.items()}  # type: ignore[attr-defined]
        for name, row in metrics.items()
    }


def update(metrics: dict[str, object], logits: Tensor, labels: Tensor) -> None:
    """Adds a batch: logits (B, K) float32, labels (B,)."""
    probabilities = logits.softmax(1)
    metrics["top1"].update(logits, labels)  # type: ignore[attr-defined]
    metrics["top5"].update(logits, labels)  # type: ignore[attr-defined]
    metrics["ece"].update(probabilities, labels)  # type: ignore[attr-defined]
    metrics["nll"].update(F.cross_entropy(logits, labels, reduction="none"))  # type: ignore[attr-defined]
