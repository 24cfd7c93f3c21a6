"""``samix analyse landscape | tsne | cost``: a network's loss between images and weights, its features, its cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from samix.analysis import pictures
from samix.analysis.base import Analysis, paint
from samix.analysis.cost import StepCost, network_cost, step_cost
from samix.analysis.landscape import between, filter_direction, mixing_line, weight_line
from samix.analysis.subject import Subject, read_source
from samix.analysis.tsne import feature_map
from samix.eval.features import headless
from samix.recipes.pretrain_recipe import without_labels
from samix.runtime.checks import COUNT, POSITIVE, Range, Ranges


@dataclass(frozen=True)
class Landscape(Analysis):
    """Loss along the mixing line between two images, between two checkpoints, or along a random direction.

    Args:
        other: a second run, checkpoint or export of the same architecture.
        direction: walk along a random direction of the weights, each filter as long as the network's own.
        reach: how far that walk goes on both sides.
        points: on each line.
    """

    name: ClassVar[str] = "landscape"
    ranges: ClassVar[Ranges] = {"reach": POSITIVE, "points": Range(3)}

    other: str = ""
    direction: bool = False
    reach: float = 1.0
    points: int = 11

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """The mixing line always, lines of weights where asked for."""
        images, labels, index = subject.classified().images, subject.labels, subject.partners(self.seed)
        lams = torch.linspace(0, 1, self.points).tolist()
        line = mixing_line(subject.predict, images, images[index], labels, labels[index], lams)
        start = subject.network.state_dict()
        walks: list[tuple[str, dict[str, Tensor], list[float]]] = []
        if self.other:
            end = {k: v.to(images.device) for k, v in read_source(Path(self.other))[0].state_dict().items()}
            walks.append(("to the other network", between(start, end), lams))
        if self.direction:
            places = [self.reach * (2.0 * lam - 1.0) for lam in lams]
            walks.append(("random direction", filter_direction(subject.network, self.seed), places))
        lines = [
            (name, weight_line(subject.network, start, step, places, images, labels, self.batch_size))
            for name, step, places in walks
        ]
        paint(path, lambda p: pictures.draw_landscape(p, line, lines, subject.title))
        middle = min(range(len(lams)), key=lambda n: abs(lams[n] - 0.5))
        told = (
            f"mixing line: {line.excess[middle]:.3f} nats above the label's entropy at 0.5, roughness "
            f"{line.roughness:.4f}"
        )
        for name, found in lines:
            told += f"; {name}: barrier {found.barrier:.3f}, rise {found.rise:.3f} nats"
        return told, {"mixing_line": line, **{name.replace(" ", "_"): found for name, found in lines}}


@dataclass(frozen=True)
class Tsne(Analysis):
    """Features in the plane by t-SNE, coloured by class, with silhouettes.

    Args:
        perplexity: of t-SNE.
    """

    name: ClassVar[str] = "tsne"
    ranges: ClassVar[Ranges] = {"perplexity": POSITIVE}

    perplexity: float = 30.0

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """The input of the last layer, or the features of a run without labels."""
        plain_network = not getattr(subject.network, "num_classes", 0)
        backbone = subject.network if plain_network else headless(subject.network)
        features = dataclasses.replace(subject, network=backbone).predict(subject.images)
        found = feature_map(features, subject.labels, perplexity=self.perplexity, seed=self.seed)
        paint(path, lambda p: pictures.draw_tsne(p, found, subject.labels, subject.class_names, subject.title))
        line = (
            f"silhouette of {features.shape[1]} features {found.silhouette:.3f}, of the map {found.silhouette_map:.3f}"
        )
        points = [[round(float(v), 3) for v in point] for point in found.points]
        return line, {"result": found, "points": points, "labels": subject.labels.tolist()}


@dataclass(frozen=True)
class CostAnalysis(Analysis):
    """Parameters, operations and throughput of a network and of one training step.

    Args:
        repeats: timed passes, of which the median counts.
    """

    name: ClassVar[str] = "cost"
    ranges: ClassVar[Ranges] = {"repeats": COUNT}

    images: int = 100
    repeats: int = 5

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Times say something on a quiet machine only; an export has no training step."""
        images, labels = subject.images[: self.batch_size], subject.labels[: self.batch_size]
        network = network_cost(subject.network, images, self.repeats)
        step: StepCost | None = None
        if subject.method is not None and not without_labels(subject.recipe):
            step = step_cost(subject.method, images, labels, self.repeats)
        paint(path, lambda p: pictures.draw_cost(p, network, step, f"{subject.title}, on {images.device}"))
        line = (
            f"{network.parameters / 1e6:.3f} M parameters, {network.flops / 1e9:.4f} GFLOPs an image, "
            f"{network.images_per_second:.0f} images/s at batch {network.batch_size}"
        )
        if step is not None:
            line += f"; training step {step.flops / 1e9:.4f} GFLOPs an image, {step.images_per_second:.0f} images/s"
        return line, {"network": network, "step": step}
