"""A trained Mixer as a folder to share: from a training method or a checkpoint; and its card."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from samix.hub.checkpoints import load_method
from samix.methods.automix import AutoMix
from samix.methods.base import Method
from samix.mixers import MASK_GENERATORS
from samix.mixers.folder import CARD, MixerConfig, MixerWithEncoder, mixer_card
from samix.networks.backbone import TimmBackbone
from samix.recipes import Recipe
from samix.recipes.build import METHODS
from samix.runtime.atomic_files import write_text
from samix.runtime.checks import Options
from samix.runtime.environment import versions
from samix.train.checkpoint import load_checkpoint, newest_of


def has_mixer(method: Method) -> bool:
    """Returns whether a method trains a Mixer that can be shared: a registered one, on a network that timm knows."""
    return (
        isinstance(method, AutoMix)
        and MASK_GENERATORS.get(method.mixer.config.name) is type(method.mixer)
        and isinstance(method.model.backbone, TimmBackbone)
    )


def mixer_network(
    method: Method, recipe: Recipe, mean: Sequence[float], std: Sequence[float], about: Options
) -> MixerWithEncoder:
    """Returns the Mixer of a method with its encoder, the averaged copy up to the feature stage; a copy of its own."""
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


def figures_of(row: Mapping[str, float]) -> dict[str, float]:
    """Returns the figures of an epoch that a Mixer's card gives."""
    names = {"top1": "held-out top-1 of its network, %", "mask_std": "mask_std", "mask_error": "mask_error"}
    return {title: row[name] for name, title in names.items() if name in row}


def write_mixer(
    folder: Path,
    method: Method,
    recipe: Recipe,
    data: Options,
    measured: Options,
    picture: Path | None = None,
    licence: str = "",
) -> None:
    """Writes ``config.json``, ``model.safetensors``, ``README.md`` and a picture of the masks."""
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


def export_mixer(checkpoint: Path, folder: Path, licence: str = "") -> str:
    """Returns a Mixer's folder from a checkpoint; returns what to print."""
    checkpoint = newest_of(checkpoint)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not empty and holds no Mixer; give a new folder")
    method, recipe, data = load_method(checkpoint)
    if recipe.mixup not in METHODS:
        raise ValueError(f"{checkpoint} was trained with {recipe.mixup}, which trains no Mixer; train AutoMix or SAMix")
    rows = load_checkpoint(checkpoint)["rows"]
    measured = figures_of(rows[-1]) if rows else {}
    write_mixer(folder, method, recipe, data, measured, checkpoint.parent / "mixed.png", licence)
    return f"{folder}: {describe(MixerWithEncoder.read(folder))}"


def describe(network: MixerWithEncoder) -> str:
    """One line about a Mixer."""
    config = network.config
    count = sum(t.numel() for t in network.state_dict().values())
    layer = f"{config.architecture} stage {config.stage} ({config.dim} channels)"
    where = f"trained at {config.size} px on {config.about.get('trained_on', 'unknown data')}"
    return f"{config.kind}, {layer}, {count:,} weights, {where}"


def write_card(folder: Path, licence: str) -> str:
    """Writes a Mixer's card again, with this licence where one is given; returns its text."""
    network = MixerWithEncoder.read(folder)
    if licence:
        about = {**network.config.about, "licence": licence}
        network.config = dataclasses.replace(network.config, about=about)
        network._save_pretrained(folder)
    text = mixer_card(network.config)
    write_text(folder / CARD, text)
    return text
