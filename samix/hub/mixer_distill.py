"""Distils a Mixer into a score generator on a data set's images, as a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from samix.data import ImageSet, load_data, normalize
from samix.data.on_device import decode_all
from samix.data.transforms import Fit
from samix.hub.mixer_export import check_target, describe
from samix.mixers.distill import agreement, distill
from samix.mixers.folder import CARD, MixerWithEncoder
from samix.mixers.pretrained import SHIPPED
from samix.mixers.score import ScoreMixerConfig
from samix.runtime.environment import pick_device, versions

UNSEEN = 1000  # held-out images on which teacher and student are compared


def distill_mixer(
    source: str,
    folder: Path,
    data: str,
    *,
    limit: int = 4000,
    size: int = 64,
    maps: Literal[1, 2] = 1,
    width: int = 64,
    steps: int = 1000,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    device: str = "auto",
    data_root: str = "data",
) -> str:
    """Trains a score generator on a Mixer's masks, writes its folder and returns what to print.

    Args:
        source: of the teacher, see :meth:`samix.Mixer.from_pretrained`.
        folder: where to write.
        data: images to learn from, see :func:`samix.data.load_data`.
        limit: number of images; 0 uses all.
        size: side in pixels.
        maps: an image, 1 or 2.
        width: channels inside the head.
        steps: of training.
        batch_size: images a step, at least 2.
        lr: largest learning rate.
        seed: of images, lam, pairs and first weights.
        device: to train on.
        data_root: where torchvision's data sets lie.

    Raises:
        FileNotFoundError, ValueError: no Mixer or data there, or a folder that holds something else.
    """
    check_target(folder)
    where = pick_device(device)
    teacher = MixerWithEncoder.read(SHIPPED.get(source, source)).to(where)
    images = load_data(data, root=data_root, limit=limit or None, seed=seed)

    def read(part: ImageSet) -> Tensor:
        return normalize(decode_all(part, Fit(size, size), where), teacher.config.mean, teacher.config.std)

    if len(images.train) < batch_size:
        raise ValueError(f"batch_size must be at most the number of images, {len(images.train)}, got {batch_size}")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    batches = flipped_batches(read(images.train), batch_size, generator)
    config = ScoreMixerConfig(maps=maps, width=width)
    student = distill(teacher, batches, steps, config, lr=lr, generator=generator)
    known = teacher.config.about
    kept = {k: v for k, v in known.items() if k in ("encoder_weights", "licence")}
    about: dict[str, object] = {
        "trained_on": f"{images.name}, {len(images.train):,} images at {size} px, without labels",
        "distilled_from": f"{Path(source).name}, which was trained on {known.get('trained_on', 'unknown data')}",
        "training": f"{steps} steps of {batch_size} pairs, seed {seed}",
        **kept,
        "samix": versions()["samix"],
    }
    rows = torch.linspace(0, len(images.val) - 1, min(UNSEEN, len(images.val))).long()
    if len(rows) >= 2:
        unseen = read(images.val.subset(rows))
        shares = {lam: agreement(teacher, student, unseen, lam) for lam in (0.3, 0.5, 0.7)}
        about["same_side_as_the_teacher"] = ", ".join(f"{v:.1%} of cells at lambda {lam}" for lam, v in shares.items())
        about["unseen_pairs"] = len(rows)
    student.config = dataclasses.replace(student.config, about=about)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    student.save_pretrained(folder)
    return f"{folder}: {describe(student)}\n{about.get('same_side_as_the_teacher', 'no held-out images to compare on')}"


def flipped_batches(images: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random batches without end, half of them flipped."""
    while True:
        rows = images[torch.randint(0, len(images), (size,), generator=generator).to(images.device)]
        yield rows.flip(3) if torch.rand((), generator=generator) < 0.5 else rows
