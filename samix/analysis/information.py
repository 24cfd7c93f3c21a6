"""``information``: how much does a mixed image tell of its sources? Mutual information by MINE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.analysis.base import Findings, MixingAnalysis, nearest_half
from samix.analysis.subject import Subject
from samix.runtime.typed_options import Count, CountOr0, ImageSide, Share
from samix.viz.figures import IMAGE_A, IMAGE_B, NEUTRAL, label, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SCALES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1)  # of a trained critic, which is too sure of itself on new pairs
Pairs = Callable[[torch.Generator], tuple[Tensor, Tensor]]  # draws a joint batch: x (B, P), y (B, Q)


@dataclass(frozen=True)
class Information:
    """A lower bound of the mutual information."""

    nats: float  # the bound on pairs that were not trained on
    trained: tuple[float, ...]  # the bound over training, averaged over tenths of it, on the training batches


@dataclass(frozen=True)
class InformationCurve:
    """Information at each lambda, in nats."""

    lams: tuple[float, ...]  # share of image A
    own: tuple[float, ...]  # between the mixed image and image A
    partner: tuple[float, ...]  # between mixed image and partner


def mutual_information(
    train: Pairs, test: Pairs, *, steps: int = 400, width: int = 128, lr: float = 1e-3, seed: int = 0
) -> Information:
    """Trains a critic T of pairs, and returns the lower bound of the mutual information that it reaches.

    MINE (Belghazi et al. 2018, arXiv:1801.04062): ``I(x; y) >= E_joint[T] - log E_marginal[exp T]`` (Donsker and
    Varadhan). The gradient of the second term is divided by a moving average, their correction of its bias. The critic
    is a product ``f(x) g(y)`` of two networks (Poole et al. 2019, arXiv:1905.06922), so that all B (B - 1) pairs of a
    batch that do not belong together serve as marginals. The bound is taken on other pairs: a
    critic that memorises pairs does not raise it. As such a critic is overconfident there, the bound of the best of
    five stages of training and six scales of T counts, chosen on other draws of these pairs.

    Args:
        train: draws a batch of pairs x (B, P), y (B, Q), B at least 2, from the generator it is given.
        test: the same, of other pairs; 20 batches are drawn.
        steps: of Adam.
        width: of the critic's two hidden layers.
        lr: rate of Adam.
        seed: of weights and batches.

    Raises:
        ValueError: steps or width below 1, or batches that are not pairs.
    """
    if steps < 1 or width < 1:
        raise ValueError(f"steps and width must be at least 1, got {steps} and {width}")
    generator = torch.Generator().manual_seed(seed)
    x, y = train(generator)
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"need pairs (B, P) and (B, Q), B >= 2, got {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        critic = Critic(x.shape[1], y.shape[1], width).to(x.device)
    with torch.enable_grad():
        bounds, stages = _train(critic, train, generator, steps, lr)
    stage, scale = max(
        ((stage, scale) for stage in stages for scale in SCALES),
        key=lambda choice: _bound_of(critic, choice[0], choice[1], test, seed + 1, 8),
    )
    nats = _bound_of(critic, stage, scale, test, seed + 2, 20)
    cut = [round(len(bounds) * n / 10) for n in range(11)]
    means = [sum(bounds[a:b]) / (b - a) for a, b in pairwise(cut) if b > a]
    return Information(max(nats, 0.0), tuple(means))


@torch.no_grad()
def _bound_of(
    critic: nn.Module, weights: dict[str, Tensor], scale: float, test: Pairs, seed: int, batches: int
) -> float:
    """Computes the bound by ``scale T``, the critic at these weights, on this many batches."""
    generator = torch.Generator().manual_seed(seed)
    critic.load_state_dict(weights)
    scores = [_scores(scale * critic(*test(generator))) for _ in range(batches)]
    joint, marginal = (torch.cat(part) for part in zip(*scores, strict=True))
    return float(_bound(joint, marginal))


def _train(
    critic: nn.Module, train: Pairs, generator: torch.Generator, steps: int, lr: float
) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Trains the critic; the bound at each step, and the weights at each fifth of the way."""
    stages, wanted = [], {round(steps * n / 5) for n in range(1, 6)}
    optimizer = torch.optim.Adam(critic.parameters(), lr=lr)
    average, bounds = torch.zeros(()), []
    for step in range(steps):
        joint, marginal = _scores(critic(*train(generator)))
        now = marginal.detach().exp().mean()
        average = now if step == 0 else 0.99 * average + 0.01 * now
        loss = -(joint.mean() - marginal.exp().mean() / average.clamp(min=1e-12))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        bounds.append(float(_bound(joint.detach(), marginal.detach())))
        if step + 1 in wanted:
            stages.append({name: value.clone() for name, value in critic.state_dict().items()})
    return bounds, stages


