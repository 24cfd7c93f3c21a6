"""Semi-supervised evaluation: all layers are trained on a small labelled part of the training images.

The usual parts are 1 % and 10 %; for ImageNet they are public lists of file names (Chen et al. 2020, SimCLR,
arXiv:2002.05709), so that every paper trains on the same images.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.data import EvalBatches, FileImages, ImageData, TrainBatches
from samix.data.names import balanced_rows
from samix.data.order import stream_seed
from samix.eval.protocol import Protocol
from samix.eval.seeding import seeded
from samix.networks.inference import evaluating
from samix.runtime.typed_options import Positive, Weight
from samix.train.metrics import classification_metrics


def fraction_rows(labels: Tensor, num_classes: int, fraction: float, seed: int = 0) -> Tensor:
    """Draws a share of the images by class, equally many of each where possible, at least one.

    Args:
        labels: (N,) int64.
        num_classes: K.
        fraction: in (0, 1], such as 0.01.
        seed: of the draw.

    Returns:
        (max(K, round(fraction * N)),) int64 rows, rising.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}; 1 % is 0.01")
    return balanced_rows(labels, num_classes, max(num_classes, round(fraction * len(labels))), seed)


def listed_rows(images: FileImages, listed: Sequence[str]) -> Tensor:
    """Finds the images of a list of file names, in the list's order.

    Args:
        images: images in files.
        listed: names relative to the data set's folder; or names alone, as in the public lists, for any folder.

    Returns:
        (len(listed),) int64 rows.

    Raises:
        ValueError: an empty list, or a name that is missing, that is there twice, or that is listed twice.
    """
    if not listed:
        raise ValueError("the list of file names is empty")
    twice, count = Counter(listed).most_common(1)[0]
    if count > 1:
        raise ValueError(f"the list of file names has {twice!r} more than once")
    places: dict[str, list[int]] = {}
    for row in range(len(images)):
        path = PurePosixPath(images.path(row).relative_to(images.root).as_posix())
        for name in {str(path), path.name}:
            places.setdefault(name, []).append(row)
    for name in listed:
        if len(places.get(name, [])) != 1:
            raise ValueError(
                f"{name!r} of the list is in the data set {len(places.get(name, []))} times, once is expected; give "
                f"names relative to {images.root}"
            )
    return torch.tensor([places[name][0] for name in listed])


def labelled_part(data: ImageData, *, fraction: float = 0.01, names: Path | None = None, seed: int = 0) -> ImageData:
    """Returns the data with a small train split: a share by class, or the images that a file names, one a line.

    Raises:
        ValueError: names for images that are not in files, a fraction out of range, or a class without an image.
        FileNotFoundError: no such file.
    """
    if names is None:
        rows = fraction_rows(data.train.labels, data.num_classes, fraction, seed)
    elif not isinstance(data.train, FileImages):
        raise ValueError(f"{data.name} has no image files, so a list of names cannot choose from it; give a fraction")
    elif not names.is_file():
        raise FileNotFoundError(f"no list of file names at {names}")
    else:
        lines = names.read_text(encoding="utf-8").splitlines()
        rows = listed_rows(data.train, [line.strip() for line in lines if line.strip()])
    return replace(data, train=data.train.subset(rows))


@dataclass(frozen=True)
class FinetuneProtocol(Protocol):
    """How all layers are trained.

    LARS adapts the kernels and matrices of the backbone; norms, biases and the head have the plain rate and no decay,
    as in SimCLR's code.
    """

    backbone_lr: Weight  # learning rate of the backbone
    head_lr: Positive  # of the new linear layer
    _: KW_ONLY
    epochs: int = 20
    schedule: Literal["steps", "cosine"] = "steps"
    steps: tuple[int, ...] = (12, 16)
    gamma: float = 0.2
    scaling: Literal["none", "sqrt"] = "none"  # ``sqrt`` multiplies both rates by the root of the batch size

    def factor(self, epoch: int, batch_size: int) -> float:
        """Returns the factor of both rates in an epoch; 0 is the first."""
        return (math.sqrt(batch_size) if self.scaling == "sqrt" else 1.0) * self.decay(epoch)


