"""Transfer to detection: a Faster or Mask R-CNN with a C4 head on a pre-trained ResNet, built on torchvision.

The protocol is MoCo's (He et al. 2020, arXiv:1911.05722, and its released settings): everything is trained, BatchNorm
too, with one more BatchNorm behind the last stage, and statistics measured anew before testing. Their numbers come from
detectron2; torchvision differs in RoIAlign's half pixel and in details of matching, so compare within it only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from samix.data import open_image
from samix.data.images import to_uint8
from samix.data.order import stream_seed
from samix.eval.box_batches import BoxBatch, box_batches, object_masks
from samix.eval.boxes import BoxData, BoxSplit
from samix.eval.detector import DetectionProtocol, build_detector
from samix.eval.precision import Detections, coco_precision, voc_precision
from samix.eval.seeding import seeded
from samix.networks.inference import evaluating


def train_detector(
    network: nn.Module,
    data: BoxData,
    protocol: DetectionProtocol,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> nn.Module:
    """Trains a detector on a copy of a ResNet, measures its BatchNorm statistics, and returns it in eval mode.

    Args:
        network: a ResNet of torchvision or timm; it stays as it is.
        data: see :func:`samix.eval.boxes.load_boxes`.
        protocol: how to train.
        seed: of new layers, order, mirroring and sampling.
        device: to train on.
        workers: processes that read images.

    Raises:
        ValueError: no ResNet, or masks where there are no outlines.
        RuntimeError: the loss is no longer finite.
    """
    device = torch.device(device)
    model = build_detector(network, len(data.class_names), protocol, seed).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=protocol.lr, momentum=protocol.momentum, weight_decay=protocol.weight_decay
    )
    with seeded(stream_seed("detection", seed), device):
        model.train()
        batches = box_batches(data.train, protocol, protocol.iterations, seed, device, workers)
        for iteration, (images, targets) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = protocol.learning_rate(iteration)
            losses = model(images, targets)
            loss = sum(losses.values(), torch.zeros((), device=device))
            if not loss.isfinite():
                text = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in losses.items())
                raise RuntimeError(f"detection: the loss of iteration {iteration} is not finite ({text}); lower lr")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        precise_statistics(model, box_batches(data.train, protocol, protocol.precise, seed + 1, device, workers))
    return model.eval()


@torch.no_grad()
def precise_statistics(model: nn.Module, batches: Iterator[BoxBatch]) -> None:
    """Measures BatchNorm's statistics as plain means over batches, in place of the moving ones.

    Wu and Johnson 2021 (arXiv:2105.07576), "precise BatchNorm". The model is left in training mode.
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
def detect(model: nn.Module, split: BoxSplit, device: torch.device) -> Iterator[tuple[Detections, Tensor]]:
    """Yields the detections of each image, on the CPU, and the image (3, H, W) uint8."""
    with evaluating(model):
        for file in split.files:
            image = to_uint8(open_image(file, exif_rotation=False))
            output = model([image.to(device).float() / 255])[0]
            yield {key: value.cpu() for key, value in output.items()}, image


def detection_metrics(
    model: nn.Module, data: BoxData, protocol: DetectionProtocol, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Computes average precision on the test images: VOC's for VOC, COCO's, of boxes and masks, for COCO."""
    transform: Any = getattr(model, "transform", None)
    sides = transform.min_size
    transform.min_size = (protocol.test_side,)
    try:
        detections = detect(model, data.test, torch.device(device))
        if data.name == "voc":
            return voc_precision([row for row, _ in detections], data.test.objects, len(data.class_names))
        return coco_precision(coco_pairs(detections, data.test, protocol.masks), masks=protocol.masks)
    finally:
        transform.min_size = sides


def coco_pairs(
    detections: Iterator[tuple[Detections, Tensor]], split: BoxSplit, masks: bool
) -> Iterator[tuple[Detections, dict[str, Tensor]]]:
    """Yields detections and truth of each image in the form of torchmetrics."""
    for (row, image), objects in zip(detections, split.objects, strict=True):
        truth = {"boxes": objects.boxes, "labels": objects.labels, "iscrowd": objects.crowd.long()}
        if masks:
            truth["masks"] = object_masks(objects, image)
            row = {**row, "masks": row["masks"][:, 0] > 0.5}
        yield row, truth
