"""``lambda``: does a mixed image carry both labels in proportion? Predictions against lambda."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from samix.analysis.base import LAMS, Findings, MixingAnalysis, nearest_half
from samix.analysis.passes import Predict
from samix.analysis.subject import Subject
from samix.batch import MixedBatch
from samix.runtime.typed_options import Share
from samix.viz.figures import IMAGE_A, IMAGE_B, NEUTRAL, THIRD, label, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LambdaCurve:
    """Predictions of mixed images; every tuple has one value for each lambda."""

    lams: tuple[float, ...]  # lambda asked for, the share of image A with class a
    given: tuple[float, ...]  # mean share of a in the label; CutMix's box, for one, may be cut by the border
    either: tuple[float, ...]  # percent of mixed images whose top class is a or b
    both: tuple[float, ...]  # percent whose two top classes are a and b
    share: tuple[float, ...]  # mean of p(a) / (p(a) + p(b))
    own: tuple[float, ...]  # mean of p(a)
    partner: tuple[float, ...]  # mean of p(b)
    error: float  # mean over all mixed images of |p(a) / (p(a) + p(b)) - share of a in the label|
    pairs: int  # pairs of two classes that were mixed at each lambda


def lambda_curve(predict: Predict, mix: Callable[[float], MixedBatch], lams: Sequence[float]) -> LambdaCurve:
    """Runs a classifier on pairs that are mixed at several lambdas.

    As in AutoMix's and SAMix's figures (arXiv:2103.13027, arXiv:2111.15454): a mixed image should be classified as one
    of its sources (top-1 in {a, b}), both should be the two best (top-2 = {a, b}), and their probabilities should be
    as lam : 1 - lam. Pairs of one class are left out. Of a mixup of more than two images, b is the further source with
    the largest share.

    Args:
        predict: images to logits (N, K), K at least 2.
        mix: lam to the batch of the mixed pairs; its labels are class ids.
        lams: in [0, 1].

    Raises:
        ValueError: no lambda, one outside [0, 1], no pair of two classes, or labels that are not class ids.
    """
    if not lams or any(not 0.0 <= lam <= 1.0 for lam in lams):
        raise ValueError(f"lams must be one or more numbers in [0, 1], got {tuple(lams)}")
    rows = [_measure(predict, mix(float(lam))) for lam in lams]
    given, either, both, share, own, partner = zip(*[means for means, _, _ in rows], strict=True)
    error = sum(off for _, off, _ in rows) / sum(count for *_, count in rows)
    return LambdaCurve(tuple(map(float, lams)), given, either, both, share, own, partner, error, rows[0][2])


def _measure(predict: Predict, batch: MixedBatch) -> tuple[list[float], float, int]:
    """Returns means over a batch in the order of LambdaCurve's fields, the sum of errors, and the number of pairs."""
    if batch.labels.dim() != 2 or batch.labels.is_floating_point():
        raise ValueError(f"lambda_curve needs class ids (B, k), got {batch.labels.dtype} {tuple(batch.labels.shape)}")
    other = 1 + batch.weights[:, 1:].argmax(1, keepdim=True)
    a, b = batch.labels[:, 0], batch.labels.gather(1, other).squeeze(1)
    weight = torch.stack([batch.weights[:, 0], batch.weights.gather(1, other).squeeze(1)])
    kept = (a != b).nonzero().flatten()
    if len(kept) == 0:
        raise ValueError("no pair has two classes; give images of several classes, or other partners")
    p = predict(batch.images[kept]).softmax(1)
    a, b, weight = a[kept], b[kept], weight[:, kept]
    p_a, p_b = p.gather(1, a[:, None]).squeeze(1), p.gather(1, b[:, None]).squeeze(1)
    best = p.topk(2, dim=1).indices
    among = (best == a[:, None]) | (best == b[:, None])
    share = p_a / (p_a + p_b).clamp(min=1e-12)
    wanted = weight[0] / weight.sum(0).clamp(min=1e-12)
    columns = [wanted, 100.0 * among[:, 0].float(), 100.0 * among.all(1).float(), share, p_a, p_b]
    return [float(value.mean()) for value in columns], float((share - wanted).abs().sum()), len(kept)


def chance(num_classes: int) -> tuple[float, float]:
    """Returns the percentage of top-1 in {a, b}, and of top-2 = {a, b}, by guessing."""
    return 200.0 / num_classes, 200.0 / (num_classes * (num_classes - 1))


def draw(curve: LambdaCurve, num_classes: int, title: str) -> Figure:
    """Draws the predicted classes and their probabilities by lambda."""
    fig, (left, middle, right) = panels(3, title, 3.7)
    for values, level, colour, name in (
        (curve.either, chance(num_classes)[0], IMAGE_A, "best is a or b"),
        (curve.both, chance(num_classes)[1], IMAGE_B, "two best are a and b"),
    ):
        left.plot(curve.lams, values, color=colour, marker=".", label=name)
        left.axhline(level, color=colour, ls=":", lw=1)
    left.set_ylim(-3, 103)
    label(left, "predicted classes (dotted: chance)", "λ, share of image A", "% of mixed images")
    ideal = [1.0 - lam for lam in curve.lams]
    for values, given, colour, name in (
        (curve.own, curve.lams, IMAGE_A, "p(a)"),
        (curve.partner, ideal, IMAGE_B, "p(b)"),
    ):
        middle.plot(curve.lams, values, color=colour, marker=".", label=name)
        middle.plot(curve.lams, given, color=colour, ls=":", lw=1)
    label(middle, "probabilities (dotted: the label)", "λ, share of image A")
    right.plot(curve.lams, curve.share, color=THIRD, marker=".", label="predicted")
    right.plot(curve.lams, curve.given, color=NEUTRAL, ls=":", label="in the label")
    label(right, f"p(a) / (p(a) + p(b)), mean error {curve.error:.3f}", "λ, share of image A")
    for ax in (middle, right):
        ax.set_ylim(-0.03, 1.03)
    return fig


@dataclass(frozen=True)
class Lambda(MixingAnalysis):
    """Prediction against lambda: does a mixed image carry both labels in proportion?

    Args:
        lams: shares of image A.
    """

    name: ClassVar[str] = "lambda"

    lams: tuple[Share, ...] = LAMS

    def analyse(self, subject: Subject) -> Findings:
        """Mixes each image with one of another class where there is one."""
        mix, name = subject.classified().mixing(self.mixup, subject.partners(self.seed), self.seed)
        curve = lambda_curve(subject.predict, mix, self.lams)
        n = nearest_half(curve.lams)
        line = (
            f"mixed by {name}, at lambda {curve.lams[n]:g} top-1 in {{a, b}} {curve.either[n]:.1f} %, "
            f"top-2 = {{a, b}} {curve.both[n]:.1f} %; mean error of the predicted share of image A: {curve.error:.3f}"
        )
        classes = subject.predict(subject.images[:1]).shape[1]
        return Findings(
            line, {"mixup": name, "result": curve}, draw(curve, classes, f"{subject.title}; mixed by {name}")
        )
