"""Barlow Twins: equal columns in both views, and no two columns alike (Zbontar et al. 2021, arXiv:2103.03230).

It takes no mixup: its loss compares columns, and no source says what the columns of a mix should be.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from samix.losses.contrastive import barlow_twins, normalized
from samix.methods.contrastive.base import FixedMixupMethod
from samix.methods.contrastive.mixup import Views, check_views
from samix.networks.encoder import Encoder
from samix.networks.heads import normed_mlp
from samix.runtime import distributed
from samix.runtime.typed_options import AtLeast2, CheckedOptions, Positive


@dataclass(frozen=True)
class BarlowTwinsOptions(CheckedOptions):
    """Options of Barlow Twins; the defaults are the paper's.

    Args:
        preset: name of the preset these values come from.
        dim: width of all layers of the projector.
        redundancy: weight of the correlations between columns.
        scale: factor of the loss, for small learning rates.

    Example:
        >>> samix.BarlowTwinsOptions(dim=512).dim
        512
    """

    preset: str = "imagenet"
    dim: AtLeast2 = 8192
    redundancy: Positive = 0.0051
    scale: Positive = 1.0


BARLOW_PRESETS: dict[str, BarlowTwinsOptions] = {
    "imagenet": BarlowTwinsOptions(),
    "cifar": BarlowTwinsOptions(preset="cifar", dim=2048, scale=0.1),
}


class BarlowTwins(FixedMixupMethod[BarlowTwinsOptions]):
    """Learns embeddings whose dimensions agree between views and are independent (Barlow Twins); takes no mixup.

    Args:
        options: a :class:`BarlowTwinsOptions`, or the name of a preset: ``imagenet``, ``cifar``.
        mixup: None; Barlow Twins takes no mixup.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.BarlowTwins(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = BARLOW_PRESETS
    title = "Barlow Twins"
    fixed_mixing = "its loss compares columns, not images, so it has no mixed form"
    clean_part = "clean"

    def build(self, model: nn.Module) -> None:
        o = self.options
        self.encoder = Encoder(model, lambda width: normed_mlp((width, o.dim, o.dim, o.dim), last_norm=False))

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step (arXiv:2103.03230, Algorithm 1); ``clean`` is the loss before the factor.

        Every process computes the same loss, of the embeddings of all, so that the mean of their gradients is the
        gradient of that loss.
        """
        view_1, view_2, _ = check_views(batch)
        z1, z2 = (distributed.gather_with_gradient(self.encoder(view)) for view in (view_1, view_2))
        clean = barlow_twins(z1, z2, self.options.redundancy)
        _, parts = self.total(clean, [], 0.0, normalized(z2))
        return self.options.scale * clean, parts
