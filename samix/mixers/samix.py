"""SAMix's Mixer (Li et al. 2022, arXiv:2111.15454), and the released code where it is more precise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.mixers.base import (
    MaskGenerator,
    MaskGeneratorConfig,
    Upsample,
    attention_width,
    init_weights,
)
from samix.runtime.checks import check_number
from samix.runtime.typed_options import ShareBelow1, Weight


@dataclass(frozen=True)
class SAMixerConfig(MaskGeneratorConfig):
    """What SAMix's Mixer is.

    Args:
        gamma: strength of the lam encoding; None learns it in [0, 1] from 0 [paper], a number fixes it (the released
            code: 1).
        lam_scale: k of lam' = f(lam; k), see :func:`scale_lam`; -1 is the identity.
        dropout: on the content map. The released code: 0.1 for ImageNet, fine-grained data and ViTs, else 0.
        activation: of the content branch, ``elu`` [released code] or ``relu`` [paper].
        norm: of the content branch, ``batch``, or ``layer`` over channels (the released code's form for ViTs;
            independent of the batch).
        upsample: of the mask, ``bilinear`` or ``nearest``.
        scale_content: feed b rather than z_partner to the content branch, as both sources write it. In training
            BatchNorm cancels the factor of a scalar lam, so this changes nothing; in eval mode it does not, and the
            mask shifts to values never trained. Hence off.
        attention: ``mixing``, or AutoMix's ``cross``, where one map gives the query of a and the key of b; for
            ablations.
        content: ``nonlinear``, or AutoMix's ``linear``, one convolution with a bias; for ablations.
    """

    name: ClassVar[str] = "samix"

    gamma: Weight | None = 1.0
    lam_scale: float = -1.0
    dropout: ShareBelow1 = 0.0
    activation: Literal["elu", "relu"] = "elu"
    norm: Literal["batch", "layer"] = "batch"
    upsample: Upsample = "bilinear"
    scale_content: bool = False
    attention: Literal["mixing", "cross"] = "mixing"
    content: Literal["nonlinear", "linear"] = "nonlinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam_scale != -1:
            check_number("lam_scale (unless -1, the identity)", self.lam_scale, 0)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell of a map (B, C, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, 3)).movedim(3, 1)


class SAMixer(MaskGenerator):
    """Paints masks by attention among both images: SAMix's Mixer (arXiv:2111.15454, section 3).

    With a = (1 + gamma lam') z_own and b = (1 + gamma (1 - lam')) z_partner, query and key are two maps of [a; b]; the
    content is conv -> BatchNorm -> activation -> conv of the partner's features.

    Without the lam encoding (``gamma=0``), with ``cross`` and ``linear`` it is AutoMix's Mix Block without lam channel.

    Example:
        >>> mixer = samix.SAMixer(64).eval()
        >>> z = mixer.project(torch.randn(4, 64, 8, 8))  # feature maps of a batch
        >>> mixer.predict_mask(z, z.flip(0), torch.full((4,), 0.3), (32, 32)).shape
        torch.Size([4, 1, 32, 32])
    """

    config_class = SAMixerConfig

    def __init__(self, dim: int, config: SAMixerConfig | None = None, **options: object) -> None:
        super().__init__(dim, config, **options)
        c, width = self.config, attention_width(dim)
        self.gamma = nn.Parameter(torch.zeros(())) if c.gamma is None else float(c.gamma)
        mixing, linear = c.attention == "mixing", c.content == "linear"
        self.query = nn.Conv2d(2 * dim if mixing else dim, width, 1)  # of cross-attention the key's map too
        if mixing:
            self.key = nn.Conv2d(2 * dim, width, 1)
        self.value = nn.Conv2d(dim, 1 if linear else width, 1, bias=linear)
        self.activation = nn.ELU() if c.activation == "elu" else nn.ReLU()
        if not linear:
            self.norm = nn.BatchNorm2d(width) if c.norm == "batch" else ChannelNorm(width)
            self.value_out = nn.Conv2d(width, 1, 1, bias=False)
        self.dropout = nn.Dropout(c.dropout)
        init_weights(self)

    def project(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, P, h, w): query and key, each as own and as partner, and the hidden content.

        P is 5 d; of cross-attention, whose one map serves all four, 2 d; with a linear content d - 1 less.
        """
        own, other = self.dim, 2 * self.dim
        weights = [self.query.weight[:, :own]]
        if self.config.attention == "mixing":
            weights += [self.query.weight[:, own:other], self.key.weight[:, :own], self.key.weight[:, own:other]]
        return F.conv2d(z, torch.cat([*weights, self.value.weight]))

    def attend(self, projected: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = scale_lam(lam, self.config.lam_scale)
        own = (1.0 + self.gamma * encoded).view(-1, 1, 1)
        other = (1.0 + self.gamma * (1.0 - encoded)).view(-1, 1, 1)
        width = self.query.weight.shape[0]
        maps = 4 if self.config.attention == "mixing" else 1
        of_own = projected[:, : maps * width].flatten(2).chunk(maps, dim=1)  # each (B, d, n)
        of_other = partner[:, : maps * width].flatten(2).chunk(maps, dim=1)
        bias: Tensor = self.query.bias.view(-1, 1)  # type: ignore[union-attr]
        if self.config.attention == "mixing":
            query = own * of_own[0] + other * of_other[1] + bias
            key = own * of_own[2] + other * of_other[3] + self.key.bias.view(-1, 1)  # type: ignore[union-attr]
        else:
            query, key = own * of_own[0] + bias, other * of_other[0] + bias
        hidden = partner[:, maps * width :]
        if self.config.scale_content:
            hidden = hidden * other.unsqueeze(3)
        return query, key, self.finish_content(hidden).flatten(1)

    def finish_content(self, hidden: Tensor) -> Tensor:
        """The content (B, 1, h, w) from its projection (B, d, h, w), or (B, 1, h, w) where it is linear."""
        if self.config.content == "linear":
            assert self.value.bias is not None
            return self.dropout(hidden + self.value.bias.view(-1, 1, 1))  # type: ignore[no-any-return]
        return self.dropout(self.value_out(self.activation(self.norm(hidden))))  # type: ignore[no-any-return]

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamps a learned gamma to [0, 1] in place: a clamp in the forward pass would stop its gradient for good."""
        if isinstance(self.gamma, nn.Parameter):
            self.gamma.clamp_(0.0, 1.0)


def scale_lam(lam: Tensor, k: float) -> Tensor:
    """SAMix's lam' = f(lam; k), which pulls lam towards 1/2; less so for larger k.

    f = (4/3 lam^3 - 2 lam^2 + (k + 1) lam) / (k + 1/3) for k >= 0, increasing, with f(0) = 0, f(1/2) = 1/2, f(1) = 1
    and f(1 - lam) = 1 - f(lam); the identity for k = -1 [released code].

    Args:
        lam: any shape, in [0, 1].
        k: -1, or >= 0.
    """
    if k == -1:
        return lam
    if k < 0:
        raise ValueError(f"lam_scale must be -1 (identity) or at least 0, got {k}")
    return (4.0 / 3.0 * lam**3 - 2.0 * lam**2 + (k + 1.0) * lam) / (k + 1.0 / 3.0)