class Critic(nn.Module):
    """T of all pairs of a batch, ``f(x) g(y)``: two networks of P and Q inputs with hidden layers of ``width``."""

    def __init__(self, x_dim: int, y_dim: int, width: int) -> None:
        super().__init__()
        self.f, self.g = (
            nn.Sequential(
                *(nn.Linear(dim, width), nn.ReLU()), *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            )
            for dim in (x_dim, y_dim)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores all pairs: (B, P) and (B, Q) to (B, B); those that belong together are on the diagonal."""
        f, g = self.f(x), self.g(y)
        return f @ g.t() / math.sqrt(f.shape[1])  # type: ignore[no-any-return]


def _scores(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Returns T of the pairs (B,), and of images that do not belong together (B (B - 1),)."""
    apart = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.diagonal(), scores[apart].clamp(max=30.0)


def _bound(joint: Tensor, marginal: Tensor) -> Tensor:
    """Computes Donsker and Varadhan's bound."""
    return joint.mean() - (torch.logsumexp(marginal, 0) - math.log(len(marginal)))


def image_pairs(first: Tensor, second: Tensor, side: int = 8, batch_size: int = 128) -> tuple[Pairs, Pairs]:
    """Makes pairs for :func:`mutual_information` of two sets of images: four fifths to train on, a fifth to test.

    Images are averaged to ``side`` x ``side`` cells, of all channels unless these are equal, and each is scaled by the
    spread of its set.

    Args:
        first: (N, C, H, W), N at least 10.
        second: (N, C, H, W).
        side: of the smaller images.
        batch_size: of a draw.

    Raises:
        ValueError: fewer than ten images, or sets of other lengths.
    """
    if len(first) != len(second) or len(first) < 10:
        raise ValueError(f"need two sets of the same number of images, at least 10, got {len(first)} and {len(second)}")
    x, y = (_cells(images, side) for images in (first, second))
    border = 4 * len(x) // 5

    def among(low: int, high: int) -> Pairs:
        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = low + torch.randperm(high - low, generator=generator)[:batch_size]
            return x[rows.to(x.device)], y[rows.to(y.device)]

        return draw

    return among(0, border), among(border, len(x))


def _cells(images: Tensor, side: int) -> Tensor:
    """Converts (N, C, H, W) to (N, P) of zero mean and unit spread over the set."""
    small = images if min(images.shape[2:]) <= side else F.adaptive_avg_pool2d(images, side)
    if bool((small == small[:, :1]).all()):
        small = small[:, :1]
    flat = small.flatten(1).float()
    return (flat - flat.mean(0)) / flat.std().clamp(min=1e-6)


def information_curve(
    mixed: Callable[[float], tuple[Tensor, Tensor, Tensor]],
    lams: Sequence[float],
    *,
    side: int = 8,
    steps: int = 400,
    seed: int = 0,
) -> InformationCurve:
    """Measures the information between mixed images and each source, as in Fig. 7 (d) of SAMix (arXiv:2111.15454).

    Args:
        mixed: lam to mixed images, images A and images B, each (N, C, H, W).
        lams: in [0, 1].
        side: images are averaged to side x side cells; the critic's length of training and size are not published.

    Raises:
        ValueError: no lambda, or too few images.
    """
    if not lams:
        raise ValueError("lams must be one or more numbers in [0, 1], got none")
    rows = []
    for lam in lams:
        images, own, partner = mixed(float(lam))
        rows.append(
            [
                mutual_information(*image_pairs(images, source, side), steps=steps, seed=seed).nats
                for source in (own, partner)
            ]
        )
    return InformationCurve(tuple(map(float, lams)), tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def draw(curve: InformationCurve, title: str) -> Figure:
    """Draws the information by lambda."""
    fig, (ax,) = panels(1, title, 5.2, 3.6)
    ax.plot(curve.lams, curve.own, color=IMAGE_A, marker="o", ms=4, label="mixed image and image A")
    ax.plot(curve.lams, curve.partner, color=IMAGE_B, marker="o", ms=4, label="mixed image and image B")
    total = [a + b for a, b in zip(curve.own, curve.partner, strict=True)]
    ax.plot(curve.lams, total, color=NEUTRAL, ls="--", label="sum")
    ax.set_ylim(bottom=0)
    label(ax, "mutual information, lower bound", "λ, share of image A", "nats")
    return fig


@dataclass(frozen=True)
class InformationAnalysis(MixingAnalysis):
    """Mutual information between mixed and source images, by MINE.

    Args:
        lams: shares of image A.
        rounds: how often each image is mixed, each time with another partner.
        side: images are averaged to this many cells per side.
        steps: of each critic.
    """

    name: ClassVar[str] = "information"

    images: CountOr0 = 1000
    lams: tuple[Share, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    rounds: Count = 4
    side: ImageSide = 8
    steps: Count = 300

    def check(self) -> None:
        if not self.lams:
            raise ValueError("--lams must be one or more numbers")

    def analyse(self, subject: Subject) -> Findings:
        """Mixes all images several times, so that the critic sees many pairs."""
        indices = [subject.partners(self.seed + n) for n in range(self.rounds)]
        mixes = [subject.mixing(self.mixup, index, self.seed + n) for n, index in enumerate(indices)]

        def mixed(lam: float) -> tuple[Tensor, Tensor, Tensor]:
            # image by image, so that the pairs tested on are of images that were not trained on
            images = torch.stack([mix(lam).images for mix, _ in mixes], 1).flatten(0, 1)
            partners = torch.stack([subject.images[index] for index in indices], 1).flatten(0, 1)
            return images, subject.images.repeat_interleave(self.rounds, 0), partners

        curve = information_curve(mixed, self.lams, side=self.side, steps=self.steps, seed=self.seed)
        name, n = mixes[0][1], nearest_half(curve.lams)
        line = (
            f"mixed by {name}, at lambda {curve.lams[n]:g}: at least {curve.own[n]:.2f} nats of image A, "
            f"{curve.partner[n]:.2f} of image B"
        )
        figure = draw(curve, f"{subject.data.name}; mixed by {name}")
        return Findings(line, {"mixup": name, "result": curve}, figure)
