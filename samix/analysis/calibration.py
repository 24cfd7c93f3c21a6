"""``calibration``: do probabilities mean what they say?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from samix.analysis.base import Analysis, Findings
from samix.analysis.subject import Subject
from samix.runtime.checks import Range
from samix.runtime.typed_options import CountOr0
from samix.train.metrics import BINS
from samix.viz.figures import IMAGE_A, IMAGE_B, NEUTRAL, label, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Calibration:
    """How a classifier's confidence compares with its accuracy."""

    ece: float  # expected calibration error in percent, ``sum_m n_m / N |accuracy_m - confidence_m|``
    mce: float  # the largest |accuracy_m - confidence_m| of a bin, in percent
    overconfidence: float  # mean confidence minus accuracy, in percent; below 0 the classifier is too modest
    overconfidence_error: float  # ``sum_m n_m / N confidence_m max(confidence_m - accuracy_m, 0)``, in percent
    accuracy: float  # top-1 in percent
    confidence: float  # mean of the largest probability, in percent
    edges: tuple[float, ...]  # of the bins, one more than there are bins
    bin_accuracy: tuple[float, ...]  # by bin, in [0, 1]; 0 where it is empty
    bin_confidence: tuple[float, ...]  # by bin, in [0, 1]; 0 where it is empty
    bin_count: tuple[int, ...]  # by bin


def calibration(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
    """Computes the calibration of a classifier.

    ECE and MCE are torchmetrics' (Guo et al. 2017, arXiv:1706.04599): bins of equal width, closed below and open above.
    The overconfidence error is that of Thulasidasan et al. 2019 (arXiv:1905.11001).

    Args:
        probabilities: (N, K), rows sum to 1.
        labels: (N,) class ids.
        bins: of equal width over [0, 1].

    Raises:
        ValueError: other shapes, no images, rows that do not sum to 1, or fewer than one bin.
    """
    if probabilities.dim() != 2 or len(probabilities) == 0 or labels.shape != probabilities.shape[:1] or bins < 1:
        raise ValueError(
            f"need probabilities (N, K), labels (N,) and bins >= 1, got {tuple(probabilities.shape)}, "
            f"{tuple(labels.shape)} and {bins}"
        )
    p = probabilities.detach().float().cpu()
    labels = labels.cpu()
    if bool((p.sum(1) - 1.0).abs().max() > 1e-3) or bool((p < 0).any()):
        raise ValueError("probabilities must be at least 0 and sum to 1 in each row; take logits.softmax(1)")
    from torchmetrics.functional.classification import multiclass_calibration_error

    confidence, best = p.max(1)
    confidence = confidence.clamp(max=1.0)
    right = (best == labels).float()
    edges = torch.linspace(0, 1, bins + 1)
    at = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=bins - 1)  # certain ones into the last bin
    count = at.bincount(minlength=bins)
    mean = count.clamp(min=1).float()
    accuracies, confidences = (at.bincount(value, minlength=bins).float() / mean for value in (right, confidence))
    over = (count / len(p) * confidences * (confidences - accuracies).clamp(min=0.0)).sum()
    ece, mce = (
        float(multiclass_calibration_error(p, labels, p.shape[1], n_bins=bins, norm=norm)) for norm in ("l1", "max")
    )
    return Calibration(
        ece=100.0 * ece,
        mce=100.0 * mce,
        overconfidence=100.0 * float(confidence.mean() - right.mean()),
        overconfidence_error=100.0 * float(over),
        accuracy=100.0 * float(right.mean()),
        confidence=100.0 * float(confidence.mean()),
        edges=tuple(edges.tolist()),
        bin_accuracy=tuple(accuracies.tolist()),
        bin_confidence=tuple(confidences.tolist()),
        bin_count=tuple(count.tolist()),
    )


def draw(result: Calibration, title: str) -> Figure:
    """Draws the reliability diagram, and the number of images in each bin."""
    fig, (left, right) = panels(2, title, 3.9, 3.9)
    width = result.edges[1] - result.edges[0]
    filled = [n for n, count in enumerate(result.bin_count) if count]
    middles = [result.edges[n] + width / 2 for n in filled]
    accuracies, confidences = ([values[n] for n in filled] for values in (result.bin_accuracy, result.bin_confidence))
    gaps = [c - a for a, c in zip(accuracies, confidences, strict=True)]
    left.bar(middles, accuracies, width * 0.94, color=IMAGE_A, label="accuracy")
    gap: dict[str, Any] = {"color": IMAGE_B, "alpha": 0.35, "edgecolor": IMAGE_B, "hatch": "//"}
    left.bar(middles, gaps, width * 0.94, accuracies, **gap, label="confidence − accuracy")
    left.plot([0, 1], [0, 1], color=NEUTRAL, ls="--", lw=1)
    left.set(xlim=(0, 1), ylim=(0, 1))
    label(left, f"reliability: ECE {result.ece:.2f} %", "confidence")
    right.bar(middles, [result.bin_count[n] for n in filled], width * 0.94, color=NEUTRAL)
    lines = (("accuracy", result.accuracy, IMAGE_A), ("mean confidence", result.confidence, IMAGE_B))
    for name, value, colour in lines:
        right.axvline(value / 100.0, ymax=0.76, color=colour, label=f"{name} {value:.1f} %")
    right.set(xlim=(0, 1), ylim=(0, 1.4 * max(result.bin_count)))
    label(right, f"overconfidence {result.overconfidence:+.2f} %", "confidence", "images", legend="upper left")
    return fig


@dataclass(frozen=True)
class CalibrationAnalysis(Analysis):
    """Calibration: expected calibration error, reliability diagram, overconfidence.

    Args:
        bins: of equal width.
    """

    name: ClassVar[str] = "calibration"

    images: CountOr0 = 0
    bins: Annotated[int, Range(1, 10_000)] = BINS

    def analyse(self, subject: Subject) -> Findings:
        logits = subject.classified().predict(subject.images)
        result = calibration(logits.softmax(1), subject.labels, self.bins)
        line = (
            f"ECE {result.ece:.2f} % in {self.bins} bins, largest gap {result.mce:.2f} %, overconfidence "
            f"{result.overconfidence:+.2f} %, overconfidence error {result.overconfidence_error:.2f} %"
        )
        return Findings(line, {"result": result}, draw(result, subject.title))
