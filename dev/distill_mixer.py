"""Distils a Mixer into score generators with one and two maps an image.

Example: ``python dev/distill_mixer.py --data /data/tiny-imagenet-200 --teacher slim --out OUT``.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import samix
from samix.mixers.distill import agreement, distill
from samix.mixers.score import ScoreMixerConfig

COUNT, BATCH = 4000, 64


def read_images(files: list[Path], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (N, 3, 64, 64), normalised."""
    stacked = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    shift, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return (torch.from_numpy(stacked).movedim(3, 1).float() / 255 - shift) / scale


def batches(images: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Random batches, half of them flipped, without end."""
    while True:
        rows = images[torch.randint(0, len(images), (BATCH,), generator=generator)]
        yield rows.flip(3) if torch.rand((), generator=generator) < 0.5 else rows


def main() -> None:
    """Distils, writes the folders, and prints the agreement on 1,000 unseen pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", default="slim")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    teacher = samix.Mixer.from_pretrained(options.teacher).loaded
    normalization = teacher.config.mean, teacher.config.std
    files = sorted((options.data / "train").rglob("*.JPEG"))
    images = read_images(files[:: len(files) // COUNT], *normalization)
    unseen = read_images(sorted((options.data / "val" / "images").iterdir())[:1000], *normalization)
    for maps in (1, 2):
        generator = torch.Generator().manual_seed(maps)
        config = ScoreMixerConfig(maps=maps)
        student = distill(teacher, batches(images, generator), options.steps, config, generator=generator)
        about = {**teacher.config.about, "distilled_from": options.teacher}
        student.config = dataclasses.replace(student.config, about=about)
        student.save_pretrained(options.out / f"maps-{maps}")
        shares = ", ".join(f"{agreement(teacher, student, unseen, lam):.1%} at {lam}" for lam in (0.3, 0.5, 0.7))
        print(f"{maps} maps: the same side of 1/2 in {shares}", flush=True)


if __name__ == "__main__":
    main()
