"""`ImageData`: a data set with its two splits, checked; and `DataSummary`, what a user is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from samix.data.images import ImageSet
from samix.data.spec import IMAGENET_MEAN, IMAGENET_STD, Channels

NAMED = 4  # reasons and notes of a summary


@dataclass(frozen=True)
class DataSummary:
    """The numbers of a data set."""

    images: int  # to train on
    classes: int  # of these images; 0 without labels
    held_out: int  # images to test on
    left_out: Mapping[str, int]  # number of files that were not taken, by reason
    notes: tuple[str, ...] = ()  # further facts, as short phrases

    def __str__(self) -> str:
        of = f"of {_count(self.classes, 'class')}" if self.classes else "without labels"
        line = f"{_count(self.images, 'image')} {of}, {self.held_out:,} held out"
        if self.images == 0:
            line = f"{_count(self.held_out, 'image')} {of}"
        for note in self.notes[:NAMED]:
            line += f"; {note}"
        if self.left_out:
            by_count = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            reasons = [f"{count} {reason}" for reason, count in by_count[:NAMED]]
            if len(by_count) > NAMED:
                reasons.append(f"{sum(count for _, count in by_count[NAMED:])} for other reasons")
            line += f"; left out: {', '.join(reasons)}"
        return line


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set with its two splits.

    Where `train` has no labels (all -1), it serves for training without labels alone; `val` may then be empty.

    Args:
        name: that of its `DatasetSpec`.
        train: images to learn from.
        val: images to test on.
        class_names: one per label; none where no split has labels.
        mean: of the three channels, with pixels in [0, 1].
        std: of the three channels, with pixels in [0, 1].
        native_size: side in pixels where all images are squares of one size, else None.
        labelled: further images to learn from, with labels, where `train` has none.
        left_out: number of files that were not taken, by reason.
        notes: further facts for the user, as short phrases.
        evaluation_only: `train` is empty; `val` may lack classes.

    Raises:
        ValueError: a split is empty, a label is out of range, some images have labels and others none, or a class has
            no training image.
    """

    name: str
    train: ImageSet
    val: ImageSet
    class_names: tuple[str, ...]
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    native_size: int | None = None
    labelled: ImageSet | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evaluation_only: bool = False

    def __post_init__(self) -> None:
        if self.evaluation_only:
            self._check_val()
            return
        if len(self.train) == 0:
            raise ValueError(f"{self.name}: the train split has no images")
        if not self.has_labels:
            self._check_unlabelled()
            return
        if self.labelled is not None:
            raise ValueError(f"{self.name}: labelled is for a train split without labels; leave it out")
        self._check_val()
        self._check_range("train", self.train)
        counts = self.train.labels.bincount(minlength=len(self.class_names))
        if int(counts.min()) == 0:
            empty = int(counts.argmin())
            raise ValueError(
                f"{self.name}: class {empty} ({self.class_names[empty]!r}) has no training image; "
                "add some, or number the classes without gaps"
            )

    def _check_val(self) -> None:
        if len(self.val) == 0:
            raise ValueError(f"{self.name}: the val split has no images")
        self._check_range("val", self.val)

    def _check_range(self, split: str, images: ImageSet) -> None:
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"{self.name}: the labels of {split} must be in 0..{len(self.class_names) - 1}, got {low}..{high}"
            )

    def _check_unlabelled(self) -> None:
        """Checks val and labelled beside a train split without labels: labels in range, or none at all."""
        if self.labelled is not None:
            self.with_labels()  # which checks both
        elif len(self.val) > 0 and int(self.val.labels.max()) >= 0:
            self._check_range("val", self.val)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels to learn from, or to evaluate with."""
        return self.evaluation_only or int(self.train.labels.max()) >= 0

    @property
    def num_classes(self) -> int:
        """Number of classes that can be learned from the train split; 0 where it has no labels."""
        return len(self.class_names) if self.has_labels else 0

    @property
    def summary(self) -> DataSummary:
        """Numbers of images, classes and files that were left out."""
        classes = len(set(self.val.labels.tolist())) if self.evaluation_only else self.num_classes
        return DataSummary(len(self.train), classes, len(self.val), self.left_out, self.notes)

    def describe(self) -> str:
        """Says the summary in a line, such as "24 images of 3 classes, 12 held out"."""
        return str(self.summary)

    def require_labels(self) -> None:
        """Refuses a data set that is for training without labels alone.

        Raises:
            ValueError: the train split has no labels.
        """
        if not self.has_labels:
            raise ValueError(
                f"{self.name} has no labels to learn from; use `samix pretrain`, which needs none, "
                "or data with a folder or a label for each class"
            )

    def with_labels(self) -> ImageData | None:
        """Returns the data set to evaluate features on: this one, or labelled images and val; None without labels."""
        if self.has_labels:
            return self
        return None if self.labelled is None else replace(self, train=self.labelled, labelled=None)
