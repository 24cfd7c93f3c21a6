"""``tsne``: do classes keep apart? Features in the plane by t-SNE."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from samix.analysis.base import Analysis, Findings
from samix.analysis.subject import Subject
from samix.eval.features import headless
from samix.runtime.typed_options import Positive
from samix.viz.figures import bare, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features in the plane."""

    points: Tensor  # (N, 2) float32
    silhouette: float  # mean silhouette of the features by class, cosine distance, in [-1, 1]; 1 is well apart
    silhouette_map: float  # the same of the points, Euclidean; t-SNE may flatter
    perplexity: float  # that t-SNE was run with


def feature_map(features: Tensor, labels: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> FeatureMap:
    """Computes t-SNE (van der Maaten and Hinton 2008) and silhouettes (Rousseeuw 1987), both scikit-learn's.

    Args:
        features: (N, F), N at least 5.
        labels: (N,) class ids of at least two classes.
        perplexity: at most (N - 1) / 3, to which it is cut.
        seed: of t-SNE, which starts from principal components.

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


def draw(result: FeatureMap, labels: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draws the points coloured by class; with up to twenty classes a legend."""
    from matplotlib import colormaps

    fig, (ax,) = panels(1, title, 6.2 if len(names) <= 20 else 5.0, 4.6)
    bare(ax).spines[:].set_visible(False)
    colours = colormaps["tab10" if len(names) <= 10 else "tab20" if len(names) <= 20 else "gist_rainbow"]
    y = labels.cpu()
    for number, name in enumerate(names):
        points = result.points[y == number]
        shade = colours(number if len(names) <= 20 else number / len(names))
        ax.scatter(points[:, 0], points[:, 1], s=9, color=shade, linewidths=0, label=name)
    ax.set_title(f"silhouette of features {result.silhouette:.3f}, of the map {result.silhouette_map:.3f}", fontsize=9)
    if len(names) <= 20:
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    return fig


@dataclass(frozen=True)
class Tsne(Analysis):
    """Features in the plane by t-SNE, coloured by class, with silhouettes.

    Args:
        perplexity: of t-SNE.
    """

    name: ClassVar[str] = "tsne"

    perplexity: Positive = 30.0

    def analyse(self, subject: Subject) -> Findings:
        """Takes the input of the last layer, or the features of a run without labels."""
        network = subject.network
        backbone = headless(network) if getattr(network, "num_classes", 0) else network
        features = dataclasses.replace(subject, network=backbone).predict(subject.images)
        result = feature_map(features, subject.labels, perplexity=self.perplexity, seed=self.seed)
        score = f"{result.silhouette:.3f}, of the map {result.silhouette_map:.3f}"
        line = f"silhouette of {features.shape[1]} features {score}"
        points = [[round(float(v), 3) for v in point] for point in result.points]
        results = {"result": result, "points": points, "labels": subject.labels.tolist()}
        return Findings(line, results, draw(result, subject.labels, subject.class_names, subject.title))
