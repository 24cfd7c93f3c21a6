"""A backbone with a projector: what learning without labels trains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from samix.networks.backbone import REFUSALS, Backbone, as_backbone, is_timm, probe_sizes
from samix.networks.inference import evaluating


class Encoder(nn.Module):
    """Images to features to embeddings.

    Args:
        model: maps (B, C, H, W) to features (B, F): a timm network with ``num_classes=0``, or any ``nn.Module``.
        make_projector: F -> the projector, (B, F) -> (B, D).
        feature: stage whose map guides a Mixer: an index for timm networks (None: the third of four), the dotted name
            of a layer for others (None: no Mixer can be used).
    """

    def __init__(
        self, model: nn.Module, make_projector: Callable[[int], nn.Module], feature: int | str | None = None
    ) -> None:
        super().__init__()
        if is_timm(model) and getattr(model, "num_classes", 0) != 0:
            raise ValueError(
                f"{type(model).__name__} has a classifier of {model.num_classes} classes; learning without labels "
                "takes features: timm.create_model(..., num_classes=0)"
            )
        has_map = is_timm(model) or isinstance(feature, str)
        self.trunk: Backbone | None = as_backbone(model, feature) if has_map else None
        self.plain: nn.Module | None = model if self.trunk is None else None
        self.width = feature_width(model)
        self.projector = make_projector(self.width).to(next(model.parameters()).device)

    @property
    def model(self) -> nn.Module:
        """The network that was given."""
        network = self.plain if self.trunk is None else self.trunk.model
        assert network is not None
        return network

    @property
    def dim(self) -> int:
        """Channels of the feature map that guides a Mixer."""
        return self._trunk().dim

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F)."""
        return self.model(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), not of unit length."""
        return self.projector(self.model(x))  # type: ignore[no-any-return]

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', h, w), run only as far as needed."""
        return self._trunk().feature_map(x)

    def _trunk(self) -> Backbone:
        if self.trunk is None:
            layers = ", ".join(name for name, _ in self.model.named_children())
            raise ValueError(
                f'a Mixer needs a feature map: give feature="layer.name" of {type(self.model).__name__}; its top '
                f"layers are: {layers}"
            )
        return self.trunk


def feature_width(model: nn.Module) -> int:
    """F: what timm says, else measured by a pass in eval mode."""
    if hasattr(model, "feature_info") and hasattr(model, "num_features"):
        return int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    out: object = None
    with evaluating(model), torch.random.fork_rng(devices=[]):
        for height, width in ((32, 32), *probe_sizes(model, None)):
            with suppress(*REFUSALS):
                out = model(torch.zeros(1, channels, height, width, device=device))
                break
    if not isinstance(out, Tensor) or out.dim() != 2:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"the network must give features (B, F), got {got}; take away its head or pool its map")
    return out.shape[1]
