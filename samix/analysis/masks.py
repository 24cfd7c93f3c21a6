"""``masks``: do masks follow lambda, and since when in training?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from tyro.conf import Positional

from samix.analysis.base import LAMS, Findings, MixingAnalysis
from samix.analysis.subject import Subject, checkpoints, epoch_of
from samix.batch import MixedBatch
from samix.hub.load import load_trained
from samix.runtime.typed_options import CountOr0, Share
from samix.train.checkpoint import load_checkpoint
from samix.viz.figures import IMAGE_A, IMAGE_B, NEUTRAL, THIRD, label, panels
from samix.viz.mixes import mask_statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class MaskNumbers:
    """How masks follow lambda."""

    spread: float  # standard deviation within a mask, averaged over masks: 0 is plain mixup, 0.5 a binary mask of half
    correlation: float  # of the masks' means with lambda, 0 where either is constant
    error: float  # mean of |mean of a mask - lambda|
    lams: tuple[float, ...]  # lambda asked for
    means: tuple[float, ...]  # mean of all masks at each lambda


@dataclass(frozen=True)
class MaskHistory:
    """Mask statistics by epoch, as a run has logged them on its training batches or previews."""

    epochs: tuple[int, ...]  # with a log
    spread: tuple[float, ...]  # standard deviation within a mask
    error: tuple[float, ...]  # |mean of a mask - lambda|


@torch.no_grad()
def mask_numbers(mix: Callable[[float], MixedBatch | None], lams: Sequence[float]) -> MaskNumbers:
    """Measures the masks of fixed pairs at several lambdas in [0, 1].

    Raises:
        ValueError: no lambda, or a mixup without masks.
    """
    batches = [mix(float(lam)) for lam in lams]
    masked = [batch for batch in batches if batch is not None and batch.mask is not None]
    if not masked or len(masked) < len(batches):
        raise ValueError("this mixup gives no masks to measure; choose one that does, such as --mixup cutmix")
    statistics = mask_statistics(masked)
    means = [batch.mask.float().mean((1, 2, 3)) for batch in masked if batch.mask is not None]
    errors = torch.cat([(mean - float(lam)).abs() for mean, lam in zip(means, lams, strict=True)])
    return MaskNumbers(
        statistics["std"],
        statistics["correlation"],
        float(errors.mean()),
        tuple(map(float, lams)),
        tuple(float(mean.mean()) for mean in means),
    )


def mask_history(rows: Sequence[Mapping[str, float]]) -> MaskHistory:
    """Reads the mask statistics of ``metrics.jsonl``'s rows; empty where none were logged."""
    logged = [row for row in rows if "mask_std" in row and "mask_error" in row]
    return MaskHistory(
        tuple(int(row["epoch"]) for row in logged),
        tuple(float(row["mask_std"]) for row in logged),
        tuple(float(row["mask_error"]) for row in logged),
    )


def draw(measured: Sequence[tuple[str, int, MaskNumbers]], history: MaskHistory, title: str) -> Figure:
    """Draws the masks' mean by lambda for each checkpoint, and spread and error by epoch."""
    fig, (left, right) = panels(2, title, 4.4)
    left.plot([0, 1], [0, 1], color=NEUTRAL, ls=":", lw=1)
    for number, (name, _, numbers) in enumerate(measured):
        shade = (IMAGE_A, IMAGE_B, THIRD)[number % 3]
        text = f"{name}: correlation {numbers.correlation:.3f}, error {numbers.error:.3f}"
        left.plot(numbers.lams, numbers.means, color=shade, ls=("-", "--")[number // 3 % 2], marker=".", label=text)
    left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.25))
    label(left, "masks follow λ", "λ", "mean of the masks", legend="upper left")
    epochs = [epoch for _, epoch, _ in measured]
    for logged, values, colour, name in (
        (history.spread, [numbers.spread for *_, numbers in measured], IMAGE_A, "spread within a mask"),
        (history.error, [numbers.error for *_, numbers in measured], IMAGE_B, "|mean − λ|"),
    ):
        if history.epochs:
            right.plot(history.epochs, logged, color=colour, label=f"{name}, in training")
        right.plot(epochs, values, color=colour, marker="o", ls="", label=f"{name}, checkpoints")
    right.set_ylim(bottom=0)
    right.locator_params(axis="x", integer=True)
    label(right, "through training", "epoch")
    return fig


@dataclass(frozen=True)
class Masks(MixingAnalysis):
    """Mask statistics through training: spread, correlation with lambda, error.

    Args:
        more: further runs or checkpoints; of a run's folder each checkpoint in it is measured.
        lams: shares of image A.
    """

    name: ClassVar[str] = "masks"

    images: CountOr0 = 100
    more: Positional[tuple[Path, ...]] = ()
    lams: tuple[Share, ...] = LAMS

    def analyse(self, subject: Subject) -> Findings:
        """Measures every checkpoint on the same pairs, and reads the log of the first run."""
        index = subject.partners(self.seed)
        first = checkpoints(self.source)
        paths = first + [path for source in self.more for path in checkpoints(source)]
        measured = []
        for path in paths:
            method = load_trained(path).method
            method = None if method is None else method.to(subject.images.device)
            mix, _ = dataclasses.replace(subject, source=path, method=method).mixing(self.mixup, index, self.seed)
            name = path.stem if len(paths) == len(first) else f"{path.parent.name}/{path.stem}"
            measured.append((name, epoch_of(path), mask_numbers(mix, self.lams)))
        history = mask_history(load_checkpoint(first[-1])["rows"])
        name, _, last = measured[-1]
        line = (
            f"{name}: spread within a mask {last.spread:.3f}, correlation of its mean with lambda "
            f"{last.correlation:.3f}, |mean - lambda| {last.error:.3f}"
        )
        rows = [{"name": name, "epoch": epoch, **dataclasses.asdict(numbers)} for name, epoch, numbers in measured]
        figure = draw(measured, history, subject.title)
        return Findings(line, {"checkpoints": rows, "history": history}, figure)
