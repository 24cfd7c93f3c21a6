"""``samix analyse lambda | calibration | robustness | occlusion``: what a classifier says of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from samix.analysis import pictures
from samix.analysis.base import LAMS, Analysis, paint, pixels_of
from samix.analysis.calibration import calibration
from samix.analysis.corruptions import CORRUPTIONS
from samix.analysis.occlusion import cell_saliency, drop_patches, occlusion_curve
from samix.analysis.prediction import lambda_curve
from samix.analysis.robustness import attack_curve, corruption_table, pgd_curve
from samix.analysis.subject import Subject
from samix.runtime.checks import COUNT_OR_0, SHARE, Range, Ranges
from samix.train.metrics import BINS


@dataclass(frozen=True)
class Lambda(Analysis):
    """Prediction against lambda: does a mixed image carry both labels in proportion?

    Args:
        mixup: by which images are mixed, by name or mixer:PATH; empty takes the run's own, or mixup.
        lams: shares of the own image.
    """

    name: ClassVar[str] = "lambda"
    ranges: ClassVar[Ranges] = {"lams": SHARE}

    mixup: str = ""
    lams: tuple[float, ...] = LAMS

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Mixes each image with one of another class where there is one."""
        mix, name = subject.classified().mixing(self.mixup, subject.partners(self.seed), self.seed)
        found = lambda_curve(subject.predict, mix, self.lams)
        classes = subject.predict(subject.images[:1]).shape[1]
        paint(path, lambda p: pictures.draw_lambda(p, found, classes, f"{subject.title}; mixed by {name}"))
        middle = min(range(len(found.lams)), key=lambda n: abs(found.lams[n] - 0.5))
        line = (
            f"mixed by {name}, at lambda {found.lams[middle]:g} top-1 in {{a, b}} {found.either[middle]:.1f} %, "
            f"top-2 = {{a, b}} {found.both[middle]:.1f} %; share of a off by {found.error:.3f} over all lambdas"
        )
        return line, {"mixup": name, "result": found}


@dataclass(frozen=True)
class CalibrationAnalysis(Analysis):
    """Calibration: expected calibration error, reliability diagram, overconfidence.

    Args:
        bins: of equal width.
    """

    name: ClassVar[str] = "calibration"
    ranges: ClassVar[Ranges] = {"bins": Range(1, 10_000)}

    images: int = 0
    bins: int = BINS

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """On unmixed images."""
        logits = subject.classified().predict(subject.images)
        found = calibration(logits.softmax(1), subject.labels, self.bins)
        paint(path, lambda p: pictures.draw_calibration(p, found, subject.title))
        line = (
            f"ECE {found.ece:.2f} % in {self.bins} bins, largest gap {found.mce:.2f} %, overconfidence "
            f"{found.overconfidence:+.2f} %, overconfidence error {found.overconfidence_error:.2f} %"
        )
        return line, {"result": found}


@dataclass(frozen=True)
class Robustness(Analysis):
    """Accuracy under FGSM and PGD, and under common corruptions.

    Args:
        epsilons: largest change of a pixel, in 1/255.
        pgd_steps: of projected gradient descent, each as much work as FGSM; 0 leaves it out.
        corruptions: by name; empty takes all.
    """

    name: ClassVar[str] = "robustness"
    ranges: ClassVar[Ranges] = {"epsilons": Range(0, 255), "pgd_steps": COUNT_OR_0}

    epsilons: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
    pgd_steps: int = 10
    corruptions: tuple[str, ...] = ()

    def check(self) -> None:
        """Names before the work."""
        unknown = [name for name in self.corruptions if name not in CORRUPTIONS]
        if not self.epsilons:
            raise ValueError("--epsilons must be one or more numbers")
        if unknown:
            raise ValueError(f"--corruptions must be among {', '.join(CORRUPTIONS)}; got {', '.join(unknown)}")

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """All on the same images."""
        given = (subject.classified().network, subject.images, subject.labels)
        scale = (subject.mean, subject.std)
        epsilons = [epsilon / 255.0 for epsilon in self.epsilons]
        attack = attack_curve(*given, epsilons, *scale, batch_size=self.batch_size)
        seed, batch, descent = self.seed, self.batch_size, None
        if self.pgd_steps:
            descent = pgd_curve(*given, epsilons, *scale, steps=self.pgd_steps, seed=seed, batch_size=batch)
        table = corruption_table(*given, *scale, self.corruptions, seed=seed, batch_size=batch)
        classes = subject.predict(subject.images[:1]).shape[1]
        paint(path, lambda p: pictures.draw_robustness(p, attack, descent, table, classes, subject.title))
        by_descent = f", PGD-{self.pgd_steps} {descent.accuracy[-1]:.1f} %" if descent else ""
        line = (
            f"clean {table.clean:.1f} %, FGSM {self.epsilons[-1]:g}/255 {attack.accuracy[-1]:.1f} %{by_descent}, "
            f"mean of {len(table.names)} corruptions {table.mean:.1f} %"
        )
        return line, {"fgsm": attack, **({"pgd": descent} if descent else {}), "corruptions": table}


@dataclass(frozen=True)
class Occlusion(Analysis):
    """Accuracy against the share of patches dropped: by chance, most or least salient first.

    Args:
        shares: of the patches dropped.
        grid: cells per side for networks that are no plain ViT.
    """

    name: ClassVar[str] = "occlusion"
    ranges: ClassVar[Ranges] = {"shares": SHARE, "grid": Range(1, 1024)}

    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    grid: int = 8

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """A plain ViT's patches, or cells of a grid."""
        images, labels = subject.classified().images, subject.labels
        guide, kind = cell_saliency(subject.network, images, labels, self.grid, self.batch_size)
        found = occlusion_curve(subject.predict, images, labels, guide, self.shares, seed=self.seed)
        random = torch.rand(guide[:1].shape, generator=torch.Generator().manual_seed(self.seed)).to(guide.device)
        scores = ((random, 0.0), (random, 0.5), (guide[:1], 0.25), (-guide[:1], 0.25))
        examples = [pixels_of(subject, drop_patches(images[:1], score, share))[0] for score, share in scores]
        heads = ("whole", "random 50 %", "salient 25 %", "non-salient 25 %")
        paint(path, lambda p: pictures.draw_occlusion(p, found, examples, heads, kind, subject.title))
        near = min(range(len(found.shares)), key=lambda n: abs(found.shares[n] - 0.5))
        line = (
            f"top-1 with {100 * found.shares[near]:g} % of {guide.shape[1]} x {guide.shape[2]} patches dropped: random "
            f"{found.random[near]:.1f} %, salient {found.salient[near]:.1f} %, non-salient "
            f"{found.non_salient[near]:.1f} %; mean of the random curve {found.area:.1f} %"
        )
        return line, {"salience": kind, "grid": list(guide.shape[1:]), "result": found}
