"""Linear probe: one linear layer on a frozen backbone, by the protocols of the papers.

Two forms. With augmentation, the protocols' own: every image is varied anew and passes the backbone in every epoch. On
features, the fast one: each image passes once, under the test transform; its results are not the protocols' numbers and
are to be called "features". Both train several learning rates at once, as heads of one tensor that share every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samix.data import TrainBatches
from samix.data.order import epoch_order, stream_seed
from samix.eval.features import Features, checked
from samix.eval.protocol import Protocol
from samix.runtime.typed_options import Positive, ShareBelow1


@dataclass(frozen=True, kw_only=True)
class LinearProtocol(Protocol):
    """How the linear layer is trained; LARS adapts although nothing is decayed, as the papers' code does."""

    lr: Positive = 0.1  # learning rate; per 256 images if ``scaled``
    scaled: bool = False  # multiply lr by batch size / 256
    nesterov: bool = False  # the form of momentum
    smoothing: ShareBelow1 = 0.0  # label smoothing in [0, 1)

    def learning_rate(self, epoch: int, batch_size: int | None = None) -> float:
        """Returns the rate of an epoch (0 is the first), at the protocol's batch size or another."""
        scale = (batch_size or self.batch_size) / 256 if self.scaled else 1.0
        return self.lr * scale * self.decay(epoch)


# Sources: MoCo (He et al. 2020, arXiv:1911.05722), whose setting SAMix (arXiv:2111.15454) takes for its ResNets;
# MoCo v3 (arXiv:2104.02057); SimSiam (arXiv:2011.10566); SwAV (arXiv:2006.09882); Barlow Twins (arXiv:2103.03230);
# SimCLR (arXiv:2002.05709); i-Mix (arXiv:2010.08887).
PROTOCOLS: dict[str, LinearProtocol] = {
    "moco": LinearProtocol(lr=30.0, schedule="steps", steps=(60, 80)),
    "moco-small": LinearProtocol(lr=0.1, schedule="steps", steps=(60, 80)),  # STL-10 and Tiny-ImageNet
    "mocov3": LinearProtocol(lr=0.1, scaled=True, batch_size=1024, epochs=90),  # ResNet-50
    "samix-vits": LinearProtocol(lr=3.0, scaled=True, batch_size=1024, epochs=90),  # and MoCo v3's ViTs: 12 at 1024
    "simsiam": LinearProtocol(optimizer="lars", lr=0.1, scaled=True, batch_size=4096, epochs=90),
    "swav": LinearProtocol(lr=0.3, weight_decay=1e-6),
    "barlow": LinearProtocol(lr=0.3, weight_decay=1e-6),
    "simclr": LinearProtocol(lr=0.1, scaled=True, batch_size=4096, epochs=90, nesterov=True),
    "imix": LinearProtocol(lr=10.0, schedule="steps", steps=(80, 90, 95), gamma=0.2),
}


