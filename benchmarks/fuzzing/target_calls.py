"""Calls with labels of every kind, compared with a loss that is written out here."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fuzzing.judging import require
from fuzzing.random_input import K
from samix.mixups import MIXUPS

POLICIES = ("mixup", "cutmix", "resizemix", "fmix", "gridmix", "smoothmix", "vanilla")  # masks or shares, and pairs
KINDS = ("class", "soft", "one-hot", "multilabel", "value", "values", "pixel")


def labels_of(kind: str, count: int, size: tuple[int, int], draw: random.Random) -> Tensor:
    """Labels of a kind; whole numbers of any width."""
    ids = torch.randint(0, K, (count,)).to(draw.choice([torch.int64, torch.int64, torch.int32, torch.uint8]))
    return {
        "class": lambda: ids,
        "soft": lambda: torch.rand(count, K).softmax(1),
        "one-hot": lambda: F.one_hot(ids.long(), K).to(draw.choice([torch.float32, torch.int64, torch.int32])),
        "multilabel": lambda: (torch.rand(count, K) < 0.5).to(draw.choice([torch.float32, torch.int64, torch.bool])),
        "value": lambda: torch.randn(count),
        "values": lambda: torch.randn(count, K) * 3,
        "pixel": lambda: torch.randint(0, K, (count, *size)),
    }[kind]()


def call_target(draw: random.Random, place: Path) -> None:
    """A mixup on labels of a kind; the loss of the mixed batch is the one that is written out below."""
    kind, name, count = draw.choice(KINDS), draw.choice(POLICIES), draw.choice([1, 2, 3, 5])
    images, size = torch.rand(count, 3, 8, 8), (8, 8)
    labels = labels_of(kind, count, size, draw)
    said = {"one-hot": "soft", "values": "value"}.get(kind, kind)
    mix: Any = MIXUPS[name](**({"targets": said} if draw.random() < 0.7 or kind == "multilabel" else {}))
    batch = mix(images, labels)
    logits = torch.randn(count, K, *(size if kind == "pixel" else ()))
    if kind == "value":
        logits = logits[:, 0] if draw.random() < 0.5 else logits[:, :1]
    loss = batch.loss(logits)
    expected = written_out(kind, batch, labels, logits)
    require(bool(torch.isclose(loss, expected, rtol=1e-4, atol=1e-5)), f"{name}, {kind}: {loss} and not {expected}")


def written_out(kind: str, batch: Any, labels: Tensor, logits: Tensor) -> Tensor:
    """The loss, image by image."""
    losses = []
    for row, (own, other) in enumerate(batch.index.tolist() if batch.index.dim() == 2 else []):
        lam, z = batch.weights[row, 0], logits[row]
        a, b = labels[own], labels[other]
        if kind == "class":
            losses.append(lam * F.cross_entropy(z, a.long()) + (1 - lam) * F.cross_entropy(z, b.long()))
        elif kind in ("soft", "one-hot"):
            losses.append(-(z.log_softmax(0) * (lam * a + (1 - lam) * b)).sum())
        elif kind == "multilabel":
            mixed = (lam * a.float() + (1 - lam) * b.float()).clamp(max=1)
            losses.append(F.binary_cross_entropy_with_logits(z, mixed))
        elif kind in ("value", "values"):
            losses.append(((z.reshape(a.shape) - (lam * a + (1 - lam) * b)) ** 2).mean())
        else:
            losses.append(pixel_loss(batch, row, lam, z, a, b))
    return torch.stack(losses).mean()


def pixel_loss(batch: Any, row: int, lam: Tensor, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The loss of a map of labels, pixel by pixel, with the share of each pixel."""
    share = batch.mask[row, 0] if batch.mask is not None else lam.expand(a.shape)
    own, other = (F.cross_entropy(z[None], x[None].long(), reduction="none")[0] for x in (a, b))
    return (share * own + (1 - share) * other).mean()
