"""What small changes of the pixels do to a classifier: FGSM, PGD, and common corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.analysis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from samix.analysis.passes import accuracy, check_classified, predictor
from samix.data import denormalize, normalize
from samix.data.spec import Channels
from samix.networks.inference import looking


@dataclass(frozen=True)
class AttackCurve:
    """Accuracy under attack.

    Args:
        epsilons: largest change of a pixel in [0, 1].
        accuracy: top-1 in percent at each.
    """

    epsilons: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class CorruptionTable:
    """Accuracy under common corruptions.

    Args:
        clean: top-1 in percent on the images as they are.
        names: of the corruptions.
        accuracy: for each corruption, top-1 in percent at severities 1 to 5.
        mean: over corruptions and severities.
    """

    clean: float
    names: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]
    mean: float


def gradient_sign(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 100) -> Tensor:
    """The sign of dL / d(pixel), L the cross-entropy of the true label; the model is left as it was.

    Pixels are normalised by a positive std, so the sign is the same before and after.

    Args:
        model: classifier of normalised images.
        images: (N, C, H, W), normalised. Not modified.
        labels: (N,) class ids.
        batch_size: images in a pass.

    Returns:
        (N, C, H, W) float32 of -1, 0 and 1.
    """
    check_classified(images, labels)
    signs = []
    for part, targets in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        with looking(model, grad=True) as net:
            x = part.detach().clone().requires_grad_()
            loss = F.cross_entropy(net(x).float(), targets.clone(), reduction="sum")
            signs.append(torch.autograd.grad(loss, x)[0].float().sign())
    return torch.cat(signs)


def fgsm(images: Tensor, sign: Tensor, epsilon: float, mean: Channels, std: Channels) -> Tensor:
    """One step of the fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572), in pixels.

    ``clip(x + epsilon sign(dL / dx), 0, 1)`` of pixels in [0, 1], normalised again. In normalised images a channel thus
    moves by epsilon / std of that channel.

    Args:
        images: (N, C, H, W), normalised. Not modified.
        sign: of the gradient, see :func:`gradient_sign`.
        epsilon: in units of pixels in [0, 1], so 8 / 255 for eight grey levels; 0 gives the images back.
        mean: by channel, with which images were normalised.
        std: as mean.

    Returns:
        (N, C, H, W), normalised.

    Raises:
        ValueError: a negative epsilon.
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
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083), in pixels.

    From a random place within epsilon, ``steps`` times ``x + step sign(dL / dx)``, each time cut to what is within
    epsilon of the image and in [0, 1].

    Args:
        model: classifier of normalised images; left as it was.
        images: (N, C, H, W), normalised. Not modified.
        labels: (N,) class ids.
        epsilon: largest change of a pixel, in units of pixels in [0, 1]; 0 gives the images back.
        mean: by channel, with which images were normalised.
        std: as mean.
        steps: at least 1.
        step: length of a step, as epsilon; None is 2.5 epsilon / steps.
        seed: of the place to start.
        batch_size: images in a pass.

    Returns:
        (N, C, H, W), normalised.

    Raises:
        ValueError: a negative epsilon, or no step.
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


def pgd_curve(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    mean: Channels,
    std: Channels,
    *,
    steps: int = 10,
    seed: int = 0,
    batch_size: int = 100,
) -> AttackCurve:
    """Accuracy against the strength of PGD; arguments as of :func:`pgd` and :func:`attack_curve`.

    Raises:
        ValueError: no or a negative epsilon, or no step.
    """
    check_epsilons(epsilons)
    predict = predictor(model, batch_size)

    def score(epsilon: float) -> float:
        found = pgd(model, images, labels, epsilon, mean, std, steps=steps, seed=seed, batch_size=batch_size)
        return accuracy(predict(found), labels)

    found = [score(epsilon) for epsilon in epsilons]
    return AttackCurve(tuple(float(epsilon) for epsilon in epsilons), tuple(found))


def check_epsilons(epsilons: Sequence[float]) -> None:
    """Raises ValueError unless there are some, all at least 0."""
    if not epsilons or min(epsilons) < 0:
        raise ValueError(f"epsilons must be one or more numbers of at least 0, got {tuple(epsilons)}")


def attack_curve(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    mean: Channels,
    std: Channels,
    batch_size: int = 100,
) -> AttackCurve:
    """Accuracy against the strength of FGSM.

    Args:
        model: classifier of normalised images; left as it was.
        images: (N, C, H, W), normalised.
        labels: (N,) class ids.
        epsilons: see :func:`fgsm`.
        mean: by channel.
        std: by channel.
        batch_size: images in a pass.

    Raises:
        ValueError: no or a negative epsilon.
    """
    check_epsilons(epsilons)
    sign, predict = gradient_sign(model, images, labels, batch_size), predictor(model, batch_size)
    found = [accuracy(predict(fgsm(images, sign, epsilon, mean, std)), labels) for epsilon in epsilons]
    return AttackCurve(tuple(float(epsilon) for epsilon in epsilons), tuple(found))


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
    """Accuracy under common corruptions at five severities.

    Args:
        model: classifier of normalised images; left as it was.
        images: (N, 3, H, W), normalised.
        labels: (N,) class ids.
        mean: by channel.
        std: by channel.
        names: of corruptions, see :mod:`samix.analysis.corruptions`; empty takes all.
        seed: of the corruptions' draws.
        batch_size: images in a pass.

    Raises:
        ValueError: an unknown corruption.
    """
    check_classified(images, labels)
    predict, chosen = predictor(model, batch_size), tuple(names) or tuple(CORRUPTIONS)
    pixels = denormalize(images, mean, std)

    def score(name: str, severity: int) -> float:
        changed = corrupt(pixels, name, severity, seed=seed).to(images.device)
        return accuracy(predict(normalize(changed, mean, std)), labels)

    table = tuple(tuple(score(name, severity) for severity in SEVERITIES) for name in chosen)
    total = [value for row in table for value in row]
    return CorruptionTable(accuracy(predict(images), labels), chosen, table, sum(total) / len(total))
