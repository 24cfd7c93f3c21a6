"""Linear SVMs on frozen features: images with several labels as in VOC07, few labelled images, and plain classes.

The protocol is that of Goyal et al. 2019 (arXiv:1905.01235): features divided by their L2 norm, one SVM for each class,
its cost chosen by cross-validation, mean average precision on the test split. Targets are (N, K): 1 the class is there,
0 it is not, -1 neither counts (in VOC: only "difficult" objects of the class).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samix.data.order import stream_seed

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
FOLDS = 3
Array: TypeAlias = npt.NDArray[np.generic]
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


def average_precision(targets: Array, scores: Array) -> float:
    """Computes the area under the monotone envelope of precision over recall; not VOC07's 11-point value.

    The envelope at a recall is the largest precision at that recall or above. Images of one score enter together, so
    that their order does not matter.

    Args:
        targets: (N,) true or 1 where the class is there.
        scores: (N,), higher is surer.

    Returns:
        In [0, 1].

    Raises:
        ValueError: no positive, or scores that are not finite.
    """
    from sklearn.metrics import precision_recall_curve

    positive = np.asarray(targets).astype(bool)
    values = np.asarray(scores, dtype=np.float64)
    if not positive.any():
        raise ValueError("average precision needs at least one positive, got none")
    if not np.isfinite(values).all():
        raise ValueError("average precision needs finite scores")
    precision, recall, _ = precision_recall_curve(positive, values)  # recall falls
    envelope = np.maximum.accumulate(precision)
    return float(-(np.diff(recall) * envelope[:-1]).sum())


def svm_features(features: Tensor) -> Floats:
    """Converts features to (N, F) float64, each row divided by its L2 norm + 1e-5."""
    rows = features.detach().cpu().double()
    return (rows / (rows.norm(dim=1, keepdim=True) + 1e-5)).numpy()  # type: ignore[no-any-return]


@dataclass
class Fit:
    """Settings of every SVM. ``unconverged`` counts those that stopped at ``max_iter``, which the protocol allows."""

    costs: Sequence[float] = COSTS  # to choose from
    folds: int = FOLDS  # of the cross-validation
    max_iter: int = 2000  # of the solver
    seed: int = 0  # of the solver
    unconverged: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.costs or min(self.costs) <= 0:
            raise ValueError(f"costs must be positive numbers, at least one, got {tuple(self.costs)}")
        if self.folds < 2 or self.max_iter < 1:
            raise ValueError(f"folds must be at least 2 and max_iter at least 1, got {self.folds}, {self.max_iter}")

    def one(self, features: Floats, labels: Array, cost: float, *, weighted: bool) -> LinearSVC:
        """Fits a LinearSVC: squared hinge, L2, dual; with weights 2 and 1 for classes 1 and -1 where ``weighted``."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        svm = LinearSVC(
            C=cost,
            class_weight={1: 2, -1: 1} if weighted else None,
            penalty="l2",
            loss="squared_hinge",
            dual=True,
            tol=1e-4,
            max_iter=self.max_iter,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
            svm.fit(features, labels)
        self.unconverged += int(np.max(svm.n_iter_) >= self.max_iter)
        return svm

    def best_cost(self, features: Floats, labels: Array, *, weighted: bool) -> float:
        """Returns the first cost with the best cross-validated score: AP if ``weighted``, else accuracy."""
        from sklearn.model_selection import StratifiedKFold

        if len(self.costs) == 1:
            return self.costs[0]
        smallest = int(np.unique(labels, return_counts=True)[1].min())
        if smallest < self.folds:
            raise ValueError(
                f"{self.folds}-fold cross-validation needs {self.folds} images of each class, one has {smallest}; give "
                "one cost, so that none has to be chosen"
            )
        scores = np.zeros((len(self.costs), self.folds))
        for fold, (train, test) in enumerate(StratifiedKFold(self.folds).split(labels, labels)):
            for row, cost in enumerate(self.costs):
                svm = self.one(features[train], labels[train], cost, weighted=weighted)
                if weighted:
                    scores[row, fold] = average_precision(labels[test] == 1, svm.decision_function(features[test]))
                else:
                    scores[row, fold] = float(svm.score(features[test], labels[test]))
        return self.costs[int(scores.mean(1).argmax())]

    def mean_precision(
        self, x: Floats, targets: Integers, y: Floats, wanted: Integers, cost: float | None = None
    ) -> float:
        """Returns the mean average precision over the classes, in [0, 1]; cost None chooses one for each class."""
        values = []
        for number in range(targets.shape[1]):
            rows, labels = binary(targets, number)
            test_rows, test_labels = binary(wanted, number)
            chosen = self.best_cost(x[rows], labels, weighted=True) if cost is None else cost
            svm = self.one(x[rows], labels, chosen, weighted=True)
            values.append(average_precision(test_labels == 1, svm.decision_function(y[test_rows])))
        return float(np.mean(values))


def check_targets(features: Floats, targets: Integers, split: str) -> None:
    """Raises ValueError unless targets are (N, K) of 1, 0 and -1, with a positive and a negative of every class."""
    if targets.ndim != 2 or len(targets) != len(features) or not np.isin(targets, (-1, 0, 1)).all():
        raise ValueError(
            f"{split} targets must be ({len(features)}, K) of 1, 0 and -1 (not counted), got shape {targets.shape}"
        )
    for value, word in ((1, "positive"), (0, "negative")):
        count = (targets == value).sum(0)
        if count.min() == 0:
            raise ValueError(f"class {int(count.argmin())} has no {word} image in the {split} split")


