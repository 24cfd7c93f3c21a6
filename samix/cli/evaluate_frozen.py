"""``samix evaluate knn | linear | svm | fewshot``: what frozen features are worth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from samix.cli.evaluate_base import Numbers, Options, line
from samix.data import FileImages, ImageData
from samix.data.images import file_names
from samix.eval.features import Features, extract, stage_features
from samix.eval.source import Source, scaled
from samix.runtime.checks import COUNT, COUNT_OR_0, POSITIVE, Range, Ranges


@dataclass(frozen=True)
class Knn(Options):
    """Weighted nearest neighbours on frozen features (Wu et al. 2018).

    Args:
        ks: numbers of neighbours, at most as many as training images; empty takes those of 10, 20, 100, 200 that are.
        temperature: of the votes; 0.1 with k = 200 is the monitor of CIFAR runs.
    """

    ranges: ClassVar[Ranges] = {"ks": COUNT, "temperature": POSITIVE}

    ks: tuple[int, ...] = ()
    temperature: float = 0.07

    def run(self) -> tuple[Numbers, str]:
        """``k10``, ``k20``, ...: top-1 in percent."""
        from samix.eval.knn import KS, knn_accuracy

        source = self.load()
        data = self.load_images(source)
        (bank, bank_labels), (queries, labels) = self.both(source, data, source.features)
        found = knn_accuracy(
            bank,
            bank_labels,
            queries,
            labels,
            ks=self.ks or [k for k in KS if k <= len(bank)] or [len(bank)],
            temperature=self.temperature,
            num_classes=data.num_classes,
        )
        numbers = {f"k{k}": value for k, value in found.items()}
        return numbers, line("kNN top-1 %", data.name, numbers)


@dataclass(frozen=True)
class Linear(Options):
    """Linear probe of a frozen backbone.

    Args:
        protocol: moco, moco-small, mocov3, samix-vits, simsiam, swav, barlow, simclr or imix.
        augmented: the protocol's own form, each epoch with newly varied images; else the quick form on features taken
            once, whose result is not the protocol's number.
        lrs: learning rates in the place of the protocol's, trained side by side.
        epochs: in the place of the protocol's; 0 keeps it. Steps of the learning rate move in proportion.
    """

    ranges: ClassVar[Ranges] = {"lrs": POSITIVE, "epochs": COUNT_OR_0}

    protocol: str = "moco"
    augmented: bool = False
    lrs: tuple[float, ...] = ()
    epochs: int = 0

    def run(self) -> tuple[Numbers, str]:
        """``top1`` and ``top5`` in percent of the best rate, the rate ``lr``, and ``top1@RATE`` of each of several."""
        from samix.eval.linear import probe_augmented, probe_features, protocol_named

        protocol = protocol_named(self.protocol)
        if self.epochs:
            steps = tuple(round(step * self.epochs / protocol.epochs) for step in protocol.steps)
            protocol = dataclasses.replace(protocol, epochs=self.epochs, steps=steps)
        protocol = dataclasses.replace(protocol, batch_size=self.batch_size or protocol.batch_size)
        source = self.load()
        data = self.load_images(source)
        if self.augmented:
            batches = self.train_batches(source, data, protocol.batch_size)
            probe = probe_augmented(source.features, batches, data.num_classes, protocol, lrs=self.lrs, seed=self.seed)
            test = extract(source.features, self.split(source, data, "val").batches())
        else:
            train, test = self.both(source, data, source.features)
            probe = probe_features(*train, data.num_classes, protocol, lrs=self.lrs, seed=self.seed)
        found = probe.accuracy(*test)
        best = max(found, key=lambda lr: found[lr]["top1"])
        numbers = {**found[best], "lr": best}
        if len(found) > 1:
            numbers |= {f"top1@{lr:g}": row["top1"] for lr, row in found.items()}
        form = "augmented" if self.augmented else "features"
        chosen = f", best of {len(found)} rates on the test images" if len(found) > 1 else ""
        return numbers, line(f"linear probe ({self.protocol}, {form}{chosen}), %", data.name, numbers)


@dataclass(frozen=True)
class Svm(Options):
    """Linear SVM on frozen features; mean average precision with ``--data voc07:DIR``, else top-1.

    Args:
        stage: take features after an inner stage of a timm network, as timm counts them; None takes the pooled ones.
        costs: to choose from by cross-validation; empty takes the protocol's nineteen.
    """

    ranges: ClassVar[Ranges] = {"stage": Range(), "costs": POSITIVE}

    stage: int | None = None
    costs: tuple[float, ...] = ()

    def run(self) -> tuple[Numbers, str]:
        """``map``, or ``top1`` and ``cost``; and ``unconverged``."""
        from samix.eval.svm import COSTS, Fit, svm_accuracy, svm_map

        source = self.load()
        features = source.features if self.stage is None else stage_features(source.backbone, self.stage)
        fit = Fit(costs=self.costs or COSTS, seed=self.seed)
        if self.data.startswith("voc"):
            train, test = voc_features(self, source, features)
            numbers = svm_map(*train, *test, fit)
            return numbers, line("SVM mAP %", self.data.partition(":")[0], numbers)
        data = self.load_images(source)
        train, test = self.both(source, data, features)
        numbers = svm_accuracy(*train, *test, fit)
        return numbers, line("SVM top-1 %", data.name, numbers)


@dataclass(frozen=True)
class Fewshot(Options):
    """Linear SVMs from a few images of each class: mean average precision over draws.

    Args:
        shots: images of each class.
        draws: independent draws.
        costs: to choose from, the best on the test images for each number of shots; empty takes the protocol's.
    """

    ranges: ClassVar[Ranges] = {"shots": COUNT, "draws": COUNT, "costs": POSITIVE}

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    draws: int = 5
    costs: tuple[float, ...] = ()

    def run(self) -> tuple[Numbers, str]:
        """``map@K`` in percent and ``std@K`` over the draws."""
        from samix.eval.svm import COSTS, Fit, low_shot_map, one_hot_targets

        source = self.load()
        if self.data.startswith("voc"):
            name = self.data.partition(":")[0]
            train, test = voc_features(self, source, source.features)
        else:
            data = self.load_images(source)
            name = data.name
            train, test = (
                (found, one_hot_targets(labels, data.num_classes))
                for found, labels in self.both(source, data, source.features)
            )
        found = low_shot_map(
            *train,
            *test,
            shots=self.shots,
            draws=self.draws,
            seed=self.seed,
            fit=Fit(costs=self.costs or COSTS, seed=self.seed),
        )
        numbers = {f"{key}@{k}": row[key] for k, row in found.items() for key in ("map", "std")}
        return numbers, line("few-shot SVM mAP %", name, numbers)


def voc_features(
    options: Options, source: Source, features: Features
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Features and (N, K) targets of a VOC data set, train and test."""
    from samix.eval.boxes import image_targets, load_boxes

    boxes = load_boxes(options.data)
    root = Path(options.data.partition(":")[2]).expanduser()

    def images(files: tuple[Path, ...]) -> FileImages:
        names = file_names([str(file.relative_to(root)) for file in files])
        return FileImages(root, names, torch.zeros(len(files), dtype=torch.int64))

    # labels of several classes do not fit an ImageData: its one class stands for "image"
    data = scaled(ImageData("voc", images(boxes.train.files), images(boxes.test.files), ("image",)), source)
    (train, _), (test, _) = options.both(source, data, features)
    count = len(boxes.class_names)
    return (train, image_targets(boxes.train.objects, count)), (test, image_targets(boxes.test.objects, count))
