"""Loads trained networks: ``samix.load``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from samix.hub.classifier import Classifier
from samix.hub.network_config import CUSTOM, NetworkConfig
from samix.hub.source import read_source
from samix.recipes import Recipe
from samix.recipes.pretrain_recipe import recipe_of
from samix.runtime.checks import Options, Values
from samix.train.checkpoint import load_into


def load_network(source: str | Path, *, model: nn.Module | None = None) -> tuple[nn.Module, NetworkConfig, Options]:
    """A trained network in eval mode, its config, and the plain values of its recipe."""
    given = read_source(source)
    if given.config is None and model is None:
        raise ValueError(f"{given.location} holds weights alone; give their network: samix.load(SOURCE, model=network)")
    assert given.config is not None or model is not None
    network = model if model is not None else given.config.build()  # type: ignore[union-attr]
    load_into(network, dict(given.state), Path(given.location))
    config = given.config or NetworkConfig(architecture=CUSTOM, num_classes=0)
    return network.eval(), config, given.recipe


def load(source: str | Path, *, model: nn.Module | None = None, device: torch.device | str = "cpu") -> Classifier:
    """Loads a trained network from a run, a checkpoint, an export, timm or the hub, ready to classify images.

    Args:
        source: a run's folder (``runs/NAME``), a checkpoint, an export's folder, a timm name (``timm:NAME``),
            ``hf-hub:owner/name``, ``local-dir:DIR``, or ``lite0`` (ImageNet weights from a package).
        model: the network itself, for sources that hold the weights of a network that timm cannot build.
        device: where the network is put.

    Returns:
        An ``nn.Module`` in eval mode from (B, C, H, W) to logits (B, K), with ``class_names``, ``transform`` and
        ``predict(images_or_paths)``.

    Raises:
        FileNotFoundError: no such source.
        ValueError: a damaged source, or weights of another network.

    Example:
        >>> net = samix.load("runs/images-samix-s0")
        >>> net.predict(["new.jpg"])[0].name
        'cat'
    """
    network, config, _ = load_network(source, model=model)
    return Classifier(network, config).to(device)


def load_export(folder: Path) -> tuple[nn.Module, Recipe, Values]:
    """An export of samix: the network in eval mode, its recipe, and its classes, mean and std."""
    network, config, recipe = load_network(folder)
    if not recipe:
        raise ValueError(f"{folder} was not exported by samix: it names no recipe")
    described = {"classes": list(config.class_names), "mean": list(config.mean), "std": list(config.std)}
    return network, recipe_of({**recipe, "pretrained": False}), described
