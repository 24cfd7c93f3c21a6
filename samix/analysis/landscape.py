"""``landscape``: the loss along lines between two images, between two checkpoints, and away from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from samix.analysis.base import Analysis, Findings, nearest_half
from samix.analysis.passes import Predict, accuracy, check_classified
from samix.analysis.subject import Subject
from samix.hub.load import find_weights, load_trained
from samix.networks.inference import evaluating
from samix.runtime.checks import Range
from samix.runtime.typed_options import Positive
from samix.viz.figures import IMAGE_A, IMAGE_B, NEUTRAL, THIRD, label, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class MixingLine:
    """Loss of images on the line between two, in nats; means over pairs."""

    lams: tuple[float, ...]  # share of image A
    mixed: tuple[float, ...]  # cross-entropy against the mixed label
    # what of it is not the mixed label's own entropy: the divergence of prediction from label, at least 0
    excess: tuple[float, ...]
    own: tuple[float, ...]  # cross-entropy against the own label
    partner: tuple[float, ...]  # against the partner's
    roughness: float  # mean over the line's inner points of |second difference of ``excess``|


@dataclass(frozen=True)
class WeightLine:
    """Loss and accuracy of networks on a line."""

    places: tuple[float, ...]  # along the line
    loss: tuple[float, ...]  # cross-entropy in nats
    accuracy: tuple[float, ...]  # top-1 in percent
    barrier: float  # largest loss above the straight line between the losses at both ends, at least 0
    rise: float  # mean loss on the line minus the lowest: 0 on flat ground


def mixing_line(
    predict: Predict, images: Tensor, partners: Tensor, labels: Tensor, partner_labels: Tensor, lams: Sequence[float]
) -> MixingLine:
    """Measures the loss along the mixing line ``lam x + (1 - lam) partner`` in pixels.

    The line of mixup (Zhang et al. 2018, arXiv:1710.09412), along which it asks for ``lam : 1 - lam``.

    Args:
        predict: images to logits (N, K).
        images: (N, C, H, W) images A, of labels (N,). Not modified.
        partners: (N, C, H, W) images B, of partner_labels (N,).
        labels: class ids.
        partner_labels: class ids.
        lams: in [0, 1], evenly spaced.

    Raises:
        ValueError: fewer than three lambdas, or wrong shapes.
    """
    check_classified(images, labels)
    if len(lams) < 3 or images.shape != partners.shape or labels.shape != partner_labels.shape:
        raise ValueError(
            f"need three or more lams and partners like the images, got {len(lams)} and {tuple(partners.shape)} "
            f"for {tuple(images.shape)}"
        )
    rows = []
    for lam in lams:
        log_p = F.log_softmax(predict(torch.lerp(partners, images, float(lam))).float(), dim=1)
        own, partner = (-log_p.gather(1, y[:, None]).squeeze(1) for y in (labels, partner_labels))
        same = labels == partner_labels
        share = torch.tensor([float(lam), 1.0 - float(lam)]).clamp(min=1e-12)
        entropy = torch.where(same, 0.0, float(-(share * share.log()).sum()))
        mixed = float(lam) * own + (1.0 - float(lam)) * partner
        rows.append([float(value.mean()) for value in (mixed, mixed - entropy, own, partner)])
    mixed_, excess, own_, partner_ = (tuple(column) for column in zip(*rows, strict=True))
    bends = [abs(a - 2.0 * b + c) for a, b, c in zip(excess, excess[1:], excess[2:], strict=False)]
    return MixingLine(tuple(map(float, lams)), mixed_, excess, own_, partner_, sum(bends) / len(bends))


def weight_line(
    network: nn.Module,
    start: Weights,
    step: Weights,
    places: Sequence[float],
    images: Tensor,
    labels: Tensor,
    batch_size: int = 100,
) -> WeightLine:
    """Measures the loss of the networks ``start + place step``, in eval mode; the network itself is not written to.

    Linear interpolation as of Goodfellow et al. 2015 (arXiv:1412.6544); the barrier is that of Frankle et al. 2020
    (arXiv:1912.05671). Statistics of BatchNorm are on the line too, as they come; none are measured anew.

    Args:
        network: gives the structure.
        start: its state.
        step: of the same names; see :func:`between` and :func:`filter_direction`.
        places: along the line, two or more, in rising order.
        images: (N, C, H, W), normalised.
        labels: (N,) class ids.
        batch_size: images in a pass.

    Raises:
        ValueError: fewer than two places, or weights of another network.
    """
    check_classified(images, labels)
    if len(places) < 2:
        raise ValueError(f"places must be two or more numbers, got {tuple(places)}")
    losses, tops = [], []
    with evaluating(network):
        for place in places:
            state = {name: value + place * step[name] if name in step else value for name, value in start.items()}
            logits = torch.cat(
                [functional_call(network, state, (part,)).float() for part in torch.split(images, batch_size)]
            )
            losses.append(float(F.cross_entropy(logits, labels)))
            tops.append(accuracy(logits, labels))
    width = places[-1] - places[0]
    straight = [losses[0] + (losses[-1] - losses[0]) * (place - places[0]) / width for place in places]
    barrier = max(loss - line for loss, line in zip(losses, straight, strict=True))
    return WeightLine(
        tuple(map(float, places)),
        tuple(losses),
        tuple(tops),
        max(barrier, 0.0),
        sum(losses) / len(losses) - min(losses),
    )


def between(start: Weights, end: Weights) -> dict[str, Tensor]:
    """Returns the step from one state to another, of all floating point entries; ValueError for two architectures."""
    if {k: v.shape for k, v in start.items()} != {k: v.shape for k, v in end.items()}:
        raise ValueError("the two checkpoints hold weights of different networks; give two of one architecture")
    return {name: end[name] - value for name, value in start.items() if value.is_floating_point()}


def filter_direction(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Draws a random direction in which each filter is as long as the network's own.

    Li et al. 2018 (arXiv:1712.09913), Sec. 4: ``d <- d / |d| |w|`` for each filter, which is a row of the weight;
    biases and norms stay where they are.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, weight in network.named_parameters():
        draw = torch.randn(weight.shape, generator=generator).to(weight.device)
        if weight.dim() < 2:
            continue
        lengths = [value.detach().flatten(1).norm(dim=1).clamp(min=1e-12) for value in (weight, draw)]
        direction[name] = draw * (lengths[0] / lengths[1]).view(-1, *[1] * (weight.dim() - 1))
    return direction


def draw(line: MixingLine, walks: Sequence[tuple[str, WeightLine]], title: str) -> Figure:
    """Draws the loss on the mixing line, and along lines of weights."""
    fig, axes = panels(1 + len(walks), title, 4.1)
    axes[0].plot(line.lams, line.own, color=IMAGE_A, label="against a")
    axes[0].plot(line.lams, line.partner, color=IMAGE_B, label="against b")
    axes[0].plot(line.lams, line.mixed, color=THIRD, label="against the mixed label")
    axes[0].plot(line.lams, line.excess, color=THIRD, ls=":", label="... minus its entropy")
    axes[0].set_ylim(bottom=0)
    label(axes[0], f"from image B to A; roughness {line.roughness:.4f}", "λ, share of image A", "loss, nats")
    for ax, (name, walk) in zip(axes[1:], walks, strict=True):
        ax.plot(walk.places, walk.loss, color=IMAGE_A, marker=".")
        ax.locator_params(axis="x", nbins=5)
        ax.set_ylim(bottom=0)
        other = ax.twinx()
        other.plot(walk.places, walk.accuracy, color=NEUTRAL, ls="--")
        other.set_ylim(-3, 103)
        other.set_ylabel("top-1, % (dashed)", fontsize=9)
        other.tick_params(labelsize=8)
        other.spines[["top"]].set_visible(False)
        number = f"barrier {walk.barrier:.3f}" if walk.places[0] == 0 else f"rise {walk.rise:.3f}"
        label(ax, f"{name}; {number}", "place on the line", "loss, nats (line)")
    return fig


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

    other: str = ""
    direction: bool = False
    reach: Positive = 1.0
    points: Annotated[int, Range(3)] = 11

    def analyse(self, subject: Subject) -> Findings:
        """Measures the mixing line always, lines of weights where asked for."""
        images, labels, index = subject.classified().images, subject.labels, subject.partners(self.seed)
        lams = torch.linspace(0, 1, self.points).tolist()
        line = mixing_line(subject.predict, images, images[index], labels, labels[index], lams)
        network = subject.network
        start = network.state_dict()
        walks: list[tuple[str, WeightLine]] = []
        if self.other:
            other = load_trained(find_weights(Path(self.other))).network.to(images.device)
            step = between(start, other.state_dict())
            walk = weight_line(network, start, step, lams, images, labels, self.batch_size)
            walks.append(("to the other network", walk))
        if self.direction:
            places, step = [self.reach * (2.0 * lam - 1.0) for lam in lams], filter_direction(network, self.seed)
            walk = weight_line(network, start, step, places, images, labels, self.batch_size)
            walks.append(("random direction", walk))
        excess = line.excess[nearest_half(lams)]
        text = f"mixing line: {excess:.3f} nats above the label's entropy at 0.5, roughness {line.roughness:.4f}"
        for name, walk in walks:
            text += f"; {name}: barrier {walk.barrier:.3f}, rise {walk.rise:.3f} nats"
        results = {"mixing_line": line, **{name.replace(" ", "_"): walk for name, walk in walks}}
        return Findings(text, results, draw(line, walks, subject.title))
