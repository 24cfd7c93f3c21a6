"""``robustness``: what do small changes of the pixels do? FGSM, PGD, and common corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.analysis.base import Analysis, Findings
from samix.analysis.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, corrupt
from samix.analysis.passes import accuracy, check_classified, predictor
from samix.analysis.subject import Subject
from samix.data import denormalize, normalize
from samix.data.spec import Channels
from samix.networks.inference import inspecting
from samix.runtime.checks import Range
from samix.runtime.typed_options import CountOr0
from samix.viz.figures import IMAGE_A, IMAGE_B, NEUTRAL, axes_grid, figure, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AttackCurve:
    """Accuracy under attack."""

    epsilons: tuple[float, ...]  # largest change of a pixel in [0, 1]
    accuracy: tuple[float, ...]  # top-1 in percent at each


@dataclass(frozen=True)
class CorruptionTable:
    """Accuracy under common corruptions."""

    clean: float  # top-1 in percent on the images as they are
    names: tuple[str, ...]  # of the corruptions
    accuracy: tuple[tuple[float, ...], ...]  # for each corruption, top-1 in percent at severities 1 to 5
    mean: float  # over corruptions and severities
    benchmark_mean: float | None  # over the 15 corruptions of the benchmark; None where not all were measured


def gradient_sign(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 100) -> Tensor:
    """Computes the sign of dL / d(pixel), L the cross-entropy of the true label: (N, C, H, W) float32.

    Pixels are normalised by a positive std, so the sign is the same before and after.
    """
    check_classified(images, labels)
    signs = []
    for part, targets in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        with inspecting(model, grad=True) as net:
            x = part.detach().clone().requires_grad_()
            loss = F.cross_entropy(net(x).float(), targets.clone(), reduction="sum")
            signs.append(torch.autograd.grad(loss, x)[0].float().sign())
    return torch.cat(signs)


def fgsm(images: Tensor, sign: Tensor, epsilon: float, mean: Channels, std: Channels) -> Tensor:
    """Takes one step of the fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572), in pixels.

    ``clip(x + epsilon sign(dL / dx), 0, 1)`` of pixels in [0, 1], normalised again. In normalised images a channel thus
    moves by epsilon / std of that channel.

    Args:
        images: (N, C, H, W), normalised. Not modified.
        sign: of the gradient, see :func:`gradient_sign`.
        epsilon: in units of pixels in [0, 1], so 8 / 255 for eight grey levels; 0 returns the images.
        mean: by channel, with which images were normalised.
        std: by channel.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if epsilon == 0:
        return images.clone()
    pixels = denormalize(images, mean, std)
    return normalize((pixels + epsilon * sign).clamp(0.0, 1.0), mean, std)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    mean: Channels,
    std: Channels,
    *,
    steps: int = 10,
    step: float | None = None,
    seed: int = 0,
    batch_size: int = 100,
) -> Tensor:
    """Runs projected gradient descent (Madry et al. 2018, arXiv:1706.06083), in pixels.

    From a random place within epsilon, ``steps`` times ``x + step sign(dL / dx)``, each time cut to what is within
    epsilon of the image and in [0, 1]. Further arguments as of :func:`attack_curve`.

    Args:
        epsilon: largest change of a pixel, in units of pixels in [0, 1]; 0 returns the images.
        steps: at least 1.
        step: length of a step, as epsilon; None is 2.5 epsilon / steps.
    """
    if epsilon < 0 or steps < 1:
        raise ValueError(f"epsilon must be at least 0 and steps at least 1, got {epsilon} and {steps}")
    if epsilon == 0:
        return images.clone()
    pixels, length = denormalize(images, mean, std), 2.5 * epsilon / steps if step is None else step
    low, high = (pixels - epsilon).clamp(min=0.0), (pixels + epsilon).clamp(max=1.0)
    start = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed)).to(pixels.device)
    x = (pixels + epsilon * (2.0 * start - 1.0)).clamp(low, high)
    for _ in range(steps):
        sign = gradient_sign(model, normalize(x, mean, std), labels, batch_size)
        x = (x + length * sign).clamp(low, high)
    return normalize(x, mean, std)


def attack_curve(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    mean: Channels,
    std: Channels,
    batch_size: int = 100,
    *,
    pgd_steps: int = 0,
    seed: int = 0,
) -> AttackCurve:
    """Measures accuracy against the strength of FGSM, or of PGD.

    Args:
        model: classifier of normalised images; left as it was.
        images: (N, C, H, W), normalised.
        labels: (N,) class ids.
        epsilons: see :func:`fgsm`; none or a negative one raises ValueError.
        mean: by channel.
        std: by channel.
        batch_size: images in a pass.
        pgd_steps: steps of :func:`pgd`; 0 is FGSM.
        seed: of PGD's start.
    """
    if not epsilons or min(epsilons) < 0:
        raise ValueError(f"epsilons must be one or more numbers of at least 0, got {tuple(epsilons)}")
    predict, sign = (
        predictor(model, batch_size),
        None if pgd_steps else gradient_sign(model, images, labels, batch_size),
    )

    def score(epsilon: float) -> float:
        if sign is not None:
            return accuracy(predict(fgsm(images, sign, epsilon, mean, std)), labels)
        options = {"steps": pgd_steps, "seed": seed, "batch_size": batch_size}
        return accuracy(predict(pgd(model, images, labels, epsilon, mean, std, **options)), labels)

    return AttackCurve(tuple(map(float, epsilons)), tuple(map(score, epsilons)))


