"""Transfer to detection: a Faster or Mask R-CNN with a C4 head on a pre-trained ResNet, built on torchvision.

The protocol is MoCo's (He et al. 2020, arXiv:1911.05722, and its released settings): everything is trained, BatchNorm
too, with one more BatchNorm behind the last stage, and statistics measured anew before testing. Their numbers come from
detectron2; torchvision differs in RoIAlign's half pixel and in details of matching, so compare within it only.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from samix.data.images import open_image, to_uint8
from samix.data.order import epoch_order, stream_seed
from samix.networks.modes import evaluating
from samix.probing.boxes import BoxData, BoxSplit, Objects, outline_mask
from samix.probing.precision import Found, coco_precision, voc_precision
from samix.probing.seeding import seeded

MEAN, STD = (123.675 / 255, 116.28 / 255, 103.53 / 255), (58.395 / 255, 57.12 / 255, 57.375 / 255)


@dataclass(frozen=True)
class DetectionProtocol:
    """How the detector is trained and tested.

    Args:
        iterations: updates.
        steps: iterations at which the learning rate is multiplied by 0.1.
        short_sides: of training images in pixels, one drawn for each.
        test_side: short side in testing.
        max_side: most pixels of the long side.
        warmup: iterations over which the rate rises from a thousandth.
        batch_size: images per update.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: on every parameter.
        anchors: sides of the anchors in pixels.
        precise: batches over which BatchNorm's statistics are measured before testing.
        masks: train and judge masks too.
    """

    iterations: int
    steps: tuple[int, ...]
    short_sides: tuple[int, ...]
    test_side: int = 800
    max_side: int = 1333
    warmup: int = 100
    batch_size: int = 16
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    precise: int = 200
    masks: bool = False

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch_size) < 1 or not self.lr > 0:
            raise ValueError(
                "iterations and batch_size must be at least 1 and lr positive, got "
                f"{self.iterations}, {self.batch_size}, {self.lr}"
            )
        if not self.short_sides or not self.anchors:
            raise ValueError("short_sides and anchors must not be empty")

    def learning_rate(self, iteration: int) -> float:
        """Of an update, 0 is the first."""
        done = min(iteration / self.warmup, 1.0) if self.warmup else 1.0
        return float(self.lr * (0.001 * (1.0 - done) + done) * 0.1 ** sum(iteration >= step for step in self.steps))

    def shortened(self, iterations: int) -> DetectionProtocol:
        """The same in fewer updates: steps in proportion, warm-up at most a tenth."""
        share = iterations / self.iterations
        steps = tuple(round(step * share) for step in self.steps)
        return replace(self, iterations=iterations, steps=steps, warmup=min(self.warmup, iterations // 10))

    def resized(self, test_side: int) -> DetectionProtocol:
        """The same for smaller or larger images: sides and anchors in proportion, each at least 1 pixel."""

        def in_proportion(sides: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(dict.fromkeys(max(1, round(side * test_side / self.test_side)) for side in sides))

        return replace(
            self,
            test_side=test_side,
            max_side=in_proportion((self.max_side,))[0],
            short_sides=in_proportion(self.short_sides),
            anchors=in_proportion(self.anchors),
        )


DETECTION_PROTOCOLS: dict[str, DetectionProtocol] = {
    "voc": DetectionProtocol(24_000, (18_000, 22_000), tuple(range(480, 801, 32))),
    "coco": DetectionProtocol(180_000, (120_000, 160_000), tuple(range(640, 801, 32)), warmup=1000, masks=True),
}


class Stage(nn.Module):
    """The ResNet's last stage and one more BatchNorm: maps of regions to maps (n, D, h, w).

    Args:
        layer: ``layer4`` of the ResNet.
        width: D.
    """

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.norm = layer, nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D, H / 2, W / 2)."""
        return self.norm(self.layer(x))  # type: ignore[no-any-return]


class PooledStage(nn.Module):
    """A stage and the mean over its map.

    Args:
        stage: shared with the head of the masks, where there is one.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D)."""
        return self.stage(x).mean((2, 3))  # type: ignore[no-any-return]


@torch.no_grad()
def cut(network: nn.Module) -> tuple[nn.Module, nn.Module, int]:
    """A copy of a ResNet in two: stem to ``layer3`` with its ``out_channels``, and ``layer4`` with its width.

    Raises:
        ValueError: no ResNet of torchvision or timm.
    """
    model: Any = copy.deepcopy(network).requires_grad_(True)
    act = "act1" if hasattr(model, "act1") else "relu"
    names = ("conv1", "bn1", act, "maxpool", "layer1", "layer2", "layer3", "layer4")
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise ValueError(
            f"detection needs a ResNet of torchvision or timm; {type(network).__name__} has no {', '.join(missing)}"
        )
    trunk: Any = nn.Sequential(OrderedDict((name, getattr(model, name)) for name in names[:-1]))
    place = next(model.parameters()).device
    with evaluating(trunk, model.layer4):
        found = trunk(torch.zeros(1, 3, 64, 64, device=place))
        width = model.layer4(found).shape[1]
    trunk.out_channels = found.shape[1]
    return trunk, model.layer4, int(width)


