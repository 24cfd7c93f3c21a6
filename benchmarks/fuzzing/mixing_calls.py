"""Calls of mixups and training methods on random batches."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuzzing.judging import require
from fuzzing.random_input import K, Net, random_batch, random_options
from samix.methods.contrastive import SSL_METHODS
from samix.methods.supervised import Supervised
from samix.mixups import MIXUPS
from samix.recipes.build import METHODS


def call_mixup(draw: random.Random, place: Path) -> None:
    """A mixup with random options on a random batch."""
    kind = MIXUPS[draw.choice(list(MIXUPS))]
    names = [f.name for f in dataclasses.fields(kind) if not f.kw_only]
    mix: Any = kind(**random_options(kind, names, draw))
    images, labels = random_batch(draw)
    before = images.clone() if isinstance(images, Tensor) else None
    model = Net(3, K)
    if draw.random() < 0.4:
        mix.attach(model, K)
        logits, batch = mix.forward_through(model, images, labels)
        require(tuple(logits.shape) == (len(images), K), f"logits of shape {tuple(logits.shape)}")
    else:
        given: dict[str, Any] = {}
        if draw.random() < 0.4:
            given["lam"] = draw.choice([0.0, 1.0, 0.3, 1.5, float("nan"), torch.rand(len(images)), torch.rand(1), "x"])
        if draw.random() < 0.3:
            given["index"] = draw.choice(
                [torch.randperm(len(images)), torch.zeros(len(images)).long(), torch.tensor([9]), [0], torch.rand(2)]
            )
        batch = mix(images, labels, model=model, **given)
    check_mixed(kind.name, batch, images, before)


def same(images: Tensor, before: Tensor) -> bool:
    """Whether images are as they were."""
    return torch.equal(images.detach(), before.detach()) or bool(before.isnan().any())


def check_mixed(name: str, batch: Any, images: Tensor, before: Tensor | None) -> None:
    """Raises Wrong unless a mixed batch may be one of these images."""
    require(before is not None, f"{name}: no error for {type(images).__name__}")
    assert before is not None
    require(same(images, before), f"{name}: the input is changed")
    require(batch.images.shape == images.shape, f"{name}: images of shape {tuple(batch.images.shape)}")
    require(batch.images.dtype == images.dtype, f"{name}: images of type {batch.images.dtype}")
    if bool(before.isfinite().all()) and float(before.detach().abs().max()) < 1e4:
        require(bool(batch.images.isfinite().all()), f"{name}: NaN in images")
    weights = batch.weights
    require(bool(weights.isfinite().all()) or not bool(before.isfinite().all()), f"{name}: NaN in weights")
    require(bool((weights.nan_to_num() >= -1e-5).all()), f"{name}: negative weights")
    if batch.labels is not None and not batch.labels.is_floating_point() and batch.labels.dim() == 2:
        targets = batch.soft_targets(K)
        require(targets.shape == (len(images), K), f"{name}: targets of shape {tuple(targets.shape)}")


def call_method(draw: random.Random, place: Path) -> None:
    """A step of a training method on a random batch."""
    if draw.random() < 0.6:
        method, name = labelled_method(draw)
        batch: Any = random_batch(draw)
    else:
        name = draw.choice(list(SSL_METHODS))
        preset = next(iter(SSL_METHODS.get(name).presets.values()))
        names = [f.name for f in dataclasses.fields(preset)]
        options = {"dim": 4, **random_options(type(preset), names, draw)}
        options = {k: v for k, v in {**options, "queue": 8}.items() if k in names}
        method = SSL_METHODS[name](Net(3, 0), dataclasses.replace(preset, **options))
        view, _ = random_batch(draw)
        batch = (view, view if draw.random() < 0.8 else random_batch(draw)[0], torch.arange(4))
    loss, parts = method(batch)
    require(loss.dim() == 0, f"{name}: a loss of shape {tuple(loss.shape)}")
    require(all(part.dim() == 0 for part in parts.values()), f"{name}: parts that are no scalars")
    given = [x for x in batch if isinstance(x, Tensor) and x.is_floating_point()]
    if all(bool(x.isfinite().all()) and float(x.detach().abs().max()) < 1e4 for x in given):
        require(bool(loss.isfinite()), f"{name}: a loss of {loss.item()}")


def labelled_method(draw: random.Random) -> tuple[Any, str]:
    """A method of those with labels."""
    if draw.random() < 0.6:
        kind = MIXUPS[draw.choice(list(MIXUPS))]
        names = [f.name for f in dataclasses.fields(kind) if not f.kw_only]
        return Supervised(Net(3, K), kind(**random_options(kind, names, draw)), num_classes=K), kind.name
    name = draw.choice(list(METHODS))
    return METHODS[name](Net(3, K), K, feature="late"), name
