"""Distils a Mixer into a score generator on a data set's images, as a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tyro.conf import Positional

from samix.data import ImageSet, load_data, normalize
from samix.data.on_device import decode_all
from samix.data.transforms import Fit
from samix.hub.mixer_export import check_target, describe
from samix.mixers.distill import agreement, distill
from samix.mixers.folder import CARD, MixerWithEncoder
from samix.mixers.pretrained import SHIPPED
from samix.mixers.score import ScoreMixerConfig
from samix.runtime.environment import pick_device, versions
from samix.runtime.typed_options import AtLeast2, CheckedOptions, Count, CountOr0, ImageSide, Positive, Seed

UNSEEN = 1000  # held-out images on which teacher and student are compared


@dataclass(frozen=True)
class MixerDistill(CheckedOptions):
    """Trains a score generator to predict the masks of a Mixer, on the same encoder.

    Args:
        path: path or hub id of the teacher.
        folder: folder to write.
        data: images to learn from, see ``samix train``; labels are not used.
        limit: number of images, balanced over the classes; 0 uses all. They are kept in memory.
        size: side of the images in pixels.
        maps: 1 scores an image alike as own and as partner; 2 scores it once for each role.
        width: channels inside the head.
        steps: number of training steps.
        batch_size: images a step.
        lr: largest learning rate.
        seed: seed of images, lam, pairs and first weights.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: folder of torchvision's data sets.
    """

    path: Positional[str]
    folder: Positional[Path]
    data: str
    limit: CountOr0 = 4000
    size: ImageSide = 64
    maps: Literal[1, 2] = 1
    width: Count = 64
    steps: Count = 1000
    batch_size: AtLeast2 = 64
    lr: Positive = 3e-3
    seed: Seed = 0
    device: str = "auto"
    data_root: str = "data"

    def run(self) -> tuple[str, int]:
        """Trains, writes the folder, and returns the agreement with the teacher and 0."""
        check_target(self.folder)
        device = pick_device(self.device)
        teacher = MixerWithEncoder.read(SHIPPED.get(self.path, self.path)).to(device)
        images = load_data(self.data, root=self.data_root, limit=self.limit or None, seed=self.seed)

        def read(part: ImageSet) -> Tensor:
            pixels = decode_all(part, Fit(self.size, self.size), device)
            return normalize(pixels, teacher.config.mean, teacher.config.std)

        count = len(images.train)
        if count < self.batch_size:
            raise ValueError(f"batch_size must be at most the number of images, {count}, got {self.batch_size}")
        torch.manual_seed(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        batches = flipped_batches(read(images.train), self.batch_size, generator)
        config = ScoreMixerConfig(maps=self.maps, width=self.width)
        student = distill(teacher, batches, self.steps, config, lr=self.lr, generator=generator)
        known = teacher.config.about
        about: dict[str, object] = {
            "trained_on": f"{images.name}, {count:,} images at {self.size} px, without labels",
            "distilled_from": f"{Path(self.path).name}, which was trained on {known.get('trained_on', 'unknown data')}",
            "training": f"{self.steps} steps of {self.batch_size} pairs, seed {self.seed}",
            **{k: v for k, v in known.items() if k in ("encoder_weights", "licence")},
            "samix": versions()["samix"],
        }
        compared = "no held-out images to compare on"
        rows = torch.linspace(0, len(images.val) - 1, min(UNSEEN, len(images.val))).long()
        if len(rows) >= 2:
            unseen = read(images.val.subset(rows))
            shares = {lam: agreement(teacher, student, unseen, lam) for lam in (0.3, 0.5, 0.7)}
            compared = ", ".join(f"{share:.1%} of cells at lambda {lam}" for lam, share in shares.items())
            about |= {"same_side_as_the_teacher": compared, "unseen_pairs": len(rows)}
        student.config = dataclasses.replace(student.config, about=about)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / CARD).unlink(missing_ok=True)
        student.save_pretrained(self.folder)
        return f"{self.folder}: {describe(student)}\n{compared}", 0


def flipped_batches(images: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields random batches without end, half of them flipped."""
    while True:
        rows = images[torch.randint(0, len(images), (size,), generator=generator).to(images.device)]
        yield rows.flip(3) if torch.rand((), generator=generator) < 0.5 else rows
