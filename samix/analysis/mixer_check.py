"""How the masks of a trained Mixer behave: do they have shapes, and do they follow lambda?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Positional

from samix.data import load_images, normalize
from samix.hub.mixer_export import describe
from samix.mixers.folder import MixerWithEncoder
from samix.mixers.pretrained import SHIPPED, Mixer
from samix.runtime.typed_options import CheckedOptions, ImageSide
from samix.viz.mixes import mask_statistics
from samix.viz.show import held_out

LAMS = (0.1, 0.3, 0.5, 0.7, 0.9)
LEAST_SPREAD, LEAST_CORRELATION, MOST_ERROR = 0.02, 0.5, 0.05


@torch.no_grad()
def check_mixer(source: str, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """Measures the masks of a Mixer.

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
class MixerCheck(CheckedOptions):
    """Reads a Mixer and measures its masks over lambda.

    Args:
        path: path or hub id of the Mixer.
        images: image files to mix; empty takes digits.
        size: side of the images in pixels.
        data_root: folder of torchvision's data sets.
    """

    path: Positional[str]
    images: Positional[tuple[Path, ...]] = ()
    size: ImageSide = 64
    data_root: str = "data"

    def run(self) -> tuple[str, int]:
        """Returns the report, and the exit status: 1 for a Mixer with faults.

        Raises:
            FileNotFoundError, ValueError: not a Mixer, or one image only.
        """
        if len(self.images) == 1:
            raise ValueError("samix mixer check needs at least two images to mix, got one")
        network = MixerWithEncoder.read(SHIPPED.get(self.path, self.path))
        mean: Any = network.config.mean
        std: Any = network.config.std
        if self.images:
            images = normalize(load_images(self.images, self.size), mean, std)
        else:
            images, _, _, mean, std = held_out(None, self.size, self.data_root)
        measured = check_mixer(self.path, images, mean, std)
        faults = faults_of(measured)
        text = (
            f"{describe(network)}\nspread within a mask {measured['std']:.3f}, correlation of its mean with lambda "
            f"{measured['correlation']:.3f}, |mean - lambda| {measured['error']:.3f}, "
            f"{measured['adjusted_error']:.4f} when adjusted\n"
            f"verdict: {'; '.join(faults) or 'masks have shapes and follow lambda'}"
        )
        return text, 1 if faults else 0


def faults_of(measured: dict[str, float]) -> list[str]:
    """Lists the faults that the figures of :func:`check_mixer` show."""
    faults = []
    if measured["std"] < LEAST_SPREAD:
        faults.append(f"masks are grey (spread below {LEAST_SPREAD}): it mixes as MixUp does")
    if measured["correlation"] < LEAST_CORRELATION:
        faults.append(f"masks do not follow lambda (correlation below {LEAST_CORRELATION})")
    if measured["adjusted_error"] > MOST_ERROR:
        faults.append(f"adjusted masks miss lambda by more than {MOST_ERROR}")
    return faults
