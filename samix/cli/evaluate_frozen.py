"""``samix evaluate knn | linear | svm | fewshot``: evaluations of frozen features."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from samix.cli.evaluate_base import Numbers, Options, line
from samix.data import FileImages, ImageData
from samix.data.images import file_names
from samix.eval.features import Features, extract, stage_features
from samix.eval.source import Source, scaled
from samix.runtime.checks import Range
from samix.runtime.typed_options import Count, CountOr0, Positive


@dataclass(frozen=True)
class Knn(Options):
    """Weighted nearest neighbours on frozen features (Wu et al. 2018).

    Args:
        ks: numbers of neighbours, at most the number of training images; empty takes 10, 20, 100 and 200.
        temperature: temperature of the votes; the monitor of CIFAR runs takes 0.1 with k = 200.
    """

    ks: tuple[Count, ...] = ()
    temperature: Positive = 0.07

    def run(self) -> tuple[Numbers, str]:
        """Returns ``k10``, ``k20``, ...: top-1 in percent."""
        from samix.eval.knn import KS, knn_accuracy

        source = self.load()
        data = self.load_images(source)
        (bank, bank_labels), (queries, labels) = self.both(source, data, source.features)
        ks = self.ks or [k for k in KS if k <= len(bank)] or [len(bank)]
        classes, temperature = data.num_classes, self.temperature
        top1 = knn_accuracy(bank, bank_labels, queries, labels, ks=ks, temperature=temperature, num_classes=classes)
        numbers = {f"k{k}": value for k, value in top1.items()}
        return numbers, line("kNN top-1 %", data.name, numbers)


@dataclass(frozen=True)
class Linear(Options):
    """Linear probe of a frozen backbone.

    Args:
        protocol: moco, moco-small, mocov3, samix-vits, simsiam, swav, barlow, simclr or imix.
        augmented: the protocol's own form, which augments the images anew in each epoch; without it the quick form on
            features that are computed once, whose result is not the protocol's number.
        lrs: learning rates instead of the protocol's, trained side by side.
        epochs: epochs instead of the protocol's; 0 keeps those. Steps of the learning rate move in proportion.
    """

    protocol: str = "moco"
    augmented: bool = False
    lrs: tuple[Positive, ...] = ()
    epochs: CountOr0 = 0

    def run(self) -> tuple[Numbers, str]:
        """Returns ``top1`` and ``top5`` in percent of the best rate, ``lr``, and ``top1@RATE`` of each of several."""
        from samix.eval.linear import PROTOCOLS, probe_augmented, probe_features
        from samix.eval.protocol import named_protocol

        protocol = named_protocol(PROTOCOLS, self.protocol).with_epochs(self.epochs)
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
        by_rate = probe.accuracy(*test)
        best = max(by_rate, key=lambda lr: by_rate[lr]["top1"])
        numbers, chosen = {**by_rate[best], "lr": best}, ""
        if len(by_rate) > 1:
            numbers |= {f"top1@{lr:g}": row["top1"] for lr, row in by_rate.items()}
            chosen = f", best of {len(by_rate)} rates on the test images"
        form = "augmented" if self.augmented else "features"
        return numbers, line(f"linear probe ({self.protocol}, {form}{chosen}), %", data.name, numbers)


@dataclass(frozen=True)
class Svm(Options):
    """Linear SVM on frozen features; mean average precision with ``--data voc07:DIR``, else top-1.

    Args:
        stage: inner stage of a timm network that gives the features, as timm counts; None takes the pooled features.
        costs: SVM costs, chosen by cross-validation; empty takes the protocol's nineteen.
    """

    stage: Annotated[int, Range()] | None = None
    costs: tuple[Positive, ...] = ()

    def run(self) -> tuple[Numbers, str]:
        """Returns ``map``, or ``top1`` and ``cost``; and ``unconverged``."""
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
        costs: SVM costs; the best on the test images is taken for each number of shots. Empty takes the protocol's.
    """

    shots: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    draws: Count = 5
    costs: tuple[Positive, ...] = ()

    def run(self) -> tuple[Numbers, str]:
        """Returns ``map@K`` in percent and ``std@K`` over the draws."""
        from samix.eval.svm import COSTS, Fit, low_shot_map, one_hot_targets

        source = self.load()
        if self.data.startswith("voc"):
            name = self.data.partition(":")[0]
            train, test = voc_features(self, source, source.features)
        else:
            data = self.load_images(source)
            name, both = data.name, self.both(source, data, source.features)
            train, test = ((features, one_hot_targets(labels, data.num_classes)) for features, labels in both)
        fit = Fit(costs=self.costs or COSTS, seed=self.seed)
        by_shots = low_shot_map(*train, *test, shots=self.shots, draws=self.draws, seed=self.seed, fit=fit)
        numbers = {f"{key}@{k}": row[key] for k, row in by_shots.items() for key in ("map", "std")}
        return numbers, line("few-shot SVM mAP %", name, numbers)


def voc_features(
    options: Options, source: Source, features: Features
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns features and (N, K) targets of a VOC data set, train and test."""
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
