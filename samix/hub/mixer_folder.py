"""A Mixer's folder out of a checkpoint, and its card."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from samix.hub.checkpoints import load_method
from samix.hub.mixer_export import write_mixer
from samix.mixers.folder import CARD, MixerWithEncoder, mixer_card
from samix.recipes.build import METHODS
from samix.runtime.atomic_files import write_text
from samix.train.checkpoint import load_checkpoint, newest_of


def export_mixer(checkpoint: Path, folder: Path, licence: str = "") -> str:
    """A Mixer's folder from a checkpoint; returns what to print.

    Raises:
        FileNotFoundError, ValueError: no checkpoint of a learned mixup, or a folder that holds something else.
    """
    checkpoint = newest_of(checkpoint)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not empty and holds no Mixer; give a new folder")
    method, recipe, data = load_method(checkpoint)
    if recipe.mixup not in METHODS:
        raise ValueError(f"{checkpoint} was trained with {recipe.mixup}, which trains no Mixer; train AutoMix or SAMix")
    rows = load_checkpoint(checkpoint)["rows"]
    measured = {k: rows[-1][k] for k in ("top1", "mask_std", "mask_error") if rows and k in rows[-1]}
    measured = {{"top1": "held-out top-1 of its network, %"}.get(k, k): v for k, v in measured.items()}
    write_mixer(folder, method, recipe, data, measured, checkpoint.parent / "mixed.png", licence)
    return f"{folder}: {describe(MixerWithEncoder.read(folder))}"


def describe(network: MixerWithEncoder) -> str:
    """One line about a Mixer."""
    config = network.config
    count = sum(t.numel() for t in network.state_dict().values())
    place = f"{config.architecture} stage {config.stage} ({config.dim} channels)"
    where = f"trained at {config.size} px on {config.about.get('trained_on', 'unknown data')}"
    return f"{config.kind}, {place}, {count:,} weights, {where}"


def write_card(folder: Path, licence: str) -> str:
    """Writes a Mixer's card anew, with this licence where one is given; returns its text.

    Raises:
        FileNotFoundError, ValueError: not a Mixer's folder.
    """
    network = MixerWithEncoder.read(folder)
    if licence:
        about = {**network.config.about, "licence": licence}
        network.config = dataclasses.replace(network.config, about=about)
        network._save_pretrained(folder)
    text = mixer_card(network.config)
    write_text(folder / CARD, text)
    return text
