"""A Mixer out of a training method, written as a folder to share."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samix.methods.automix import AutoMix
from samix.methods.base import Method
from samix.mixers import MASK_GENERATORS
from samix.mixers.folder import CARD, MixerConfig, MixerWithEncoder
from samix.networks.backbone import TimmBackbone
from samix.recipes import Recipe
from samix.runtime.environment import versions


def has_mixer(method: Method) -> bool:
    """Whether a method trains a Mixer that can be shared: a registered one, on a network that timm knows."""
    return (
        isinstance(method, AutoMix)
        and MASK_GENERATORS.get(method.mixer.config.name) is type(method.mixer)
        and isinstance(method.model.backbone, TimmBackbone)
    )


def mixer_network(
    method: Method, recipe: Recipe, mean: Sequence[float], std: Sequence[float], about: Mapping[str, Any]
) -> MixerWithEncoder:
    """The Mixer of a method with its encoder, the averaged copy up to the feature stage; a copy of its own.

    Args:
        method: AutoMix or SAMix.
        recipe: it was trained by.
        mean: of its images' normalisation.
        std: as mean.
        about: for the card.

    Raises:
        ValueError: a method without such a Mixer, or a network that timm does not know.
    """
    if not has_mixer(method):
        raise ValueError(f"{type(method).__name__} holds no Mixer to share: train AutoMix or SAMix on a timm network")
    assert isinstance(method, AutoMix)
    backbone = method.model.backbone
    assert isinstance(backbone, TimmBackbone)
    count = len(list(backbone.model.feature_info))
    config = MixerConfig(
        kind=method.mixer.config.name,
        mixer=dataclasses.asdict(method.mixer.config),
        dim=method.mixer.dim,
        architecture=recipe.model.split(".")[0],
        model_args=recipe.model_kwargs,
        stem=recipe.stem,
        stage=backbone.stage % count,
        size=recipe.size,
        mean=tuple(mean),
        std=tuple(std),
        about=dict(about),
    )
    network = MixerWithEncoder(config)
    trained = {f"backbone.{k}": v for k, v in method.ema_model.backbone.state_dict().items()}
    trained.update({f"mixer.{k}": v for k, v in method.mixer.state_dict().items()})
    network.load_state_dict({k: trained[k] for k in network.state_dict()})
    return network


def write_mixer(
    folder: Path,
    method: Method,
    recipe: Recipe,
    data: Mapping[str, Any],
    measured: Mapping[str, Any],
    picture: Path | None = None,
    licence: str = "",
) -> None:
    """Writes ``config.json``, ``model.safetensors``, ``README.md`` and a picture of the masks.

    Args:
        folder: made if it is not there.
        method: what was trained.
        recipe: by which.
        data: ``name``, ``mean`` and ``std`` of the data.
        measured: numbers for the card.
        picture: a PNG of masks, copied.
        licence: of the weights; empty says that none is given.
    """
    steps = f"{recipe.epochs} epochs, batch {recipe.batch_size}, seed {recipe.seed}"
    about = {
        "trained_on": data["name"],
        "recipe": recipe.name,
        "preset": recipe.mixup_options.get("preset", "reference"),
        "training": steps,
        **measured,
        "samix": versions()["samix"],
        "licence": licence or "not given",
    }
    folder.mkdir(parents=True, exist_ok=True)
    if picture is not None and picture.is_file():
        shutil.copyfile(picture, folder / "masks.png")
        about["picture"] = "masks.png"
    network = mixer_network(method, recipe, data["mean"], data["std"], about)
    (folder / CARD).unlink(missing_ok=True)
    network.save_pretrained(folder)
