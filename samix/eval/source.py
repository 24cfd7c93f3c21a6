"""Where a backbone to judge comes from: a checkpoint, an export, or timm."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samix.data import ImageData
from samix.eval.features import Features, frozen, headless

TIMM = "timm:"


@dataclass(frozen=True, eq=False)
class Source:
    """A backbone to judge, and how its pixels were scaled.

    Args:
        backbone: (B, C, H, W) -> (B, F), in eval mode.
        features: the same for the probes; a self-supervised method's own where there is one.
        size: side of its images in pixels; 0 where nothing is known.
        scale: mean and std by channel; None takes the data set's.
        data: it was trained on; empty where nothing is known.
    """

    backbone: nn.Module
    features: Features
    size: int = 0
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    data: str = ""


def load_source(source: str, *, size: int = 0, stem: str = "default", device: torch.device | str = "cpu") -> Source:
    """The backbone of a checkpoint, an export, or timm.

    Args:
        source: a run's folder or a ``.pt`` file of it; an export's folder; ``timm:NAME`` with random weights, or
            ``timm:NAME:pretrained``.
        size: side of the images that timm networks are told; 0 takes 224.
        stem: of a timm network, see :func:`samix.networks.create.small_stem`.
        device: where it is wanted.

    Raises:
        FileNotFoundError, ValueError: no such source, or not readable.
    """
    if source.startswith(TIMM):
        return _timm_source(source, size, stem, device)
    from samix.train.checkpoint import newest_of

    path = newest_of(Path(source))
    if not path.exists():
        raise FileNotFoundError(f"no {source}: give a run's folder, a checkpoint, an export's folder, or {TIMM}NAME")
    return _export_source(path, device) if path.is_dir() else _checkpoint_source(path, device)


def _timm_source(source: str, size: int, stem: str, device: torch.device | str) -> Source:
    from samix.networks.create import create_network

    name, _, weights = source[len(TIMM) :].partition(":")
    if weights not in ("", "pretrained"):
        raise ValueError(f"after {TIMM}{name} only :pretrained may follow, got {weights!r}")
    network: Any = create_network(name, 0, {}, size=size or 224, stem=stem, pretrained=weights == "pretrained")
    backbone = network.to(device).eval()
    cfg = network.pretrained_cfg
    scale = (tuple(cfg["mean"]), tuple(cfg["std"])) if weights else None
    return Source(backbone, frozen(backbone), size, scale)


def _export_source(folder: Path, device: torch.device | str) -> Source:
    """The network of an export's config.json without its classifier, whatever number of classes it has."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from samix.networks.create import create_network
    from samix.train.checkpoint import load_into

    config_path, weights = folder / "config.json", folder / "model.safetensors"
    if not config_path.is_file() or not weights.is_file():
        raise FileNotFoundError(
            f"{folder} is no export (config.json, model.safetensors) and no run (last.pt); give one of them"
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        recipe, cfg = config["samix"]["recipe"], config["pretrained_cfg"]
        args = json.loads(recipe.get("model_args", "{}"))
        name, size, stem = recipe["model"], int(recipe["size"]), recipe.get("stem", "default")
        scale = (tuple(cfg["mean"]), tuple(cfg["std"]))
        state = load_file(weights)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged, or no export of samix ({type(error).__name__}: {error})") from None
    network = create_network(name, int(config["num_classes"]), args, size=size, stem=stem)
    load_into(network, state, weights)
    backbone = headless(network).to(device).eval()
    return Source(backbone, frozen(backbone), size, scale, str(recipe.get("data", "")))


def _checkpoint_source(path: Path, device: torch.device | str) -> Source:
    from samix.hub.checkpoints import load_method

    method, recipe, data = load_method(path)
    method.to(device)
    backbone = headless(method.export()).to(device).eval()
    features = frozen(backbone)
    own = getattr(method, "features", None)
    if callable(own):  # of a self-supervised method

        @torch.no_grad()
        def features(images: Tensor) -> Tensor:
            return own(images)  # type: ignore[no-any-return]

    scale = (tuple(data["mean"]), tuple(data["std"]))
    return Source(backbone, features, int(recipe.size), scale, str(recipe.data))


def scaled(data: ImageData, source: Source) -> ImageData:
    """The data with the source's mean and std, where it has some."""
    if source.scale is None:
        return data
    mean, std = source.scale
    return dataclasses.replace(data, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))
