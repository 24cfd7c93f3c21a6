"""SimSiam: predict the other view's embedding, through which no gradient flows (Chen & He 2021, arXiv:2011.10566).

Without negatives and without an EMA encoder, the stopped gradient alone keeps it from collapsing. With a mixup, the
prediction of a mixed view regresses the embeddings of the other views of its sources, in their shares: the form of BSIM
(Chu et al. 2020, arXiv:2012.09387).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.losses.contrastive import mixed_regression_loss, normalized, regression_loss
from samix.methods.base import ParameterGroups
from samix.methods.contrastive.base import FixedMixupMethod
from samix.methods.contrastive.mixup import Views, check_views
from samix.networks.encoder import Encoder
from samix.networks.heads import normed_mlp
from samix.runtime.typed_options import CheckedOptions, Count, Weight


@dataclass(frozen=True)
class SimSiamOptions(CheckedOptions):
    """Options of SimSiam; the defaults are the paper's.

    Args:
        preset: name of the preset these values come from.
        dim: D of the embedding, and width of the projector's hidden layers.
        hidden: width of the predictor's hidden layer.
        mixed_weight: weight of the mixed loss.

    Example:
        >>> samix.SimSiamOptions(dim=512).dim
        512
    """

    preset: str = "imagenet"
    dim: Count = 2048
    hidden: Count = 512
    mixed_weight: Weight = 1.0


SIMSIAM_PRESETS: dict[str, SimSiamOptions] = {"imagenet": SimSiamOptions()}


class SimSiam(FixedMixupMethod[SimSiamOptions]):
    """Learns by predicting one view's embedding from the other, with a stop-gradient (SimSiam).

    The last scale of each residual block of a ResNet should start at 0, as timm's does.

    Args:
        options: a :class:`SimSiamOptions`, or the name of a preset: ``imagenet``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.SimSiam(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = SIMSIAM_PRESETS
    title = "SimSiam"
    clean_part = "clean"

    def build(self, model: nn.Module) -> None:
        o = self.options
        self.encoder = Encoder(model, lambda width: normed_mlp((width, o.dim, o.dim, o.dim), last_affine=False))
        device = next(model.parameters()).device
        self.predictor = normed_mlp((o.dim, o.hidden, o.dim), last_norm=False, last_bias=True).to(device)

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step (arXiv:2011.10566, Algorithm 1), the mean of both directions; ``clean`` is in [-1, 1]."""
        view_1, view_2, _ = check_views(batch)
        z1, z2 = self.encoder(view_1), self.encoder(view_2)
        targets = normalized(z2).detach(), normalized(z1).detach()  # of either direction: the other view's
        pairs = zip((z1, z2), targets, strict=True)
        clean = torch.stack([self.negative_cosine(z, target) for z, target in pairs]).mean()
        mixed = self.mixed_terms((view_1, view_2), targets, self.mixed_negative_cosine)
        return self.total(clean, mixed, self.options.mixed_weight, targets[0], mean=True)

    def negative_cosine(self, z: Tensor, target: Tensor) -> Tensor:
        """``-cos(predictor(z), target)``, mean over the batch: half of BYOL's loss, less 1."""
        return regression_loss(normalized(self.predictor(z)), target).mean() / 2.0 - 1.0

    def mixed_negative_cosine(self, z: Tensor, batch: MixedBatch, targets: Tensor) -> Tensor:
        """The same of mixes z with the targets (B, D) of their sources, in their shares."""
        prediction = normalized(self.predictor(z))
        return mixed_regression_loss(prediction, targets[batch.index], batch.weights).mean() / 2.0 - 1.0

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.0, mixer_lr: float | None = None
    ) -> ParameterGroups:
        """The encoder, and the predictor as a group whose learning rate should stay constant (section 4.2)."""
        network = [p for p in self.encoder.parameters() if p.requires_grad]
        predictor = list(self.predictor.parameters())
        return [
            {"name": "network", "params": network, "lr": lr, "weight_decay": weight_decay},
            {"name": "predictor", "params": predictor, "lr": lr, "weight_decay": weight_decay},
        ]
