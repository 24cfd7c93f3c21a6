"""``samix evaluate knn | linear | svm | fewshot | finetune | detection``: one dataclass of options for each."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from samix.data import Augment, EvalBatches, FileImages, ImageData, TrainBatches, default_augment, load_data
from samix.data.images import file_names
from samix.probing.features import Features, extract, frozen, headless, stage_features

TIMM = "timm:"
Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class Source:
    """A backbone to judge, and how its pixels were scaled.

    Args:
        backbone: (B, C, H, W) -> (B, F), in eval mode.
        features: the same for the probes; a self-supervised method's own where there is one.
        size: side of its images in pixels; 0 where nothing is known.
        scale: mean and std by channel; None takes the data set's.
        data: it was trained on; empty where nothing is known.
    """

    backbone: nn.Module
    features: Features
    size: int = 0
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    data: str = ""


def load_source(source: str, *, size: int = 0, stem: str = "default", device: torch.device | str = "cpu") -> Source:
    """The backbone of a checkpoint, an export, or timm.

    Args:
        source: a run's folder or a ``.pt`` file of it; an export's folder; ``timm:NAME`` with random weights, or
            ``timm:NAME:pretrained``.
        size: side of the images that timm networks are told; 0 takes 224.
        stem: of a timm network, see :func:`samix.networks.create.small_stem`.
        device: where it is wanted.

    Raises:
        FileNotFoundError, ValueError: no such source, or not readable.
    """
    if source.startswith(TIMM):
        return _timm_source(source, size, stem, device)
    from samix.checkpoint import newest_of

    path = newest_of(Path(source))
    if not path.exists():
        raise FileNotFoundError(f"no {source}: give a run's folder, a checkpoint, an export's folder, or {TIMM}NAME")
    return _export_source(path, device) if path.is_dir() else _checkpoint_source(path, device)


def _timm_source(source: str, size: int, stem: str, device: torch.device | str) -> Source:
    from samix.networks.create import create_network

    name, _, weights = source[len(TIMM) :].partition(":")
    if weights not in ("", "pretrained"):
        raise ValueError(f"after {TIMM}{name} only :pretrained may follow, got {weights!r}")
    network: Any = create_network(name, 0, {}, size=size or 224, stem=stem, pretrained=weights == "pretrained")
    backbone = network.to(device).eval()
    cfg = network.pretrained_cfg
    scale = (tuple(cfg["mean"]), tuple(cfg["std"])) if weights else None
    return Source(backbone, frozen(backbone), size, scale)


def _export_source(folder: Path, device: torch.device | str) -> Source:
    """The network of an export's config.json without its classifier, whatever number of classes it has."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from samix.checkpoint import load_into
    from samix.networks.create import create_network

    config_path, weights = folder / "config.json", folder / "model.safetensors"
    if not config_path.is_file() or not weights.is_file():
        raise FileNotFoundError(
            f"{folder} is no export (config.json, model.safetensors) and no run (last.pt); give one of them"
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        recipe, cfg = config["samix"]["recipe"], config["pretrained_cfg"]
        args = json.loads(recipe.get("model_args", "{}"))
        name, size, stem = recipe["model"], int(recipe["size"]), recipe.get("stem", "default")
        scale = (tuple(cfg["mean"]), tuple(cfg["std"]))
        state = load_file(weights)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged, or no export of samix ({type(error).__name__}: {error})") from None
    network = create_network(name, int(config["num_classes"]), args, size=size, stem=stem)
    load_into(network, state, weights)
    backbone = headless(network).to(device).eval()
    return Source(backbone, frozen(backbone), size, scale, str(recipe.get("data", "")))


def _checkpoint_source(path: Path, device: torch.device | str) -> Source:
    from samix.report import load_method

    method, recipe, data = load_method(path)
    method.to(device)
    backbone = headless(method.export()).to(device).eval()
    features = frozen(backbone)
    own = getattr(method, "features", None)
    if callable(own):  # of a self-supervised method

        @torch.no_grad()
        def features(images: Tensor) -> Tensor:
            return own(images)  # type: ignore[no-any-return]

    scale = (tuple(data["mean"]), tuple(data["std"]))
    return Source(backbone, features, int(recipe.size), scale, str(recipe.data))


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What every kind is told.

    Args:
        source: a run's folder or its ``last.pt``, an export's folder, ``timm:NAME`` or ``timm:NAME:pretrained``.
        data: data set, see ``samix.data.load_data``; empty takes the one it was trained on.
        data_root: where torchvision's data sets lie.
        size: side of the images in pixels; 0 takes the source's, or 224.
        stem: of ``timm:NAME``: ``default``, ``small`` or ``half``.
        batch_size: images per pass; training takes its protocol's where that is 0.
        workers: loader processes.
        device: auto, cpu or cuda.
        seed: of whatever is drawn.
    """

    source: Annotated[str, "positional"]
    data: str = ""
    data_root: str = "data"
    size: int = 0
    stem: Literal["default", "small", "half"] = "default"
    batch_size: int = 0
    workers: int = 0
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 0 or self.batch_size < 0 or self.workers < 0:
            raise ValueError(
                f"size, batch_size and workers must be at least 0, got {self.size}, {self.batch_size}, {self.workers}"
            )

    def run(self) -> tuple[Numbers, str]:
        """Numbers, and the line to print."""
        raise NotImplementedError

    @property
    def place(self) -> torch.device:
        """The device.

        Raises:
            ValueError: unknown, or no GPU.
        """
        from samix.engine import check_device

        check_device(self.device)
        return torch.device(
            "cuda" if self.device == "auto" and torch.cuda.is_available() else self.device.replace("auto", "cpu")
        )

    def load(self) -> Source:
        """The source on the device."""
        return load_source(self.source, size=self.size, stem=self.stem, device=self.place)

    def load_images(self, source: Source) -> ImageData:
        """The data set, with pixels scaled as the source wants them.

        Raises:
            ValueError: no data named, and none known.
        """
        name = self.data or source.data
        if not name:
            raise ValueError(f"{self.source} does not say what it was trained on; give --data")
        return scaled(load_data(name, root=self.data_root), source)

    def side(self, source: Source) -> int:
        """Side of the images in pixels."""
        return self.size or source.size or 224

    def split(self, source: Source, data: ImageData, split: Literal["train", "val"]) -> EvalBatches:
        """A split under the test transform."""
        return EvalBatches(
            data,
            batch_size=self.batch_size or 256,
            size=self.side(source),
            augment=default_augment(data),
            split=split,
            workers=self.workers,
            device=self.place,
        )

    def train_batches(self, source: Source, data: ImageData, batch_size: int) -> TrainBatches:
        """The train split under the train transform, in batches of that size or of the whole split."""
        return TrainBatches(
            data,
            batch_size=min(batch_size, len(data.train)),
            size=self.side(source),
            augment=probe_augment(data),
            seed=self.seed,
            workers=self.workers,
            device=self.place,
        )

    def both(self, source: Source, data: ImageData, features: Features) -> list[tuple[Tensor, Tensor]]:
        """Features and labels of train and val."""
        return [extract(features, self.split(source, data, split).batches()) for split in ("train", "val")]


def scaled(data: ImageData, source: Source) -> ImageData:
    """The data with the source's mean and std, where it has some."""
    if source.scale is None:
        return data
    mean, std = source.scale
    return dataclasses.replace(data, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def probe_augment(data: ImageData) -> Augment:
    """The probes' train transform: that of the data set; for STL-10, crops of at least 0.2 of the area."""
    augment = default_augment(data)
    return Augment("resized-crop", min_scale=0.2) if data.name == "stl10" else augment


def line(kind: str, data: str, numbers: Numbers) -> str:
    """``knn on cifar10: k20 78.10  k200 77.42``."""
    return f"{kind} on {data}: " + "  ".join(f"{name} {value:.2f}" for name, value in numbers.items())


@dataclass(frozen=True)
class Knn(Options):
    """Weighted nearest neighbours on frozen features (Wu et al. 2018).

    Args:
        ks: numbers of neighbours; those above the number of training images are refused.
        temperature: of the votes; 0.1 with k = 200 is the monitor of CIFAR runs.
    """

    ks: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07

    def run(self) -> tuple[Numbers, str]:
        """``k10``, ``k20``, ...: top-1 in percent."""
        from samix.probing.knn import knn_accuracy

        source = self.load()
        data = self.load_images(source)
        (bank, bank_labels), (queries, labels) = self.both(source, data, source.features)
        found = knn_accuracy(
            bank,
            bank_labels,
            queries,
            labels,
            ks=self.ks,
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

    protocol: str = "moco"
    augmented: bool = False
    lrs: tuple[float, ...] = ()
    epochs: int = 0

    def run(self) -> tuple[Numbers, str]:
        """``top1`` and ``top5`` in percent of the best rate, the rate ``lr``, and ``top1@RATE`` of each of several."""
        from samix.probing.linear import probe_augmented, probe_features, protocol_named

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

    stage: int | None = None
    costs: tuple[float, ...] = ()

    def run(self) -> tuple[Numbers, str]:
        """``map``, or ``top1`` and ``cost``; and ``unconverged``."""
        from samix.probing.svm import COSTS, Fit, svm_accuracy, svm_map

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

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    draws: int = 5
    costs: tuple[float, ...] = ()

    def run(self) -> tuple[Numbers, str]:
        """``map@K`` in percent and ``std@K`` over the draws."""
        from samix.probing.svm import COSTS, Fit, low_shot_map, one_hot_targets

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
    from samix.probing.boxes import image_targets, load_boxes

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


@dataclass(frozen=True)
class Finetune(Options):
    """Trains all layers on a small labelled part of the training images.

    Args:
        protocol: toolbox-1, toolbox-10, swav-1, swav-10, simclr-1 or barlow-1; the number is the percentage.
        fraction: share of the training images, drawn by class.
        names: file of image names, one a line, in the place of a fraction (the public lists of ImageNet).
        epochs: in the place of the protocol's; 0 keeps it. Steps of the learning rate move in proportion.
        grid: try the toolbox's nine pairs of learning rates and report the best.
    """

    protocol: str = "swav-1"
    fraction: float = 0.01
    names: str = ""
    epochs: int = 0
    grid: bool = False

    def run(self) -> tuple[Numbers, str]:
        """``top1``, ``top5``, ``nll``, ``ece`` and the two learning rates."""
        from samix.probing.finetune import (
            fine_tune,
            finetune_metrics,
            finetune_protocol_named,
            labelled_part,
            toolbox_grid,
        )

        protocol = finetune_protocol_named(self.protocol)
        if self.epochs:
            steps = tuple(round(step * self.epochs / protocol.epochs) for step in protocol.steps)
            protocol = dataclasses.replace(protocol, epochs=self.epochs, steps=steps)
        source = self.load()
        data = self.load_images(source)
        part = labelled_part(
            data, fraction=self.fraction, names=Path(self.names) if self.names else None, seed=self.seed
        )
        batches = self.train_batches(source, part, self.batch_size or protocol.batch_size)
        best: Numbers = {}
        protocols = toolbox_grid(protocol) if self.grid else [protocol]
        for one in protocols:
            network = fine_tune(source.backbone, batches, data.num_classes, one, seed=self.seed)
            found = finetune_metrics(network, self.split(source, data, "val"), data.num_classes)
            if not best or found["top1"] > best["top1"]:
                best = {**found, "backbone_lr": one.backbone_lr, "head_lr": one.head_lr}
        chosen = f", best of {len(protocols)} on the test images" if self.grid else ""
        return best, line(f"fine-tuned on {len(part.train)} images ({self.protocol}{chosen})", data.name, best)


@dataclass(frozen=True)
class Detection(Options):
    """Transfer to detection: Faster R-CNN on ``--data voc0712:DIR`` or ``voc07:DIR``, Mask R-CNN on ``coco:DIR``.

    Args:
        iterations: updates; 0 takes the protocol's 24,000 or 180,000. Steps of the learning rate move in proportion.
        lr: learning rate; 0 takes 0.02 per 16 images.
        test_side: short side of test images in pixels; 0 takes 800. Training sizes and anchors keep their ratio to
            it.
        precise: batches over which BatchNorm's statistics are measured before testing; 0 keeps the moving ones.
    """

    iterations: int = 0
    lr: float = 0.0
    test_side: int = 0
    precise: int = 200

    def run(self) -> tuple[Numbers, str]:
        """``ap``, ``ap50``, ``ap75`` in percent, and those of masks for COCO."""
        from samix.probing.boxes import load_boxes
        from samix.probing.detection import DETECTION_PROTOCOLS, detection_metrics, train_detector

        boxes = load_boxes(self.data)
        protocol = DETECTION_PROTOCOLS[boxes.name]
        if self.iterations:
            protocol = protocol.shortened(self.iterations)
        if self.test_side:
            protocol = protocol.resized(self.test_side)
        batch_size = self.batch_size or protocol.batch_size
        lr = self.lr or protocol.lr * batch_size / protocol.batch_size
        protocol = dataclasses.replace(protocol, batch_size=batch_size, lr=lr, precise=self.precise)
        source = self.load()
        model = train_detector(
            source.backbone, boxes, protocol, seed=self.seed, device=self.place, workers=self.workers
        )
        numbers = detection_metrics(model, boxes, protocol, self.place)
        return numbers, line("detection (torchvision), %", boxes.name, numbers)


KINDS: dict[str, type[Options]] = {
    "knn": Knn,
    "linear": Linear,
    "svm": Svm,
    "fewshot": Fewshot,
    "finetune": Finetune,
    "detection": Detection,
}


def evaluate_representation(kind: str, source: str, data: str = "", **options: Any) -> tuple[Numbers, str]:
    """Judges a backbone.

    Args:
        kind: knn, linear, svm, fewshot, finetune or detection.
        source: see :class:`Options`.
        data: see :class:`Options`; detection, and SVMs on images with several labels, take ``voc07:DIR``.
        options: further fields of that kind.

    Returns:
        Numbers by name, and one line to print.

    Raises:
        FileNotFoundError, ValueError: no such kind, source, data or option.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    known = [f.name for f in dataclasses.fields(KINDS[kind])]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{kind} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return KINDS[kind](source=source, data=data, **options).run()