def binary(targets: Integers, number: int) -> tuple[npt.NDArray[np.intp], Integers]:
    """Returns the rows that count for a class, and their labels 1 and -1."""
    rows = np.flatnonzero(targets[:, number] != -1)
    return rows, np.where(targets[rows, number] == 1, 1, -1)


def svm_map(
    train: Tensor, train_targets: Tensor, test: Tensor, test_targets: Tensor, fit: Fit | None = None
) -> dict[str, float]:
    """Computes the mean average precision of one SVM for each class, its cost chosen by 3-fold cross-validation.

    Args:
        train: (N, F) features.
        train_targets: (N, K) of 1, 0 and -1.
        test: (M, F).
        test_targets: (M, K).
        fit: settings; None takes the protocol's.

    Returns:
        ``map`` in percent, and ``unconverged``, the SVMs that stopped at max_iter.

    Raises:
        ValueError: wrong shapes or values, or a class without positives or negatives.
    """
    fit = fit or Fit()
    x, y = svm_features(train), svm_features(test)
    targets, wanted = train_targets.cpu().numpy(), test_targets.cpu().numpy()
    check_targets(x, targets, "train")
    check_targets(y, wanted, "test")
    return {"map": 100.0 * fit.mean_precision(x, targets, y, wanted), "unconverged": float(fit.unconverged)}


def svm_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, fit: Fit | None = None
) -> dict[str, float]:
    """Computes top-1 of a multi-class linear SVM (one against the rest), for plain class labels; no paper's protocol.

    Features as in :func:`svm_map`; one cost for all classes, by cross-validated accuracy; no class weights.

    Returns:
        ``top1`` in percent, ``cost``, and ``unconverged``.
    """
    fit = fit or Fit()
    x, y = svm_features(train), svm_features(test)
    labels, wanted = train_labels.cpu().numpy(), test_labels.cpu().numpy()
    cost = fit.best_cost(x, labels, weighted=False)
    top1 = 100.0 * float(fit.one(x, labels, cost, weighted=False).score(y, wanted))
    return {"top1": top1, "cost": cost, "unconverged": float(fit.unconverged)}


def low_shot_rows(targets: Tensor, shots: int, draw: int = 0, seed: int = 0) -> Tensor:
    """Draws positives of each class at random without repetition.

    The order of a class's positives depends on (seed, draw, class) alone, so a smaller draw is part of a larger one.

    Args:
        targets: (N, K) of 1, 0 and -1.
        shots: k, positives of each class.
        draw: which of the independent draws.
        seed: of all draws.

    Returns:
        (K, k) int64 rows.

    Raises:
        ValueError: a class with fewer positives, or shots < 1.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    drawn = []
    for number, column in enumerate(targets.cpu().T):
        rows = (column == 1).nonzero().flatten()
        if len(rows) < shots:
            raise ValueError(f"class {number} has {len(rows)} positives, {shots} shots were asked for; ask for fewer")
        generator = torch.Generator().manual_seed(stream_seed("shots", seed, draw, number))
        drawn.append(rows[torch.randperm(len(rows), generator=generator)[:shots]])
    return torch.stack(drawn)


def low_shot_targets(targets: Tensor, shots: int, draw: int = 0, seed: int = 0) -> Tensor:
    """Keeps k positives of each class; its negatives are the other classes' images, all else does not count.

    An image drawn for another class that shows this one too is left out of this one, so that exactly k remain.
    Arguments and errors as of :func:`low_shot_rows`.

    Returns:
        (N, K) int64 of 1, 0 and -1.
    """
    rows = low_shot_rows(targets, shots, draw, seed)
    targets = targets.cpu()
    drawn = torch.zeros(len(targets), 1, dtype=torch.bool)
    drawn[rows.flatten()] = True
    few = torch.where(drawn & (targets == 0), 0, torch.full_like(targets, -1, dtype=torch.int64))
    return few.scatter_(0, rows.T, 1)


def low_shot_map(
    train: Tensor,
    train_targets: Tensor,
    test: Tensor,
    test_targets: Tensor,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = 5,
    seed: int = 0,
    fit: Fit | None = None,
) -> dict[int, dict[str, float]]:
    """Computes the mean average precision from k positives of each class, over independent draws.

    The cost is the best one for each k on the test split, as the benchmark reports it: too few images to choose by
    cross-validation.

    Features, targets and settings as of :func:`svm_map`; plain labels as :func:`one_hot_targets`.

    Args:
        shots: the ks.
        draws: independent draws.
        seed: of the draws.

    Returns:
        By k: ``map`` in percent, ``std`` over the draws (0 for one draw), and ``cost``.

    Raises:
        ValueError: fewer positives than shots, no draws, or wrong shapes or values.
    """
    if draws < 1 or not shots:
        raise ValueError(f"draws must be at least 1 and shots not empty, got {draws} and {tuple(shots)}")
    fit = fit or Fit(seed=seed)
    x, y = svm_features(train), svm_features(test)
    wanted = test_targets.cpu().numpy()
    check_targets(y, wanted, "test")
    results = {}
    for k in shots:
        scores = np.zeros((draws, len(fit.costs)))
        for draw in range(draws):
            targets = low_shot_targets(train_targets, k, draw, seed).numpy()
            check_targets(x, targets, f"{k}-shot")
            scores[draw] = [fit.mean_precision(x, targets, y, wanted, cost) for cost in fit.costs]
        best = int(scores.mean(0).argmax())
        std = float(scores[:, best].std(ddof=1)) if draws > 1 else 0.0
        results[k] = {"map": 100.0 * float(scores[:, best].mean()), "std": 100.0 * std, "cost": fit.costs[best]}
    return results


def one_hot_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Converts (N,) class ids to (N, K) targets of 1 and 0."""
    return torch.nn.functional.one_hot(labels.cpu(), num_classes)
