"""Figures of a run: sums of training losses, metrics of a classifier on held-out images, and the summary."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.mixups.base import to_device
from samix.runtime.distributed import total, world_size

BINS = 15  # of the calibration error


class LossState(TypedDict):
    """Sums of losses by name, and the passes in each."""

    sums: dict[str, Tensor]
    counts: dict[str, float]


class LossSums:
    """Sums of an epoch's losses on the device; adding to them does not wait for it.

    The names are those that the method declares, the same on every process and in every step, so that processes can
    reduce the sums as one vector. A part that a pass lacks is not counted in its mean.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names, self.device = tuple(names), device
        self.clear()

    def clear(self) -> None:
        """Starts a new epoch."""
        self.sums = torch.zeros(len(self.names), device=self.device)
        self.counts = [0.0] * len(self.names)  # passes in each sum

    def complete(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the scalars of a pass under all names in order, 0 where the pass lacks one.

        On one process, a part that the method does not declare is taken up as it comes.
        """
        unknown = tuple(name for name in values if name not in self.names)
        if unknown and world_size() > 1:
            raise ValueError(
                f"the loss part {unknown[0]!r} is not declared: on several processes a method names all of its parts "
                f"in loss_parts, the same on each; it has {', '.join(self.names[1:]) or 'none'}"
            )
        if unknown:
            self.names += unknown
            self.sums = torch.cat([self.sums, self.sums.new_zeros(len(unknown))])
            self.counts += [0.0] * len(unknown)
        zero = torch.zeros((), device=self.device)
        return {name: values.get(name, zero) for name in self.names}

    def add(self, values: Mapping[str, Tensor], passes: int) -> None:
        """Adds the scalars of one of a step's ``passes``."""
        complete = self.complete(values)
        self.sums = self.sums + torch.stack([value.float() for value in complete.values()]) / passes
        self.counts = [count + (name in values) for name, count in zip(complete, self.counts, strict=True)]

    def means(self, passes: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Returns the mean over steps of every part that was counted, by name."""
        counts = reduce(torch.tensor(self.counts, device=self.device))
        means = reduce(self.sums) / (counts / passes)
        by_name = zip(self.names, means.tolist(), counts.tolist(), strict=True)
        return {name: mean for name, mean, count in by_name if count}

    def state(self, reduce: Callable[[Tensor], Tensor] | None = None) -> LossState:
        """Returns the state for a checkpoint, averaged over the processes by ``reduce`` where it is given."""
        sums, counts = self.sums, self.counts
        if reduce is not None:
            sums, counts = reduce(sums), reduce(torch.tensor(counts, device=self.device)).tolist()
        return {"sums": dict(zip(self.names, sums, strict=True)), "counts": dict(zip(self.names, counts, strict=True))}

    def restore(self, state: LossState) -> None:
        """Takes back what :meth:`state` gave."""
        self.names = tuple(dict.fromkeys((*self.names, *state["sums"])))
        self.clear()
        for position, name in enumerate(self.names):
            self.sums[position] = state["sums"].get(name, 0.0)
            self.counts[position] = state["counts"].get(name, 0.0)


@torch.no_grad()
def classification_metrics(
    predict: Callable[[Tensor], dict[str, Tensor]],
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Returns metrics of every classifier that ``predict`` returns; over all processes when there are several.

    ``ece`` is the textbook expected calibration error over 15 equal-width bins of the confidence.

    Args:
        predict: images (B, C, H, W) -> logits (B, K) by classifier.
        batches: (images, labels) pairs; every sample once.
        num_classes: K.
        device: where the logits are.

    Returns:
        By classifier: ``top1``, ``top5`` and ``ece`` in percent, ``nll`` in nats. top5 is top-K when K < 5.
    """
    return {name: sums.metrics() for name, sums in classifier_sums(predict, batches, num_classes, device).items()}


@torch.no_grad()
def classifier_sums(
    predict: Callable[[Tensor], dict[str, Tensor]],
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
) -> dict[str, Sums]:
    """Returns the sums of :func:`classification_metrics`, of this process's batches alone."""
    sums: dict[str, Sums] = {}
    for images, labels in batches:
        labels = to_device(labels, device)
        for name, logits in predict(images).items():
            sums.setdefault(name, Sums(num_classes, device)).add(logits.float(), labels)
    if not sums:
        raise ValueError("nothing to evaluate: the held-out split is empty")
    return sums


class Sums:
    """Sums over batches: images, hits and losses; images, confidences and hits by bin; images and hits by class.

    Bins are closed below and open above, as in torchmetrics: a confidence of exactly 1 has a bin of its own.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.classes = torch.zeros(num_classes, 2, dtype=torch.float64, device=device)
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
        bins = torch.bucketize(confidence, self.edges, right=True) - 1
        self.bins.index_add_(0, bins, torch.stack([ones, confidence, hit], 1).double())
        self.classes.index_add_(0, labels, torch.stack([ones, hit], 1).double())

    def metrics(self) -> dict[str, float]:
        """Returns the metrics over all processes."""
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

    def by_class(self) -> list[float | None]:
        """Returns top-1 in percent of each class over all processes; None for a class without images."""
        counts = total(self.classes.clone()).tolist()
        return [100.0 * hits / images if images else None for images, hits in counts]


def summarise(rows: Sequence[Mapping[str, float]], score: str, headline: Sequence[str]) -> dict[str, float]:
    """Returns the figures of a finished run."""
    final = rows[-1]
    scores = [row[score] for row in rows if score in row]
    best = {f"{score}_best": max(scores), f"{score}_median_last_10": statistics.median(scores[-10:])} if scores else {}
    return {
        **{key: final[key] for key in headline if key in final},
        **best,
        **{key: value for key, value in final.items() if key.startswith("top1_")},
    }
