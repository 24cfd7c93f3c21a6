"""Loads trained networks: ``samix.load``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from samix.hub.checkpoints import load_method
from samix.hub.classifier import Classifier
from samix.hub.export import config_of
from samix.hub.network_config import CONFIG, CUSTOM, NetworkConfig
from samix.hub.source import read_source
from samix.methods.base import Method
from samix.networks.untrusted import check_parameters
from samix.recipes import Recipe
from samix.recipes.pretrain_recipe import recipe_of
from samix.runtime.checks import Options
from samix.train.checkpoint import load_into, newest_of


def load_network(source: str | Path, *, model: nn.Module | None = None) -> tuple[nn.Module, NetworkConfig, Options]:
    """Returns a trained network in eval mode, its config, and the plain values of its recipe."""
    given = read_source(source)
    if given.config is None and model is None:
        raise ValueError(f"{given.location} holds weights alone; give their network: samix.load(SOURCE, model=network)")
    assert given.config is not None or model is not None
    if model is None and given.config is not None and given.config.architecture != CUSTOM:
        check_parameters(given.config.build, given.state, given.location)
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
        >>> prediction = net.predict(["new.jpg"])[0]
        >>> prediction.name in net.class_names
        True
    """
    network, config, _ = load_network(source, model=model)
    return Classifier(network, config).to(device)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with everything that its source says of it."""

    network: nn.Module  # the exported network, in eval mode: logits, or features of a run without labels
    config: NetworkConfig  # how it is built and how its images are prepared
    method: Method | None  # its training method, in eval mode, of a checkpoint; None for other sources
    recipe: Recipe | None  # of its training; None where that is unknown


def find_weights(source: Path) -> Path:
    """Finds a checkpoint or an export on disk: of a run's folder its ``last.pt``, or else its ``best.pt``."""
    if source.is_dir() and not (source / CONFIG).is_file():
        for name in ("last.pt", "best.pt"):
            if (source / name).is_file():
                return source / name
        raise FileNotFoundError(f"{source} is neither a run's folder (last.pt) nor an export ({CONFIG})")
    if not source.exists():
        raise FileNotFoundError(f"nothing at {source}; give a run's folder, a checkpoint (.pt) or an export's folder")
    return source


def load_trained(source: str | Path) -> Trained:
    """Loads a trained network, with its method where the source is a run or a checkpoint."""
    path = newest_of(Path(source))
    if path.is_file() and path.suffix == ".pt":
        method, recipe, data = load_method(path)
        return Trained(method.export(), config_of(recipe, data), method, recipe)
    network, config, values = load_network(source)
    return Trained(network, config, None, recipe_of({**values, "pretrained": False}) if values else None)