def build_detector(network: nn.Module, num_classes: int, protocol: DetectionProtocol, seed: int = 0) -> nn.Module:
    """A Faster R-CNN, or Mask R-CNN, on a copy of a ResNet, cut at C4 (Ren et al. 2015, arXiv:1506.01497).

    Args:
        network: a ResNet of torchvision or timm; its classifier is not used. It stays as it is.
        num_classes: K, without the background.
        protocol: sizes, anchors, and whether there are masks.
        seed: of the new layers.

    Raises:
        ValueError: no ResNet.
    """
    trunk, layer, width = cut(network)
    place = next(network.parameters()).device
    with seeded(stream_seed("detector", seed), torch.device("cpu")):
        stage = Stage(layer, width)
        predictor = FastRCNNPredictor(width, num_classes + 1)
        nn.init.normal_(predictor.cls_score.weight, std=0.01)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
        for linear in (predictor.cls_score, predictor.bbox_pred):
            nn.init.zeros_(linear.bias)
        options: dict[str, Any] = {
            "rpn_anchor_generator": AnchorGenerator((protocol.anchors,), ((0.5, 1.0, 2.0),)),
            "rpn_pre_nms_top_n_train": 12000,
            "rpn_post_nms_top_n_train": 2000,
            "rpn_pre_nms_top_n_test": 6000,
            "rpn_post_nms_top_n_test": 1000,
            "box_roi_pool": MultiScaleRoIAlign(["0"], 14, sampling_ratio=0),
            "box_head": PooledStage(stage),
            "box_predictor": predictor,
            "min_size": protocol.short_sides,
            "max_size": protocol.max_side,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        }
        if protocol.masks:
            model: Any = MaskRCNN(
                trunk,
                mask_roi_pool=MultiScaleRoIAlign(["0"], 14, sampling_ratio=0),
                mask_head=stage,
                mask_predictor=MaskRCNNPredictor(width, 256, num_classes + 1),  # channel 0, the background's, is idle
                **options,
            )
        else:
            model = FasterRCNN(trunk, **options)
    return model.to(place)  # type: ignore[no-any-return]