class LinearProbe:
    """L linear layers, one for each learning rate, trained side by side on the same features.

    They start alike (weights N(0, 0.01^2), biases 0); each has the loss, gradient and update that it would have alone.

    Args:
        width: F of the features.
        num_classes: K.
        protocol: how to train.
        batch_size: images per step, for rates that scale with it; None takes the protocol's.
        lrs: learning rates in place of ``protocol.lr``, scaled alike; empty takes that one.
        seed: of the weights.
        device: of the features.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        protocol: LinearProtocol,
        *,
        batch_size: int | None = None,
        lrs: Sequence[float] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lrs = tuple(lrs) or (protocol.lr,)
        if min(self.lrs) <= 0:
            raise ValueError(f"learning rates must be positive, got {self.lrs}")
        self.protocol, self.batch_size, self.num_classes = protocol, batch_size or protocol.batch_size, num_classes
        generator = torch.Generator().manual_seed(stream_seed("probe", seed))
        weight = torch.randn(width, num_classes, generator=generator) * 0.01
        count = len(self.lrs)
        self.weight = weight[:, None].repeat(1, count, 1).to(device)  # (F, L, K), so that all layers are one product
        self.bias = torch.zeros(count, num_classes, device=device)  # (L, K)
        groups = [  # one for each layer; its tensors are views of the two above
            {"params": [torch.nn.Parameter(self.weight[:, n]), torch.nn.Parameter(self.bias[n])], "lr": lr}
            for n, lr in enumerate(self.lrs)
        ]
        adapt = {"always_adapt": True} if protocol.optimizer == "lars" else {}
        self.optimizer = protocol.build_optimizer(groups, nesterov=protocol.nesterov, **adapt)

    def start_epoch(self, epoch: int) -> None:
        """Sets the learning rates of an epoch; 0 is the first."""
        scale = self.protocol.learning_rate(epoch, self.batch_size) / self.protocol.lr
        for lr, group in zip(self.lrs, self.optimizer.param_groups, strict=True):
            group["lr"] = lr * scale

    def logits(self, features: Tensor) -> Tensor:
        """Maps (B, F) to (B, L, K)."""
        joined = torch.addmm(self.bias.flatten(), features, self.weight.flatten(1))
        return joined.view(-1, len(self.lrs), self.num_classes)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        """Updates every layer once; features (B, F) float32, labels (B,) int64. Returns (L,) losses before it."""
        logs = self.logits(features).log_softmax(2)  # (B, L, K)
        smoothing = self.protocol.smoothing
        targets = torch.full_like(logs[:, 0], smoothing / self.num_classes)  # (B, K)
        targets.scatter_(1, labels[:, None], 1.0 - smoothing + smoothing / self.num_classes)
        # The gradient of a linear layer needs no graph: (softmax - targets) / B by logit.
        slope = (logs.exp() - targets[:, None]) / len(features)  # (B, L, K)
        weight_grad = (features.T @ slope.flatten(1)).view_as(self.weight)
        bias_grad = slope.sum(0)
        for number, group in enumerate(self.optimizer.param_groups):
            group["params"][0].grad, group["params"][1].grad = weight_grad[:, number], bias_grad[number]
        self.optimizer.step()
        return -(targets[:, None] * logs).sum(2).mean(0)

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor, chunk: int = 4096) -> dict[float, dict[str, float]]:
        """Returns, by learning rate, ``top1`` and ``top5`` (top-K when K < 5) in percent.

        Args:
            features: (M, F), under the test transform.
            labels: (M,) int64.
            chunk: rows at a time.
        """
        if len(features) == 0:
            raise ValueError("nothing to test the probe on: the split is empty")
        hits = torch.zeros(len(self.lrs), 2, dtype=torch.float64, device=features.device)
        for part, wanted in zip(torch.split(features, chunk), torch.split(labels, chunk), strict=True):
            ranked = self.logits(part.float()).topk(min(5, self.num_classes), dim=2).indices  # (b, L, 5)
            right = ranked == wanted[:, None, None]
            hits += torch.stack([right[:, :, 0].sum(0), right.any(2).sum(0)], dim=1)
        rows = (100.0 * hits / len(features)).tolist()
        return {lr: {"top1": row[0], "top5": row[1]} for lr, row in zip(self.lrs, rows, strict=True)}


def probe_features(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    protocol: LinearProtocol,
    *,
    lrs: Sequence[float] = (),
    seed: int = 0,
) -> LinearProbe:
    """Trains on features that were taken once, the fast form.

    Batches are those of the protocol, or the whole split where that is smaller; the last of an epoch may be short.

    Args:
        features: (N, F), on the device to train on.
        labels: (N,) int64.
        num_classes: K.
        protocol: how to train.
        lrs: learning rates in place of the protocol's, each with a layer of its own.
        seed: of weights and order.

    Raises:
        ValueError: wrong shapes, or a number out of range.
    """
    if features.dim() != 2 or tuple(labels.shape) != (len(features),) or len(features) == 0:
        raise ValueError(f"expected features (N, F), labels (N,); got {tuple(features.shape)}, {tuple(labels.shape)}")
    features, size = features.float(), min(protocol.batch_size, len(features))
    probe = LinearProbe(
        features.shape[1], num_classes, protocol, batch_size=size, lrs=lrs, seed=seed, device=features.device
    )
    for epoch in range(protocol.epochs):
        probe.start_epoch(epoch)
        order = epoch_order(len(features), seed, epoch).to(features.device)
        for rows in torch.split(order, size):
            probe.step(features[rows], labels[rows])
    return probe


def probe_augmented(
    features: Features,
    batches: TrainBatches,
    num_classes: int,
    protocol: LinearProtocol,
    *,
    lrs: Sequence[float] = (),
    seed: int = 0,
) -> LinearProbe:
    """Trains by the protocol's own form: every epoch varies the images anew and passes them through the backbone.

    Further arguments as of :func:`probe_features`; the order is that of ``batches``.

    Args:
        features: images to (B, F), in eval mode and without a gradient, see :func:`samix.eval.features.frozen`.
        batches: of the train split, with the train transform; their batch size is the one that rates scale with.
    """
    probe: LinearProbe | None = None
    size = batches.batch_size
    for epoch in range(protocol.epochs):
        for step, (images, labels) in enumerate(batches.epoch(epoch)):
            with torch.no_grad():
                x = checked(features(images), len(images)).float()
            if probe is None:
                probe = LinearProbe(
                    x.shape[1], num_classes, protocol, batch_size=size, lrs=lrs, seed=seed, device=x.device
                )
            if step == 0:
                probe.start_epoch(epoch)
            probe.step(x, labels)
    assert probe is not None  # TrainBatches refuses to be empty
    return probe
