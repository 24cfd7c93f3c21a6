"""k-means of rows of features; means of clusters that are the same in any order of the rows; a cluster cut in two.

Letters: N rows, D features, C clusters.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FAISS_FROM = 300_000  # rows from which faiss, if it is installed, finds the clusters
LLOYD_UP_TO = 20_000  # rows up to which k-means looks at all of them in each iteration
CHUNK = 65_536  # rows that are summed at a time
FIXED = 2.0**32  # sums of unit rows are taken in whole numbers of this fraction: the same in any order

Rows = NDArray[np.generic]


class Partition(NamedTuple):
    """Labels (N,) int64 and centres (C, D) of k-means."""

    labels: Tensor
    centres: Tensor


def kmeans(features: Tensor, clusters: int, seed: int = 0, *, iterations: int = 100) -> Partition:
    """k-means on the CPU by scikit-learn; by faiss, if it is installed, for more than 300,000 rows.

    Up to 20,000 rows Lloyd's iterations, above that those of mini-batches, best of three starts; two clusters have one
    start. One thread, so that a seed gives one result; faiss' results hang on the number of threads.

    Args:
        features: (N, D).
        clusters: C, at most N.
        seed: of the starts.
        iterations: of Lloyd's.

    Returns:
        Labels (N,) and centres (C, D) on the features' device; a cluster may be empty where rows are equal.
    """
    if len(features) < clusters:
        raise ValueError(f"{clusters} clusters need at least as many rows, got {len(features)}")
    rows = features.detach().float().cpu().contiguous().numpy()
    if len(rows) > FAISS_FROM and importlib.util.find_spec("faiss") is not None:
        labels, centres = _kmeans_faiss(rows, clusters, seed)
    else:
        labels, centres = _kmeans_sklearn(rows, clusters, seed, iterations)
    device = features.device
    return Partition(torch.as_tensor(labels).long().to(device), torch.as_tensor(centres).float().to(device))


def _kmeans_sklearn(rows: Rows, clusters: int, seed: int, iterations: int) -> tuple[Rows, Rows]:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    starts = 1 if clusters == 2 else 3
    if len(rows) <= LLOYD_UP_TO:
        estimator = KMeans(clusters, n_init=starts, max_iter=iterations, random_state=seed)
    else:
        estimator = MiniBatchKMeans(clusters, batch_size=8192, n_init=starts, max_iter=iterations, random_state=seed)
    limits: Any = importlib.import_module("threadpoolctl")  # scikit-learn's own dependency
    with limits.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal rows: empty clusters are seen to by the caller
        estimator.fit(rows)
    return estimator.labels_, estimator.cluster_centers_


def _kmeans_faiss(rows: Rows, clusters: int, seed: int) -> tuple[Rows, Rows]:
    faiss: Any = importlib.import_module("faiss")
    estimator = faiss.Kmeans(rows.shape[1], clusters, niter=20, seed=seed, nredo=3, verbose=False)
    estimator.train(rows)
    _, labels = estimator.index.search(rows, 1)
    return labels[:, 0], estimator.centroids


def means_of_members(rows: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The mean of each cluster's rows, the same in whatever order they come.

    Args:
        rows: (N, D) of unit length, or 0.
        labels: (N,) int64.
        counts: (C,) int64, rows of each cluster.

    Returns:
        (C, D) float32; 0 for an empty cluster.
    """
    sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.int64, device=rows.device)
    for start in range(0, len(rows), CHUNK):
        part = (rows[start : start + CHUNK] * FIXED).round().long()
        sums.index_add_(0, labels[start : start + CHUNK], part)
    return (sums.double() / (FIXED * counts.unsqueeze(1).clamp(min=1))).float()


def cut_in_two(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Parts 0 and 1 of rows (N, D) by 2-means, (N,) int64; at random halves where that leaves a part empty."""
    part = kmeans(rows, 2, seed=0, iterations=20).labels
    if int(part.sum()) in (0, len(rows)):
        half = torch.arange(len(rows)) < len(rows) // 2
        part = half[torch.randperm(len(rows), generator=generator)].to(rows.device)
    return part.long()
