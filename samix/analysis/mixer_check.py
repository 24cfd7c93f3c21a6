"""How the masks of a trained Mixer behave: do they have shapes, and do they follow lambda?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samix.data import load_images, normalize
from samix.hub.mixer_export import describe
from samix.mixers.folder import MixerWithEncoder
from samix.mixers.pretrained import SHIPPED, Mixer
from samix.viz.mixes import mask_statistics
from samix.viz.show import held_out

LAMS = (0.1, 0.3, 0.5, 0.7, 0.9)
LEAST_SPREAD, LEAST_CORRELATION, MOST_ERROR = 0.02, 0.5, 0.05


@torch.no_grad()
def check_mixer(source: str, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """Measures the masks of a Mixer.

    Args:
        source: as for :meth:`Mixer.from_pretrained`.
        images: (B, C, H, W), normalised by mean and std; paired half a round away.
        mean: by channel.
        std: by channel.

    Returns:
        ``std`` within a mask; ``correlation`` of the masks' means with lam and ``error`` |mean - lam|, both before
        they are adjusted; ``adjusted_error`` after.
    """
    index = torch.arange(len(images)).roll(-max(len(images) // 2, 1))
    labels = torch.zeros(len(images), dtype=torch.long)
    statistics = {}
    for adjust in (False, True):
        mix = Mixer.from_pretrained(source, adjust=adjust, lam_margin=-1.0)
        mix.set_normalization(mean, std)
        z = mix.encode(images)
        batches = [mix(images, labels, lam=lam, index=index, features=z) for lam in LAMS]
        statistics[adjust] = mask_statistics(batches)
    return {**statistics[False], "adjusted_error": statistics[True]["error"]}


@dataclass(frozen=True)
class MixerReport:
    """What ``samix mixer check`` found."""

    text: str  # what to print
    faults: tuple[str, ...]  # what is wrong with the masks; empty for a Mixer that does its work


def check_shared(source: str, files: Sequence[Path], size: int, data_root: str) -> MixerReport:
    """Reads a Mixer and measures its masks.

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
    network = MixerWithEncoder.read(SHIPPED.get(source, source))
    mean: Any = network.config.mean
    std: Any = network.config.std
    if files:
        images = normalize(load_images(files, size), mean, std)
    else:
        images, _, _, mean, std = held_out(None, size, data_root)
    measured = check_mixer(source, images, mean, std)
    faults = faults_of(measured)
    verdict = "verdict: masks have shapes and follow lambda" if not faults else "verdict: " + "; ".join(faults)
    return MixerReport(
        f"{describe(network)}\nspread within a mask {measured['std']:.3f}, correlation of its mean with lambda "
        f"{measured['correlation']:.3f}, |mean - lambda| {measured['error']:.3f}, "
        f"{measured['adjusted_error']:.4f} when adjusted\n{verdict}",
        faults,
    )


def faults_of(measured: dict[str, float]) -> tuple[str, ...]:
    """Lists the faults that the figures of :func:`check_mixer` show."""
    faults = []
    if measured["std"] < LEAST_SPREAD:
        faults.append(f"masks are grey (spread below {LEAST_SPREAD}): it mixes as MixUp does")
    if measured["correlation"] < LEAST_CORRELATION:
        faults.append(f"masks do not follow lambda (correlation below {LEAST_CORRELATION})")
    if measured["adjusted_error"] > MOST_ERROR:
        faults.append(f"adjusted masks miss lambda by more than {MOST_ERROR}")
    return tuple(faults)
