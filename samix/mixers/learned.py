"""The two learned mixups as networks over pairs: AutoMix's Mix Block and SAMix's Mixer.

Both read feature maps of two images and paint a mask. Sources: AutoMix (Liu et al. 2022, arXiv:2103.13027), SAMix (Li
et al. 2022, arXiv:2111.15454), and the authors' released code where it is more precise than the papers.

All convolutions are 1x1, so a projection of the *un-permuted* batch serves every pairing of it: ``project`` runs once,
``predict_mask`` gathers by index. ``W [a; b]`` is computed as ``W1 a + W2 b``, which is the same mathematics.

Letters: B batch, D feature channels, d attention width (D / 2), h w feature cells, n = h w.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, check_pair
from samix.mixups.base import Guides, blend

Upsample = Literal["nearest", "bilinear"]
Attention = Literal["mixing", "cross"]
Content = Literal["nonlinear", "linear"]


class MaskGenerator(nn.Module):
    """What both networks share: the attention, the mask, and the call of a policy."""

    dim: int
    upsample: Upsample

    def project(self, z: Tensor) -> Tensor:
        """Every linear map of the feature map that the masks of all pairings need: (B, D, h, w) -> (B, P, h, w)."""
        raise NotImplementedError

    def attend(self, projected: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, d, n), key (B, d, n) and content (B, n) of the pairs, from their projections (B, P, h, w)."""
        raise NotImplementedError

    def predict_mask(self, projected: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """The mask of each pair.

        With attention P = softmax over the partner's cells of (Q^T K / sqrt(d)) and content c of the partner, the
        partner's logit is t = P c and its mask sigmoid(U(t)); the own mask is the complement. Attention, softmax and
        mask are float32, also under autocast.

        Args:
            projected: (B, P, h, w) projections of the own feature maps, from :meth:`project`.
            partner: (B, P, h, w) projections of the partners'.
            lam: (B,) share of the own image, in [0, 1].
            size: (H, W) of the images.

        Returns:
            (B, 1, H, W) float32 in (0, 1), 1 where the own pixel stays.
        """
        height, width = projected.shape[-2:]
        query, key, content = self.attend(projected, partner, lam)
        with torch.autocast(projected.device.type, enabled=False):
            query = query.float() * query.shape[1] ** -0.5  # scaled before the product: no overflow for large features
            attention = torch.softmax(query.transpose(1, 2) @ key.float(), dim=2)  # (B, n, n), rows sum to 1
            logit = (attention @ content.float().unsqueeze(2)).view(-1, 1, height, width)
            return torch.sigmoid(-resize(logit, size, self.upsample))  # 1 - sigmoid(t), without the cancellation

    def forward(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None) -> Mixed:
        """Mixes pairs by the painted mask.

        Args:
            x: (B, C, H, W) images. Not modified.
            partner: (B, C, H, W) their partners.
            lam: (B,) share of the own image in the label, in [0, 1].
            guides: feature maps (B, D, h, w) of x and of partner.

        Returns:
            Mixed; lam is given back as drawn: the label of a learned mixup is lam, not the mask's mean.

        Raises:
            ValueError: guides missing or of another shape; x and partner, or lam, differ in shape.
        """
        check_pair(x, partner, lam)
        own, other = self.check_guides(guides, len(x))
        mask = self.predict_mask(self.project(own), self.project(other), lam, (x.shape[-2], x.shape[-1]))
        return Mixed(blend(x, partner, mask), lam, mask)

    def check_guides(self, guides: Guides | None, batch_size: int) -> Guides:
        """Raises ValueError unless guides are two maps (B, D, h, w) of this Mixer's width."""
        if guides is None:
            raise ValueError(
                f"{type(self).__name__} needs guides: the feature maps (B, {self.dim}, h, w) of x and of partner"
            )
        for z in guides:
            if z.dim() != 4 or len(z) != batch_size or z.shape[1] != self.dim:
                raise ValueError(f"guides must have shape ({batch_size}, {self.dim}, h, w), got {tuple(z.shape)}")
        return guides

    def after_step(self) -> None:
        """Called after each optimiser step: brings constrained parameters back into their range."""


def resize(logit: Tensor, size: tuple[int, int], mode: Upsample) -> Tensor:
    """(B, 1, h, w) -> (B, 1, H, W) for any size, by nearest neighbour or bilinear without aligned corners."""
    if mode == "nearest":
        return F.interpolate(logit, size, mode="nearest-exact")
    return F.interpolate(logit, size, mode="bilinear", align_corners=False)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def attention_width(dim: int) -> int:
    """D = D / 2, as in both papers.

    Raises:
        ValueError: fewer than two feature channels.
    """
    if dim < 2:
        raise ValueError(f"a Mixer needs at least 2 feature channels, got {dim}; choose a deeper feature stage")
    return dim // 2


def init_weights(mixer: nn.Module) -> None:
    """Convolutions N(0, 0.01^2) with bias 0, norms 1 and 0 [released code]: the first masks are 1/2 everywhere."""
    for module in mixer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell of a map (B, C, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return super().forward(input.movedim(1, 3)).movedim(3, 1)


class AutoMixer(MaskGenerator):
    """AutoMix's Mix Block (arXiv:2103.13027, Eq. 6 and 7).

    Query and key share one convolution of [z; lam]; the content is a linear map of the partner's features.

    Args:
        dim: D, channels of the feature map.
        lam_channel: append lam (own) and 1 - lam (partner) as a constant channel. The released code leaves it out on
            CIFAR and Tiny-ImageNet, where the mask is then the same for every lam.
        upsample: ``nearest`` [released code] or ``bilinear``.
    """

    def __init__(self, dim: int, *, lam_channel: bool = True, upsample: Upsample = "nearest") -> None:
        super().__init__()
        check_choice("upsample", upsample, ("nearest", "bilinear"))
        self.dim, self.lam_channel, self.upsample = dim, lam_channel, upsample
        self.query_key = nn.Conv2d(dim + lam_channel, attention_width(dim), 1)
        self.value = nn.Conv2d(dim + lam_channel, 1, 1)
        init_weights(self)

    def project(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, d + 1, h, w): shared query/key map and content, still without lam's share."""
        weight = torch.cat([self.query_key.weight, self.value.weight])[:, : self.dim]
        bias = torch.cat([self.query_key.bias, self.value.bias])  # type: ignore[list-item]  # both have one
        return F.conv2d(z, weight, bias)

    def attend(self, projected: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adds lam's channel: W [z; lam] = W_z z + lam w."""
        own, other = projected.flatten(2), partner.flatten(2)  # (B, d + 1, n)
        if self.lam_channel:
            weight = torch.cat([self.query_key.weight, self.value.weight])[:, self.dim].view(1, -1, 1)  # (1, d + 1, 1)
            own = own + lam.view(-1, 1, 1) * weight
            other = other + (1.0 - lam).view(-1, 1, 1) * weight
        return own[:, :-1], other[:, :-1], other[:, -1]


class SAMixer(MaskGenerator):
    """SAMix's Mixer (arXiv:2111.15454, section 3): adaptive lam encoding, mixing attention, non-linear content.

    With a = (1 + gamma lam') z_own and b = (1 + gamma (1 - lam')) z_partner, query and key are two maps of [a; b]; the
    content is conv -> BatchNorm -> activation -> conv of the partner's features.

    Args:
        dim: D, channels of the feature map.
        gamma: strength of the lam encoding; ``None`` learns it in [0, 1] from 0 [paper], a number fixes it (the
        released code: 1).
        lam_scale: k of lam' = f(lam; k), see :func:`scale_lam`; -1 is the identity.
        dropout: on the content map. The released code: 0.1 for ImageNet, fine-grained data and ViTs, else 0.
        activation: ``elu`` [released code] or ``relu`` [paper].
        norm: ``batch``, or ``layer`` over channels (the released code's form for ViTs; independent of the batch).
        upsample: ``bilinear`` or ``nearest``.
        scale_content: feed b rather than z_partner to the content branch, as both sources write it. In training
            BatchNorm cancels the factor of a scalar lam, so this changes nothing; in eval mode it does not, and the
            mask shifts to values never trained. Hence False.
        attention: ``mixing``, or ``cross`` as in AutoMix: one map gives the query of a and the key of b. For ablations.
        content: ``nonlinear``, or ``linear`` as in AutoMix: one convolution with a bias. For ablations.

    Without the lam encoding (``gamma=0``), with ``cross`` and ``linear`` it is AutoMix's Mix Block without lam channel.
    """

    def __init__(
        self,
        dim: int,
        *,
        gamma: float | None = 1.0,
        lam_scale: float = -1.0,
        dropout: float = 0.0,
        activation: Literal["elu", "relu"] = "elu",
        norm: Literal["batch", "layer"] = "batch",
        upsample: Upsample = "bilinear",
        scale_content: bool = False,
        attention: Attention = "mixing",
        content: Content = "nonlinear",
    ) -> None:
        super().__init__()
        check_choice("attention", attention, get_args(Attention))
        check_choice("content", content, get_args(Content))
        check_choice("upsample", upsample, ("nearest", "bilinear"))
        check_choice("activation", activation, ("elu", "relu"))
        check_choice("norm", norm, ("batch", "layer"))
        width = attention_width(dim)
        self.dim, self.upsample, self.lam_scale, self.scale_content = dim, upsample, lam_scale, scale_content
        self.gamma = nn.Parameter(torch.zeros(())) if gamma is None else float(gamma)
        self.attention, self.content = attention, content
        mixing, linear = attention == "mixing", content == "linear"
        self.query = nn.Conv2d(2 * dim if mixing else dim, width, 1)  # of cross-attention the key's map too
        if mixing:
            self.key = nn.Conv2d(2 * dim, width, 1)
        self.value = nn.Conv2d(dim, 1 if linear else width, 1, bias=linear)
        self.activation = nn.ELU() if activation == "elu" else nn.ReLU()
        if not linear:
            self.norm = nn.BatchNorm2d(width) if norm == "batch" else ChannelNorm(width)
            self.value_out = nn.Conv2d(width, 1, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        init_weights(self)

    def project(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, P, h, w): query and key, each as own and as partner, and the hidden content.

        P is 5 d; of cross-attention, whose one map serves all four, 2 d; with a linear content d - 1 less.
        """
        own, other = self.dim, 2 * self.dim
        weights = [self.query.weight[:, :own]]
        if self.attention == "mixing":
            weights += [self.query.weight[:, own:other], self.key.weight[:, :own], self.key.weight[:, own:other]]
        return F.conv2d(z, torch.cat([*weights, self.value.weight]))

    def attend(self, projected: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighs the shared projections by the lam encoding and finishes the content branch."""
        encoded = scale_lam(lam, self.lam_scale)
        own = (1.0 + self.gamma * encoded).view(-1, 1, 1)
        other = (1.0 + self.gamma * (1.0 - encoded)).view(-1, 1, 1)
        width = self.query.weight.shape[0]
        maps = 4 if self.attention == "mixing" else 1
        of_own = projected[:, : maps * width].flatten(2).chunk(maps, dim=1)  # each (B, d, n)
        of_other = partner[:, : maps * width].flatten(2).chunk(maps, dim=1)
        bias: Tensor = self.query.bias.view(-1, 1)  # type: ignore[union-attr]
        if self.attention == "mixing":
            query = own * of_own[0] + other * of_other[1] + bias
            key = own * of_own[2] + other * of_other[3] + self.key.bias.view(-1, 1)  # type: ignore[union-attr]
        else:
            query, key = own * of_own[0] + bias, other * of_other[0] + bias
        hidden = partner[:, maps * width :]
        if self.scale_content:
            hidden = hidden * other.unsqueeze(3)
        return query, key, self.finish_content(hidden).flatten(1)

    def finish_content(self, hidden: Tensor) -> Tensor:
        """The content (B, 1, h, w) from its projection (B, d, h, w), or (B, 1, h, w) where it is linear."""
        if self.content == "linear":
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

    Raises:
        ValueError: another k, for which f is not monotone.
    """
    if k == -1:
        return lam
    if k < 0:
        raise ValueError(f"lam_scale must be -1 (identity) or at least 0, got {k}")
    return (4.0 / 3.0 * lam**3 - 2.0 * lam**2 + (k + 1.0) * lam) / (k + 1.0 / 3.0)


# ---------------------------------------------------------------------------------------------------------------------
# What is done to a mask before the classifier sees it. No gradient, no branch on values.


def margin_mask(mask: Tensor, lam: Tensor, margin: float) -> Tensor:
    """Plain MixUp where lam is near its ends: mask := lam where min(lam, 1 - lam) <= margin [released code].

    Args:
        mask: (B, 1, H, W) float32.
        lam: (B,).
        margin: in [0, 0.5]; negative switches it off.
    """
    near = (torch.minimum(lam, 1.0 - lam) <= margin).view(-1, 1, 1, 1)
    return torch.where(near, lam.view(-1, 1, 1, 1), mask)


def adjust_mask(mask: Tensor, lam: Tensor, eps: float = 1e-8) -> Tensor:
    """Rescales each mask so that its mean is lam (SAMix, "lambda adjusting").

    Where the mean m is above lam the mask is multiplied by lam / m, elsewhere its complement by (1 - lam) / (1 - m).
    Order of pixels and range [0, 1] are kept; applying it twice changes nothing.

    Args:
        mask: (B, 1, H, W) float32 in [0, 1].
        lam: (B,) in [0, 1].
        eps: keeps the division finite for masks that are 0 or 1 everywhere; those are replaced by lam's end or lam.

    Returns:
        (B, 1, H, W), mean lam over each sample.
    """
    lam = lam.view(-1, 1, 1, 1)
    mean = mask.mean(dim=(1, 2, 3), keepdim=True)
    shrunk = mask * (lam / mean.clamp(min=eps))
    grown = 1.0 - (1.0 - mask) * ((1.0 - lam) / (1.0 - mean).clamp(min=eps))
    return torch.where(mean > lam, shrunk, grown).clamp(0.0, 1.0)
