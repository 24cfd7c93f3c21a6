"""Features in the plane by t-SNE, and how well classes keep apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features in the plane.

    Args:
        points: (N, 2) float32.
        silhouette: mean silhouette of the features by class, cosine distance, in [-1, 1]; 1 is well apart.
        silhouette_map: the same of the points, Euclidean; t-SNE may flatter.
        perplexity: that t-SNE was run with.
    """

    points: Tensor
    silhouette: float
    silhouette_map: float
    perplexity: float


def feature_map(features: Tensor, labels: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> FeatureMap:
    """t-SNE (van der Maaten and Hinton 2008) and silhouettes (Rousseeuw 1987), both scikit-learn's.

    Args:
        features: (N, F), N at least 5.
        labels: (N,) class ids of at least two classes.
        perplexity: at most (N - 1) / 3, to which it is cut.
        seed: of t-SNE, which starts from principal components.

    Returns:
        FeatureMap.

    Raises:
        ValueError: too few images or classes, or features that are not finite.
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    x, y = features.detach().float().cpu(), labels.cpu()
    classes = len(set(y.tolist()))
    if x.dim() != 2 or len(x) < 5 or y.shape != x.shape[:1] or not 2 <= classes < len(x):
        raise ValueError(
            f"need features (N, F), N >= 5, of 2 to N - 1 classes, got {tuple(x.shape)} of {classes} classes"
        )
    if not bool(x.isfinite().all()):
        raise ValueError("the features are not finite; the network is broken")
    perplexity = min(perplexity, (len(x) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca" if x.shape[1] > 1 else "random", random_state=seed)
    points = torch.from_numpy(model.fit_transform(x.numpy()))
    return FeatureMap(
        points,
        float(silhouette_score(x.numpy(), y.numpy(), metric="cosine")),
        float(silhouette_score(points.numpy(), y.numpy())),
        float(perplexity),
    )
