"""Does a mixed image carry both labels in proportion? Predictions against lambda."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samix.analysis.passes import Predict
from samix.batch import MixedBatch


@dataclass(frozen=True)
class LambdaCurve:
    """Predictions of mixed images at each lambda; every list has one value for each.

    Args:
        lams: lambda asked for, the share of the own image a.
        given: mean share that the label of a has got; CutMix's box, for one, may be cut by the border.
        either: percent of mixed images whose top class is a or b.
        both: percent whose two top classes are a and b.
        share: mean of p(a) / (p(a) + p(b)).
        own: mean of p(a).
        partner: mean of p(b).
        error: mean over all mixed images of |p(a) / (p(a) + p(b)) - share of a's label|.
        pairs: pairs of two classes that were mixed at each lambda.
    """

    lams: tuple[float, ...]
    given: tuple[float, ...]
    either: tuple[float, ...]
    both: tuple[float, ...]
    share: tuple[float, ...]
    own: tuple[float, ...]
    partner: tuple[float, ...]
    error: float
    pairs: int


def lambda_curve(predict: Predict, mix: Callable[[float], MixedBatch], lams: Sequence[float]) -> LambdaCurve:
    """Runs a classifier on pairs that are mixed at several lambdas.

    As in AutoMix's and SAMix's figures (arXiv:2103.13027, arXiv:2111.15454): a mixed image should be classified as one
    of its sources (top-1 in {a, b}), both should be the two best (top-2 = {a, b}), and their probabilities should be
    as lam : 1 - lam. Pairs of one class say nothing and are left out. Of a mixup of more than two images, b is the
    further source with the largest share.

    Args:
        predict: images to logits (N, K), K at least 2.
        mix: lam to the batch of the pairs, mixed; its labels are class ids.
        lams: in [0, 1].

    Returns:
        LambdaCurve.

    Raises:
        ValueError: no lambda, one outside [0, 1], no pair of two classes, or labels that are no class ids.
    """
    if not lams or any(not 0.0 <= lam <= 1.0 for lam in lams):
        raise ValueError(f"lams must be one or more numbers in [0, 1], got {tuple(lams)}")
    rows = [_measure(predict, mix(float(lam))) for lam in lams]
    given, either, both, share, own, partner = zip(*[means for means, _, _ in rows], strict=True)
    error = sum(off for _, off, _ in rows) / sum(count for *_, count in rows)
    return LambdaCurve(tuple(map(float, lams)), given, either, both, share, own, partner, error, rows[0][2])


def _measure(predict: Predict, batch: MixedBatch) -> tuple[list[float], float, int]:
    """Means over a batch in the order of LambdaCurve's fields, the sum of errors, and the number of pairs."""
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
    found = [wanted, 100.0 * among[:, 0].float(), 100.0 * among.all(1).float(), share, p_a, p_b]
    return [float(value.mean()) for value in found], float((share - wanted).abs().sum()), len(kept)


def chance(num_classes: int) -> tuple[float, float]:
    """Percent of top-1 in {a, b}, and of top-2 = {a, b}, that guessing gets."""
    return 200.0 / num_classes, 200.0 / (num_classes * (num_classes - 1))


def mixed_in_parts(
    mix: Callable[[Tensor, Tensor, float, Tensor], MixedBatch],
    images: Tensor,
    labels: Tensor,
    index: Tensor,
    batch_size: int,
) -> Callable[[float], MixedBatch]:
    """Lam to all pairs mixed, part by part, for mixers that take one batch at a time.

    Args:
        mix: (images, labels, lam, index) to a mixed batch.
        images: (N, C, H, W).
        labels: (N,).
        index: (N,) partner of each image; it lies in the same part of ``batch_size`` images.
        batch_size: of a part.
    """

    def at(lam: float) -> MixedBatch:
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            parts.append(mix(images[rows], labels[rows], lam, index[rows] - start))
        masks = [part.mask for part in parts if part.mask is not None]
        return MixedBatch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.index + n * batch_size for n, part in enumerate(parts)]),
            torch.cat(masks) if len(masks) == len(parts) else None,
        )

    return at


def partners_within(count: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """(count,) partners, each another image of the same part of ``batch_size``; a part of one is its own partner."""
    parts = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        order = torch.randperm(size, generator=generator)
        parts.append(start + torch.empty_like(order).scatter_(0, order, order.roll(-1)))
    return torch.cat(parts)
