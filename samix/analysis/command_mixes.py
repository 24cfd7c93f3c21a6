"""``samix analyse information | masks``: what mixing does to images, and how masks follow lambda."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from tyro.conf import Positional

from samix.analysis import pictures
from samix.analysis.base import LAMS, Analysis, paint, plain
from samix.analysis.information import information_curve
from samix.analysis.masks import mask_history, mask_numbers
from samix.analysis.subject import Subject, checkpoints, epoch_of, read_source
from samix.runtime.checks import COUNT, IMAGE_SIDE, SHARE, Ranges
from samix.train.checkpoint import load_checkpoint


@dataclass(frozen=True)
class InformationAnalysis(Analysis):
    """Mutual information between mixed and source images, by MINE.

    Args:
        mixup: by which images are mixed, by name or mixer:PATH; empty takes the run's own, or mixup.
        lams: shares of the own image.
        rounds: how often each image is mixed, each time with another partner.
        side: images are averaged to this many cells per side.
        steps: of each critic.
    """

    name: ClassVar[str] = "information"
    ranges: ClassVar[Ranges] = {"lams": SHARE, "rounds": COUNT, "side": IMAGE_SIDE, "steps": COUNT}

    images: int = 1000
    mixup: str = ""
    lams: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    rounds: int = 4
    side: int = 8
    steps: int = 300

    def check(self) -> None:
        """At least one lambda."""
        if not self.lams:
            raise ValueError("--lams must be one or more numbers")

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Mixes all images several times, so that the critic sees many pairs."""
        indices = [subject.partners(self.seed + n) for n in range(self.rounds)]
        mixes = [subject.mixing(self.mixup, index, self.seed + n) for n, index in enumerate(indices)]

        def mixed(lam: float) -> tuple[Tensor, Tensor, Tensor]:
            # image by image, so that the pairs tested on are of images that were not trained on
            images = torch.stack([mix(lam).images for mix, _ in mixes], 1).flatten(0, 1)
            partners = torch.stack([subject.images[index] for index in indices], 1).flatten(0, 1)
            return images, subject.images.repeat_interleave(self.rounds, 0), partners

        found = information_curve(mixed, self.lams, side=self.side, steps=self.steps, seed=self.seed)
        name = mixes[0][1]
        paint(path, lambda p: pictures.draw_information(p, found, f"{subject.data.name}; mixed by {name}"))
        near = min(range(len(found.lams)), key=lambda n: abs(found.lams[n] - 0.5))
        line = (
            f"mixed by {name}, at lambda {found.lams[near]:g}: at least {found.own[near]:.2f} nats of the own image, "
            f"{found.partner[near]:.2f} of the partner"
        )
        return line, {"mixup": name, "result": found}


@dataclass(frozen=True)
class Masks(Analysis):
    """Mask statistics through training: spread, correlation with lambda, error.

    Args:
        more: further runs or checkpoints; of a run's folder each checkpoint in it is measured.
        mixup: measure this mixup instead, by name or mixer:PATH.
        lams: shares of the own image.
    """

    name: ClassVar[str] = "masks"
    ranges: ClassVar[Ranges] = {"lams": SHARE}

    images: int = 100
    more: Positional[tuple[Path, ...]] = ()
    mixup: str = ""
    lams: tuple[float, ...] = LAMS

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Every checkpoint on the same pairs, and the log of the first."""
        index = subject.partners(self.seed)
        places = [one for source in (self.source, *self.more) for one in checkpoints(source)]
        found = []
        for place in places:
            method = read_source(place)[1]
            at = dataclasses.replace(
                subject, source=place, method=None if method is None else method.to(subject.images.device)
            )
            mix, _ = at.mixing(self.mixup, index, self.seed)
            name = place.stem if len(places) == len(checkpoints(self.source)) else f"{place.parent.name}/{place.stem}"
            found.append((name, epoch_of(place), mask_numbers(mix, self.lams)))
        history = mask_history(load_checkpoint(checkpoints(self.source)[-1])["rows"])
        paint(path, lambda p: pictures.draw_masks(p, found, history, subject.title))
        told = found[-1][2]
        line = (
            f"{found[-1][0]}: spread within a mask {told.spread:.3f}, correlation of its mean with lambda "
            f"{told.correlation:.3f}, |mean - lambda| {told.error:.3f}"
        )
        measured = [{"name": name, "epoch": epoch, **plain(numbers)} for name, epoch, numbers in found]
        return line, {"checkpoints": measured, "history": history}