def corruption_table(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mean: Channels,
    std: Channels,
    names: Sequence[str] = (),
    *,
    seed: int = 0,
    batch_size: int = 100,
) -> CorruptionTable:
    """Measures accuracy under common corruptions at five severities.

    Model, images (N, 3, H, W), labels and scale as of :func:`attack_curve`; ``names`` of corruptions, see
    :mod:`samix.analysis.corruptions`, empty takes all; ``seed`` of their draws.
    """
    check_classified(images, labels)
    predict, chosen = predictor(model, batch_size), tuple(names) or tuple(CORRUPTIONS)
    pixels = denormalize(images, mean, std)

    def score(name: str, severity: int) -> float:
        changed = corrupt(pixels, name, severity, seed=seed).to(images.device)
        return accuracy(predict(normalize(changed, mean, std)), labels)

    rows = {name: tuple(score(name, severity) for severity in SEVERITIES) for name in chosen}
    means = {name: sum(row) / len(row) for name, row in rows.items()}
    benchmark = [name for name in CORRUPTIONS if name not in EXTRA]
    usual = sum(means[name] for name in benchmark) / len(benchmark) if set(benchmark) <= set(means) else None
    overall = sum(means.values()) / len(means)
    return CorruptionTable(accuracy(predict(images), labels), tuple(rows), tuple(rows.values()), overall, usual)


def draw(
    attack: AttackCurve, descent: AttackCurve | None, table: CorruptionTable, num_classes: int, title: str
) -> Figure:
    """Draws accuracy under FGSM and PGD, and by corruption and severity."""
    fig = figure(9.6, 4.6)
    ((left, right),) = axes_grid(fig, 1, 2, (1, 1.35))
    curves = [(attack, "FGSM", IMAGE_B, "o")] + ([(descent, "PGD", IMAGE_A, "s")] if descent else [])
    for curve, name, colour, marker in curves:
        epsilons = [255.0 * epsilon for epsilon in curve.epsilons]
        left.plot(epsilons, curve.accuracy, color=colour, marker=marker, ms=4, label=name)
    left.axhline(100.0 / num_classes, color=NEUTRAL, ls=":", lw=1)
    left.set_ylim(-3, 103)
    label(left, "attacks (dotted: chance)", "largest change of a pixel, in 1/255", "top-1, %")
    right.grid(visible=False)
    right.imshow(table.accuracy, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, values in enumerate(table.accuracy):
        for column, value in enumerate(values):
            colour = "black" if value > 60 else "white"
            right.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    right.set_xticks(range(len(SEVERITIES)), list(map(str, SEVERITIES)))
    right.set_yticks(range(len(table.names)), [name.replace("_", " ") for name in table.names])
    label(right, f"corruptions: top-1 %, mean {table.mean:.1f}, clean {table.clean:.1f}", "severity")
    fig.suptitle(title, fontsize=10)
    return fig


@dataclass(frozen=True)
class Robustness(Analysis):
    """Accuracy under FGSM and PGD, and under common corruptions.

    Args:
        epsilons: largest change of a pixel, in 1/255.
        pgd_steps: of projected gradient descent, each as much work as FGSM; 0 leaves it out.
        corruptions: by name; empty takes all.
    """

    name: ClassVar[str] = "robustness"

    epsilons: tuple[Annotated[float, Range(0, 255)], ...] = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
    pgd_steps: CountOr0 = 10
    corruptions: tuple[str, ...] = ()

    def check(self) -> None:
        unknown = [name for name in self.corruptions if name not in CORRUPTIONS]
        if not self.epsilons:
            raise ValueError("--epsilons must be one or more numbers")
        if unknown:
            raise ValueError(f"--corruptions must be among {', '.join(CORRUPTIONS)}; got {', '.join(unknown)}")

    def analyse(self, subject: Subject) -> Findings:
        given = (subject.classified().network, subject.images, subject.labels)
        scale, epsilons = (subject.mean, subject.std), [epsilon / 255.0 for epsilon in self.epsilons]
        batch, descent = self.batch_size, None
        attack = attack_curve(*given, epsilons, *scale, batch)
        if self.pgd_steps:
            descent = attack_curve(*given, epsilons, *scale, batch, pgd_steps=self.pgd_steps, seed=self.seed)
        table = corruption_table(*given, *scale, self.corruptions, seed=self.seed, batch_size=batch)
        by_descent = f", PGD-{self.pgd_steps} {descent.accuracy[-1]:.1f} %" if descent else ""
        usual = "" if table.benchmark_mean is None else f", of the benchmark's 15 {table.benchmark_mean:.1f} %"
        line = (
            f"clean {table.clean:.1f} %, FGSM {self.epsilons[-1]:g}/255 {attack.accuracy[-1]:.1f} %{by_descent}, "
            f"mean of {len(table.names)} corruptions {table.mean:.1f} %{usual}"
        )
        classes = subject.predict(subject.images[:1]).shape[1]
        results = {"fgsm": attack, **({"pgd": descent} if descent else {}), "corruptions": table}
        return Findings(line, results, draw(attack, descent, table, classes, subject.title))
