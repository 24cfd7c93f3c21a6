"""BYOL: predict what a slow copy says of the other view, without negatives (Grill et al. 2020, arXiv:2006.07733).

With a mixup, the prediction of a mixed view regresses what the slow copy says of the other views of its sources, in
their shares: the form of BSIM (Chu et al. 2020, arXiv:2012.09387).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from samix.losses.contrastive import mixed_regression_loss, normalized, regression_loss
from samix.methods.contrastive.base import GivenMixupMethod, check_numbers, detached, spread
from samix.methods.contrastive.mixup import check_views
from samix.networks.ema import momentum_at, momentum_copy, train_norms, update_momentum
from samix.networks.encoder import Encoder
from samix.networks.heads import normed_mlp


@dataclass(frozen=True)
class BYOLOptions:
    """Options of BYOL; the defaults are the paper's for up to 300 epochs.

    Args:
        preset: name of the preset these values come from.
        hidden: width of the hidden layer of projector and predictor.
        dim: D of the embedding.
        momentum: coefficient of the slow copy at the start, in [0, 1].
        momentum_end: at the end, by a cosine.
        mixed_weight: weight of the mixed loss.
    """

    name: ClassVar[str] = "byol"

    preset: str = "imagenet"
    hidden: int = 4096
    dim: int = 256
    momentum: float = 0.99
    momentum_end: float = 1.0
    mixed_weight: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, counts=("hidden", "dim"), shares=("momentum", "momentum_end"))


BYOL_PRESETS: dict[str, BYOLOptions] = {
    "imagenet": BYOLOptions(),
    "imagenet-1000": BYOLOptions(preset="imagenet-1000", momentum=0.996),
}


class BYOL(GivenMixupMethod[BYOLOptions]):
    """An encoder with a predictor, and the encoder's slow copy, which gives the targets.

    ``loss, parts = method((view_1, view_2))``. BatchNorm should see the batch of all processes: convert the method by
    ``nn.SyncBatchNorm.convert_sync_batchnorm`` where there are several.

    Args:
        options: a :class:`BYOLOptions`, or the name of a preset: ``imagenet``, ``imagenet-1000``.
        model, mixup, generator: as for :class:`samix.methods.contrastive.base.GivenMixupMethod`.
    """

    presets: ClassVar[Any] = BYOL_PRESETS
    title: ClassVar[str] = "BYOL"

    def build(self, model: nn.Module) -> None:
        """Makes the encoder, the predictor and the slow copy."""
        o = self.options
        self.online = Encoder(model, lambda width: normed_mlp((width, o.hidden, o.dim), last_norm=False))
        device = next(model.parameters()).device
        self.predictor = normed_mlp((o.dim, o.hidden, o.dim), last_norm=False).to(device)
        self.momentum = momentum_copy(self.online)
        self.train()

    def forward(self, batch: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step (arXiv:2006.07733, section 3.1), both directions added, and with a mixup the mixed loss.

        Args:
            batch: two views (B, C, H, W) of the same images, normalised.

        Returns:
            Loss, and its parts: ``clean`` in [0, 8], with a mixup ``mixed`` and what the mixup adds, and ``key_std``,
            the targets' spread (1 is healthy, 0 collapsed).

        Raises:
            ValueError: one view only, or views of another shape.
        """
        view_1, view_2, _ = check_views(batch)
        target_1, target_2 = self.targets(view_1), self.targets(view_2)
        clean = regression_loss(self.predict_target(self.online(view_1)), target_2).mean()
        clean = clean + regression_loss(self.predict_target(self.online(view_2)), target_1).mean()
        loss, parts = clean, {"clean": clean}
        if self.mixing is not None:
            both = self.mix_both(view_1, view_2)
            terms = [
                mixed_regression_loss(self.predict_target(z), target[m.index], m.weights).mean()
                for (z, m), target in zip(both, (target_2, target_1), strict=True)
            ]
            mixed = torch.stack(terms).sum()
            loss = self.add_mixed(loss, parts, mixed, self.options.mixed_weight, [m for _, m in both])
        parts["key_std"] = spread(target_2)
        return loss, detached(parts)

    def predict_target(self, z: Tensor) -> Tensor:
        """Unit predictions (B, D) from embeddings (B, D)."""
        return normalized(self.predictor(z))

    @torch.no_grad()
    def targets(self, view: Tensor) -> Tensor:
        """Unit embeddings (B, D) of a view by the slow copy, without gradient and without predictor."""
        return normalized(self.momentum(view))

    def after_step(self, progress: float) -> None:
        """Moves the slow copy towards the encoder."""
        self.progress = progress
        o = self.options
        update_momentum(self.online, self.momentum, momentum_at(progress, o.momentum, o.momentum_end, 0.0))

    def train(self, mode: bool = True) -> BYOL:
        """Train mode; of the slow copy only norms that keep statistics."""
        super().train(mode)
        train_norms(self.momentum, mode)
        return self