# The number is the percentage. The toolbox (OpenMixup) searches nine pairs of rates, see `toolbox_grid`; its entries
# here are the middle of that grid. SwAV: arXiv:2006.09882. SimCLR: settings of its version 2, arXiv:2006.10029.
FINETUNE_PROTOCOLS: dict[str, FinetuneProtocol] = {
    "toolbox-1": FinetuneProtocol(0.01, 0.1, weight_decay=5e-4),
    "toolbox-10": FinetuneProtocol(0.01, 0.1, weight_decay=1e-4),
    "swav-1": FinetuneProtocol(0.02, 5.0),
    "swav-10": FinetuneProtocol(0.01, 0.2),
    "simclr-1": FinetuneProtocol(
        0.005, 0.005, epochs=60, batch_size=1024, schedule="cosine", optimizer="lars", scaling="sqrt"
    ),
    "barlow-1": FinetuneProtocol(0.005, 0.5, schedule="cosine"),
}


def toolbox_grid(protocol: FinetuneProtocol) -> list[FinetuneProtocol]:
    """Returns the toolbox's nine pairs of rates: backbone 0.001 to 0.1, head 1, 10 and 100 times as much."""
    rates = [(lr, lr * times) for lr in (0.001, 0.01, 0.1) for times in (1.0, 10.0, 100.0)]
    return [replace(protocol, backbone_lr=backbone, head_lr=head) for backbone, head in rates]


class WithHead(nn.Module):
    """A backbone and a new linear layer: weights N(0, 0.01^2), biases 0.

    Args:
        backbone: maps (B, C, H, W) to (B, F).
        width: F.
        num_classes: K.
        seed: of the weights.
    """

    def __init__(self, backbone: nn.Module, width: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, num_classes)
        generator = torch.Generator().manual_seed(stream_seed("finetune", seed))
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(num_classes, width, generator=generator) * 0.01)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, K)."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


def build_finetune_optimizer(network: WithHead, protocol: FinetuneProtocol) -> torch.optim.Optimizer:
    """Builds the optimiser of the backbone's trainable parameters and the head; a group keeps its rate as ``base``."""
    backbone = [p for p in network.backbone.parameters() if p.requires_grad]
    head = {"params": list(network.head.parameters()), "lr": protocol.head_lr, "base": protocol.head_lr}
    base = {"lr": protocol.backbone_lr, "base": protocol.backbone_lr}
    if protocol.optimizer == "sgd":
        return protocol.build_optimizer([{**base, "params": backbone}, head])
    matrices, vectors = [p for p in backbone if p.ndim > 1], [p for p in backbone if p.ndim <= 1]
    adapted = {**base, "params": matrices, "always_adapt": True}  # timm's default adapts only what is decayed
    return protocol.build_optimizer(
        [adapted, {**base, "params": vectors, "weight_decay": 0.0}, {**head, "weight_decay": 0.0}]
    )


def fine_tune(
    backbone: nn.Module, batches: TrainBatches, num_classes: int, protocol: FinetuneProtocol, *, seed: int = 0
) -> WithHead:
    """Trains a copy of the backbone and a new head; the backbone itself stays as it is.

    Dropout draws from torch's global generator, which is seeded here and restored afterwards.

    Args:
        backbone: maps (B, C, H, W) to (B, F), on the device of the batches.
        batches: of the labelled part, with the train transform.
        num_classes: K.
        protocol: how to train.
        seed: of head and dropout; order and augmentation are those of ``batches``.

    Returns:
        The trained network, in eval mode.

    Raises:
        ValueError: a backbone that does not give (B, F).
        RuntimeError: the loss is no longer finite.
    """
    copied = copy.deepcopy(backbone).requires_grad_(True)
    images, _ = next(iter(batches.epoch(0)))
    with evaluating(copied):
        features = copied(images[:1])
    if features.dim() != 2:
        raise ValueError(f"the backbone must give (B, F), got {tuple(features.shape)}")
    with seeded(stream_seed("finetune", seed), images.device):
        network = WithHead(copied, features.shape[1], num_classes, seed).to(images.device)
        optimizer = build_finetune_optimizer(network, protocol)
        for epoch in range(protocol.epochs):
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * protocol.factor(epoch, batches.batch_size)
            network.train()
            total = torch.zeros((), device=images.device)
            for batch, labels in batches.epoch(epoch):
                loss = F.cross_entropy(network(batch), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach()
            if not total.isfinite():
                raise RuntimeError(f"fine-tuning: the loss of epoch {epoch} is not finite; lower the learning rates")
    return network.eval()


def finetune_metrics(network: WithHead, batches: EvalBatches, num_classes: int) -> dict[str, float]:
    """Returns ``top1``, ``top5``, ``nll`` and ``ece`` of a fine-tuned network, see :mod:`samix.train.metrics`."""
    device = next(network.parameters()).device

    def predict(images: Tensor) -> dict[str, Tensor]:
        with evaluating(network):
            return {"finetuned": network(images)}

    return classification_metrics(predict, batches.batches(), num_classes, device)["finetuned"]
