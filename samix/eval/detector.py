"""The detector of a transfer: a Faster or Mask R-CNN with a C4 head on a pre-trained ResNet, built on torchvision."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from samix.data.order import stream_seed
from samix.eval.seeding import seeded
from samix.networks.inference import evaluating
from samix.runtime.typed_options import CheckedOptions, Count, Positive

MEAN, STD = (123.675 / 255, 116.28 / 255, 103.53 / 255), (58.395 / 255, 57.12 / 255, 57.375 / 255)


@dataclass(frozen=True)
class DetectionProtocol(CheckedOptions):
    """How the detector is trained and tested."""

    iterations: Count  # updates
    steps: tuple[int, ...]  # iterations at which the learning rate is multiplied by 0.1
    short_sides: tuple[int, ...]  # of training images in pixels, one drawn for each
    test_side: int = 800  # short side in testing
    max_side: int = 1333  # most pixels of the long side
    warmup: int = 100  # iterations over which the rate rises from a thousandth
    batch_size: Count = 16  # images per update
    lr: Positive = 0.02  # learning rate
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4  # on every parameter
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)  # sides of the anchors in pixels
    precise: int = 200  # batches over which BatchNorm's statistics are measured before testing
    masks: bool = False  # train and judge masks too

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.short_sides or not self.anchors:
            raise ValueError("short_sides and anchors must not be empty")

    def learning_rate(self, iteration: int) -> float:
        """Returns the rate of an update; 0 is the first."""
        done = min(iteration / self.warmup, 1.0) if self.warmup else 1.0
        return float(self.lr * (0.001 * (1.0 - done) + done) * 0.1 ** sum(iteration >= step for step in self.steps))

    def shortened(self, iterations: int) -> DetectionProtocol:
        """Returns the protocol with fewer updates: steps in proportion, warm-up at most a tenth."""
        share = iterations / self.iterations
        steps = tuple(round(step * share) for step in self.steps)
        return replace(self, iterations=iterations, steps=steps, warmup=min(self.warmup, iterations // 10))

    def resized(self, test_side: int) -> DetectionProtocol:
        """Returns the protocol for other image sizes: sides and anchors in proportion, each at least 1 pixel."""

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
    """``layer4`` of a ResNet and one more BatchNorm: maps of regions to maps (n, width, h, w)."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.norm = layer, nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, C, H, W) to (n, D, H / 2, W / 2)."""
        return self.norm(self.layer(x))  # type: ignore[no-any-return]


class PooledStage(nn.Module):
    """A stage, shared with the head of the masks where there is one, and the mean over its map."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, C, H, W) to (n, D)."""
        return self.stage(x).mean((2, 3))  # type: ignore[no-any-return]


@torch.no_grad()
def cut(network: nn.Module) -> tuple[nn.Module, nn.Module, int]:
    """Copies a ResNet in two: stem to ``layer3`` with its ``out_channels``, and ``layer4`` with its width.

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
    device = next(model.parameters()).device
    with evaluating(trunk, model.layer4):
        map_c4 = trunk(torch.zeros(1, 3, 64, 64, device=device))
        width = model.layer4(map_c4).shape[1]
    trunk.out_channels = map_c4.shape[1]
    return trunk, model.layer4, int(width)


def build_detector(network: nn.Module, num_classes: int, protocol: DetectionProtocol, seed: int = 0) -> nn.Module:
    """Builds a Faster R-CNN, or Mask R-CNN, on a copy of a ResNet, cut at C4 (Ren et al. 2015, arXiv:1506.01497).

    Args:
        network: a ResNet of torchvision or timm; its classifier is not used. It stays as it is.
        num_classes: K, without the background.
        protocol: sizes, anchors, and whether there are masks.
        seed: of the new layers.
    """
    trunk, layer, width = cut(network)
    device = next(network.parameters()).device
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
    return model.to(device)  # type: ignore[no-any-return]
