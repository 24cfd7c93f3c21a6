"""Weighted nearest neighbours on frozen features: no training, so the quickest look at a representation.

Wu et al. 2018 (arXiv:1805.01978), section 3.4: unit features; each of the k most similar bank images votes for its
class with weight exp(similarity / temperature). The bank is the training split under the test transform.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.eval.features import Features, extract

KS, TEMPERATURE = (10, 20, 100, 200), 0.07  # of the standard protocol
CHUNK = 256  # queries at a time: with a bank of a million, their similarities take 1 GB


def nearest(bank: Tensor, queries: Tensor, k: int, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Finds the k rows of the bank (N, F) that are most similar to each query (M, F) by the cosine.

    Returns:
        Similarities (M, k) in [-1, 1], falling, and rows (M, k) int64.

    Raises:
        ValueError: k > N or k < 1, no queries, chunk < 1, or features of other widths.
    """
    if bank.dim() != 2 or queries.dim() != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(
            f"bank (N, F) and queries (M, F) must have one width, got {tuple(bank.shape)} and {tuple(queries.shape)}"
        )
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must be in 1..{len(bank)}, the images in the bank, got {k}")
    if chunk < 1 or len(queries) == 0:
        raise ValueError(f"chunk must be at least 1 and queries not empty, got {chunk} and {len(queries)} queries")
    keys = F.normalize(unhalved(bank), dim=1).T  # (F, N)
    parts = [
        (F.normalize(unhalved(part), dim=1) @ keys).topk(k, dim=1)  # (chunk, N) -> (chunk, k)
        for part in torch.split(queries, chunk)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def unhalved(features: Tensor) -> Tensor:
    """Converts to float32, unless it is float64."""
    return features if features.dtype == torch.float64 else features.float()


def vote(similarity: Tensor, labels: Tensor, temperature: float, num_classes: int) -> Tensor:
    """Sums exp(similarity / temperature) over the neighbours of each class; the largest weight of a query is 1.

    Args:
        similarity: (M, k).
        labels: (M, k) int64, of the neighbours.
        temperature: > 0, else ValueError.
        num_classes: K.

    Returns:
        Scores (M, K), at least 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    weights = ((similarity - similarity.amax(1, keepdim=True)) / temperature).exp()
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)


@torch.no_grad()
def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    num_classes: int,
) -> dict[int, float]:
    """Computes top-1 in percent by k, from one search for the most neighbours asked for.

    Equal votes go to the lower class id.

    Args:
        bank: (N, F) features, normalised here.
        bank_labels: (N,) int64.
        queries: (M, F), normalised here.
        query_labels: (M,) int64.
        ks: numbers of neighbours, each in 1..N.
        temperature: of the votes, > 0.
        num_classes: K.

    Raises:
        ValueError: k > N, wrong shapes, or a number out of range.
    """
    count = len(bank)
    if bank_labels.dtype != torch.int64 or tuple(bank_labels.shape) != (count,):
        got = f"{bank_labels.dtype} {tuple(bank_labels.shape)}"
        raise ValueError(f"bank_labels must be int64 of shape ({count},), got {got}")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must hold numbers of neighbours of at least 1, got {tuple(ks)}")
    similarity, rows = nearest(bank, queries, max(ks))
    labels = bank_labels[rows]
    top1 = {}
    for k in ks:
        predicted = vote(similarity[:, :k], labels[:, :k], temperature, num_classes).argmax(1)
        top1[k] = 100.0 * float((predicted == query_labels).double().mean())
    return top1


def knn_monitor(
    features: Features,
    train_batches: Iterable[tuple[Tensor, Tensor]],
    val_batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> dict[str, float]:
    """Computes kNN top-1 of the held-out images during pre-training, with k = 200 and temperature 0.1.

    k is cut to the size of the bank, so that small data sets can be watched; :func:`knn_accuracy` raises instead. The
    numbers are of the batches given: with several processes, give each the whole split, or ask one of them only.

    Args:
        features: images to (B, F), in eval mode, see :func:`samix.eval.features.frozen`.
        train_batches: (images, labels) of the bank, under the test transform.
        val_batches: (images, labels) to classify.
        num_classes: K.
        k: neighbours; further arguments as of :func:`knn_accuracy`.

    Returns:
        ``{"knn": percent}``.
    """
    bank, bank_labels = extract(features, train_batches)
    queries, labels = extract(features, val_batches)
    most = min(k, len(bank))
    top1 = knn_accuracy(
        bank, bank_labels, queries, labels, ks=(most,), temperature=temperature, num_classes=num_classes
    )
    return {"knn": top1[most]}