class BoxImages(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """(iteration, place, index) to an image (3, H, W) uint8 and its target, half of them mirrored.

    Args:
        split: images and objects.
        masks: give masks (n, H, W) uint8 as well.
        seed: of the mirroring.
    """

    def __init__(self, split: BoxSplit, masks: bool, seed: int) -> None:
        self.split, self.masks, self.seed = split, masks, seed

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        iteration, place, index = key
        image = to_uint8(open_image(self.split.files[index]))
        target = training_target(self.split.objects[index], image, self.masks)
        generator = torch.Generator().manual_seed(stream_seed("mirror", self.seed, iteration, place))
        if torch.rand((), generator=generator) < 0.5:
            image = image.flip(2)
            x0, y0, x1, y1 = target["boxes"].unbind(1)
            target["boxes"] = torch.stack([image.shape[2] - x1, y0, image.shape[2] - x0, y1], dim=1)
            if self.masks:
                target["masks"] = target["masks"].flip(2)
        return image, target


def training_target(objects: Objects, image: Tensor, masks: bool) -> dict[str, Tensor]:
    """What torchvision's detectors learn from: boxes, labels, and masks; crowds and empty boxes are left out.

    Raises:
        ValueError: masks are wanted where objects have no outlines.
    """
    rows = objects.trained_on
    target = {"boxes": objects.boxes[rows], "labels": objects.labels[rows]}
    if masks:
        target["masks"] = object_masks(objects, image)[rows].to(torch.uint8)
    return target


def object_masks(objects: Objects, image: Tensor) -> Tensor:
    """(n, H, W) bool.

    Raises:
        ValueError: the objects have no outlines.
    """
    height, width = image.shape[1:]
    if len(objects.outlines) != len(objects.labels):
        raise ValueError("masks need outlines, which this data set has not; choose a protocol without masks")
    found = [outline_mask(outline, height, width) for outline in objects.outlines]
    return torch.stack(found) if found else torch.zeros(0, height, width, dtype=torch.bool)


def with_objects(split: BoxSplit) -> BoxSplit:
    """The images that have something to learn from."""
    rows = [row for row, objects in enumerate(split.objects) if bool(objects.trained_on.any())]
    return BoxSplit(tuple(split.files[row] for row in rows), tuple(split.objects[row] for row in rows))


def batch_keys(count: int, batch_size: int, iterations: int, seed: int) -> Iterator[list[tuple[int, int, int]]]:
    """(iteration, place, index) of each image of each batch; epochs follow one another without a gap."""
    order, epoch = torch.empty(0, dtype=torch.int64), -1
    for iteration in range(iterations):
        keys = []
        for place in range(batch_size):
            now, row = divmod(iteration * batch_size + place, count)
            if now != epoch:
                order, epoch = epoch_order(count, seed, now), now
            keys.append((iteration, place, int(order[row])))
        yield keys


def box_batches(
    split: BoxSplit, protocol: DetectionProtocol, iterations: int, seed: int, device: torch.device, workers: int
) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Training batches: images (3, H, W) float32 in [0, 1] and targets, on the device."""
    split = with_objects(split)
    loader: DataLoader[Any] = DataLoader(
        BoxImages(split, protocol.masks, seed),
        batch_sampler=list(batch_keys(len(split), protocol.batch_size, iterations, seed)),
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        images = [image.to(device).float() / 255 for image, _ in batch]
        yield images, [{key: value.to(device) for key, value in target.items()} for _, target in batch]


def train_detector(
    network: nn.Module,
    data: BoxData,
    protocol: DetectionProtocol,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> nn.Module:
    """Trains a detector on a copy of a ResNet, and measures its BatchNorm statistics.

    Args:
        network: a ResNet of torchvision or timm; it stays as it is.
        data: see :func:`samix.probing.boxes.load_boxes`.
        protocol: how to train.
        seed: of new layers, order, mirroring and sampling.
        device: to train on.
        workers: processes that read images.

    Returns:
        The detector, in eval mode.

    Raises:
        ValueError: no ResNet, or masks where there are no outlines.
        RuntimeError: the loss is no longer finite.
    """
    place = torch.device(device)
    model = build_detector(network, len(data.class_names), protocol, seed).to(place)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=protocol.lr, momentum=protocol.momentum, weight_decay=protocol.weight_decay
    )
    with seeded(stream_seed("detection", seed), place):
        model.train()
        batches = box_batches(data.train, protocol, protocol.iterations, seed, place, workers)
        for iteration, (images, targets) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = protocol.learning_rate(iteration)
            losses = model(images, targets)
            loss = sum(losses.values(), torch.zeros((), device=place))
            if not loss.isfinite():
                found = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in losses.items())
                raise RuntimeError(f"detection: the loss of iteration {iteration} is not finite ({found}); lower lr")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        precise_statistics(model, box_batches(data.train, protocol, protocol.precise, seed + 1, place, workers))
    return model.eval()


@torch.no_grad()
def precise_statistics(model: nn.Module, batches: Iterator[Any]) -> None:
    """BatchNorm's statistics as plain means over batches, in place of the moving ones.

    Wu and Johnson 2021 (arXiv:2105.07576), "precise BatchNorm".

    Args:
        model: a detector; left in training mode.
        batches: (images, targets); none leaves everything as it is.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    model.train()
    try:
        for number, (images, targets) in enumerate(batches):
            for norm in norms:
                if number == 0:
                    norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches since the reset
            model(images, targets)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def detect(model: nn.Module, split: BoxSplit, device: torch.device) -> Iterator[tuple[Found, Tensor]]:
    """What a detector finds in each image, on the CPU, and the image (3, H, W) uint8."""
    with evaluating(model):
        for file in split.files:
            image = to_uint8(open_image(file))
            found = model([image.to(device).float() / 255])[0]
            yield {key: value.cpu() for key, value in found.items()}, image


def detection_metrics(
    model: nn.Module, data: BoxData, protocol: DetectionProtocol, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Average precision on the test images: VOC's for VOC, COCO's, of boxes and masks, for COCO.

    Args:
        model: of :func:`train_detector`.
        data: its test split is used.
        protocol: for the size of test images.
        device: of the model.

    Raises:
        ImportError: COCO without pycocotools.
    """
    transform: Any = getattr(model, "transform", None)
    sides = transform.min_size
    transform.min_size = (protocol.test_side,)
    try:
        found = detect(model, data.test, torch.device(device))
        if data.name == "voc":
            return voc_precision([row for row, _ in found], data.test.objects, len(data.class_names))
        return coco_precision(coco_pairs(found, data.test, protocol.masks), masks=protocol.masks)
    finally:
        transform.min_size = sides


def coco_pairs(
    found: Iterator[tuple[Found, Tensor]], split: BoxSplit, masks: bool
) -> Iterator[tuple[Found, dict[str, Tensor]]]:
    """Detections and truth of each image, as torchmetrics wants them."""
    for (row, image), objects in zip(found, split.objects, strict=True):
        truth = {"boxes": objects.boxes, "labels": objects.labels, "iscrowd": objects.crowd.long()}
        if masks:
            truth["masks"] = object_masks(objects, image)
            row = {**row, "masks": row["masks"][:, 0] > 0.5}
        yield row, truth
