"""BYOL: predict the EMA encoder's embedding of the other view, without negatives (Grill et al. 2020, arXiv:2006.07733).

With a mixup, the prediction of a mixed view regresses the EMA encoder's embeddings of the other views of its sources,
in their shares: the form of BSIM (Chu et al. 2020, arXiv:2012.09387).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samix.losses.contrastive import mixed_regression_loss, normalized, regression_loss
from samix.methods.contrastive.base import EMAEncoderMethod, FixedMixupMethod
from samix.methods.contrastive.mixup import Views, check_views
from samix.networks.ema import ema_copy
from samix.networks.encoder import Encoder
from samix.networks.heads import normed_mlp
from samix.runtime.typed_options import CheckedOptions, Count, Share, Weight


@dataclass(frozen=True)
class BYOLOptions(CheckedOptions):
    """Options of BYOL; the defaults are the paper's for up to 300 epochs.

    Args:
        preset: name of the preset these values come from.
        hidden: width of the hidden layer of projector and predictor.
        dim: D of the embedding.
        ema_decay: of the EMA encoder at the start (the paper's tau), in [0, 1].
        ema_decay_end: its value at the end, by a cosine.
        mixed_weight: weight of the mixed loss.

    Example:
        >>> samix.BYOLOptions(ema_decay=0.99).ema_decay
        0.99
    """

    preset: str = "imagenet"
    hidden: Count = 4096
    dim: Count = 256
    ema_decay: Share = 0.99
    ema_decay_end: Share = 1.0
    mixed_weight: Weight = 1.0


BYOL_PRESETS: dict[str, BYOLOptions] = {
    "imagenet": BYOLOptions(),
    "imagenet-1000": BYOLOptions(preset="imagenet-1000", ema_decay=0.996),
}


class BYOL(EMAEncoderMethod, FixedMixupMethod[BYOLOptions]):
    """Learns by predicting the averaged encoder's embedding of the other view (BYOL).

    Args:
        options: a :class:`BYOLOptions`, or the name of a preset: ``imagenet``, ``imagenet-1000``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.BYOL(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = BYOL_PRESETS
    title = "BYOL"
    clean_part = "clean"

    def build(self, model: nn.Module) -> None:
        o = self.options
        self.encoder = Encoder(model, lambda width: normed_mlp((width, o.hidden, o.dim), last_norm=False))
        device = next(model.parameters()).device
        self.predictor = normed_mlp((o.dim, o.hidden, o.dim), last_norm=False).to(device)
        self.ema_encoder = ema_copy(self.encoder)

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step (arXiv:2006.07733, section 3.1), both directions added; ``clean`` is in [0, 8]."""
        view_1, view_2, _ = check_views(batch)
        target_1, target_2 = self.targets(view_1), self.targets(view_2)
        clean = regression_loss(self.predict_target(self.encoder(view_1)), target_2).mean()
        clean = clean + regression_loss(self.predict_target(self.encoder(view_2)), target_1).mean()
        mixed = self.mixed_terms(
            (view_1, view_2),
            (target_2, target_1),
            lambda z, m, target: mixed_regression_loss(self.predict_target(z), target[m.index], m.weights).mean(),
        )
        return self.total(clean, mixed, self.options.mixed_weight, target_2)

    def predict_target(self, z: Tensor) -> Tensor:
        """Unit predictions (B, D) from embeddings (B, D)."""
        return normalized(self.predictor(z))

    @torch.no_grad()
    def targets(self, view: Tensor) -> Tensor:
        """Unit embeddings (B, D) of a view by the EMA encoder, without gradient and without predictor."""
        return normalized(self.ema_encoder(view))
