"""``samix evaluate finetune | detection``: evaluations by further training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from samix.cli.evaluate_base import Numbers, Options, line
from samix.runtime.typed_options import CountOr0, ImageSideOr0, PositiveShare, Weight


@dataclass(frozen=True)
class Finetune(Options):
    """Trains all layers on a small labelled part of the training images.

    Args:
        protocol: toolbox-1, toolbox-10, swav-1, swav-10, simclr-1 or barlow-1; the number is the percentage.
        fraction: share of the training images, drawn by class.
        names: file of image names, one a line, instead of a fraction (such as the public lists of ImageNet).
        epochs: epochs instead of the protocol's; 0 keeps those. Steps of the learning rate move in proportion.
        grid: try the toolbox's nine pairs of learning rates and report the best.
    """

    protocol: str = "swav-1"
    fraction: PositiveShare = 0.01
    names: str = ""
    epochs: CountOr0 = 0
    grid: bool = False

    def run(self) -> tuple[Numbers, str]:
        """Returns ``top1``, ``top5``, ``nll``, ``ece`` and the two learning rates."""
        from samix.eval.finetune import (
            FINETUNE_PROTOCOLS,
            fine_tune,
            finetune_metrics,
            labelled_part,
            toolbox_grid,
        )
        from samix.eval.protocol import named_protocol

        protocol = named_protocol(FINETUNE_PROTOCOLS, self.protocol).with_epochs(self.epochs)
        source = self.load()
        data = self.load_images(source)
        names = Path(self.names) if self.names else None
        part = labelled_part(data, fraction=self.fraction, names=names, seed=self.seed)
        batches = self.train_batches(source, part, self.batch_size or protocol.batch_size)
        best: Numbers = {}
        protocols = toolbox_grid(protocol) if self.grid else [protocol]
        for one in protocols:
            network = fine_tune(source.backbone, batches, data.num_classes, one, seed=self.seed)
            metrics = finetune_metrics(network, self.split(source, data, "val"), data.num_classes)
            if not best or metrics["top1"] > best["top1"]:
                best = {**metrics, "backbone_lr": one.backbone_lr, "head_lr": one.head_lr}
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
        precise: batches to measure BatchNorm's statistics on before testing; 0 keeps the running averages.
    """

    iterations: CountOr0 = 0
    lr: Weight = 0.0
    test_side: ImageSideOr0 = 0
    precise: CountOr0 = 200

    def run(self) -> tuple[Numbers, str]:
        """Returns ``ap``, ``ap50``, ``ap75`` in percent, and those of masks for COCO."""
        from samix.eval.boxes import load_boxes
        from samix.eval.detection import detection_metrics, train_detector
        from samix.eval.detector import DETECTION_PROTOCOLS

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
        device = self.torch_device
        model = train_detector(source.backbone, boxes, protocol, seed=self.seed, device=device, workers=self.workers)
        numbers = detection_metrics(model, boxes, protocol, device)
        return numbers, line("detection (torchvision), %", boxes.name, numbers)
