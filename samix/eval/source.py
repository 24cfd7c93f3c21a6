"""Loads the backbone to evaluate: from a checkpoint, an export, or timm."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samix.data import ImageData
from samix.data.spec import Channels
from samix.eval.features import Features, frozen, headless
from samix.hub.load import find_weights, load_trained
from samix.methods.contrastive.base import ViewMethod
from samix.networks.create import create_network

TIMM = "timm:"


@dataclass(frozen=True, eq=False)
class Source:
    """A backbone to evaluate."""

    backbone: nn.Module  # (B, C, H, W) -> (B, F), in eval mode
    features: Features  # the same for the probes; a self-supervised method's own where there is one
    size: int = 0  # side of its images in pixels; 0 where it is unknown
    scale: tuple[Channels, Channels] | None = None  # mean and std by channel; None takes the data set's
    data: str = ""  # on which it was trained; empty where that is unknown


def load_source(source: str, *, size: int = 0, stem: str = "default", device: torch.device | str = "cpu") -> Source:
    """Loads the backbone of a checkpoint, an export, or timm.

    Args:
        source: a run's folder or a ``.pt`` file of it; an export's folder; ``timm:NAME`` with random weights, or
            ``timm:NAME:pretrained``.
        size: image side that a timm network is built for; 0 takes 224.
        stem: of a timm network, see :func:`samix.networks.create.small_stem`.
        device: that it is put on.

    Raises:
        FileNotFoundError, ValueError: no such source, or not readable.
    """
    if source.startswith(TIMM):
        name, _, weights = source.removeprefix(TIMM).partition(":")
        if weights not in ("", "pretrained"):
            raise ValueError(f"after {TIMM}{name} only :pretrained may follow, got {weights!r}")
        network: Any = create_network(name, 0, {}, size=size or 224, stem=stem, pretrained=bool(weights))
        network, cfg = network.to(device).eval(), network.pretrained_cfg
        scale = (tuple(cfg["mean"]), tuple(cfg["std"])) if weights else None
        return Source(network, frozen(network), size, scale)
    try:
        trained = load_trained(find_weights(Path(source)))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; timm's networks are given as {TIMM}NAME") from None
    backbone, config = headless(trained.network).to(device).eval(), trained.config
    features = frozen(backbone)
    if isinstance(trained.method, ViewMethod):
        features = torch.no_grad()(trained.method.to(device).features)
    return Source(
        backbone, features, config.size, config.normalization(), trained.recipe.data if trained.recipe else ""
    )


def scaled(data: ImageData, source: Source) -> ImageData:
    """Returns the data with the source's mean and std, where it has some."""
    return data if source.scale is None else dataclasses.replace(data, mean=source.scale[0], std=source.scale[1])
