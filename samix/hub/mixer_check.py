"""A Mixer's folder from a checkpoint, its card, and how its masks behave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from samix.data import load_images, normalize
from samix.hub.checkpoints import load_method
from samix.hub.mixer_export import write_mixer
from samix.mixers.folder import CARD, MixerWithEncoder, mixer_card
from samix.mixers.pretrained import DEFAULT, Mixer
from samix.recipes.build import METHODS
from samix.runtime.atomic_files import write_text
from samix.train.checkpoint import load_checkpoint, newest_of
from samix.viz.mixes import mask_statistics
from samix.viz.show import held_out

LAMS = (0.1, 0.3, 0.5, 0.7, 0.9)


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


@torch.no_grad()
def check_mixer(source: str, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """How the masks of a Mixer behave on these images.

    Args:
        source: as for :meth:`Mixer.from_pretrained`.
        images: (B, C, H, W), normalised by mean and std; paired half a round away.
        mean: by channel.
        std: as mean.

    Returns:
        ``std`` within a mask; ``correlation`` of the masks' means with lam and ``error`` |mean - lam|, both before
        they are adjusted; ``adjusted_error`` after.

    Raises:
        FileNotFoundError, ValueError: not a Mixer.
    """
    index = torch.arange(len(images)).roll(-max(len(images) // 2, 1))
    labels = torch.zeros(len(images), dtype=torch.long)
    found: dict[bool, list[Any]] = {}
    for adjust in (False, True):
        mix = Mixer.from_pretrained(source, adjust=adjust, lam_margin=-1.0)
        mix.set_normalization(mean, std)
        z = mix.encode(images)
        found[adjust] = [mix(images, labels, lam=lam, index=index, features=z) for lam in LAMS]
    errors = {
        adjust: torch.stack([(b.mask.mean((1, 2, 3)) - b.lam).abs().mean() for b in batches]).mean()
        for adjust, batches in found.items()
    }
    statistics = mask_statistics(found[False])
    return {**statistics, "error": float(errors[False]), "adjusted_error": float(errors[True])}


def check_shared(source: str, files: Sequence[Path], size: int, data_root: str) -> str:
    """What ``samix mixer check`` prints.

    Args:
        source: a Mixer, see :meth:`samix.Mixer.from_pretrained`.
        files: images, at least two; empty takes digits.
        size: side in pixels.
        data_root: where torchvision's data sets lie.

    Raises:
        FileNotFoundError, ValueError: not a Mixer, or one image only.
    """
    if len(files) == 1:
        raise ValueError("samix mixer check needs at least two images to mix, got one")
    network = MixerWithEncoder.read(DEFAULT if source == "default" else source)
    mean: Any = network.config.mean
    std: Any = network.config.std
    if files:
        images = normalize(load_images(files, size), mean, std)
    else:
        images, _, _, mean, std = held_out(None, size, data_root)
    told = check_mixer(source, images, mean, std)
    return (
        f"{describe(network)}\nspread within a mask {told['std']:.3f}, correlation of its mean with lambda "
        f"{told['correlation']:.3f}, |mean - lambda| {told['error']:.3f}, {told['adjusted_error']:.4f} when adjusted"
    )
