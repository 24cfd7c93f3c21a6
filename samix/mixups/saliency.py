"""Where an image is salient: detectors that look at pixels, and maps read from a network.

Pixel detectors need no network: :func:`spectral_residual` and :func:`fine_grained`. They work on 8-bit grey levels, so
the normalisation is undone first, see :func:`as_pixels`; a detector that is fed normalised values finds nothing. Maps
of a network: :func:`gradient_saliency`, :func:`class_activation`, :func:`activation_map`; all leave it as it was.

Everything is batched and stays on the images' device, in float32 whatever the images' type. Pixels that are not finite
count as 0 (normalised), so that they spoil no map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import TargetKind, as_targets, check_images, target_kind, target_loss
from samix.mixups.base import to_device
from samix.networks.backbone import HookedBackbone, not_timm
from samix.networks.classifier import linear_classifier
from samix.networks.inference import inspecting

Style = Literal["opencv", "guidedmixup"]

_GREY = (0.299, 0.587, 0.114)  # share of red, green and blue
_RADII = (12, 24, 48, 28, 56, 112)  # of the fine-grained detector's surrounds, in pixels
_FP16_SCALE = 1024.0  # of the loss, so that small gradients do not vanish in fp16
_FLAT = 0.5  # a smaller range of grey levels, of 255, is no contrast


# Pixels ---------------------------------------------------------------------------------------------------------------


def as_pixels(images: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """Undoes the normalisation.

    Args:
        images: (B, C, H, W) floating point. Not modified.
        mean: by channel, with which the images were normalised; None scales each image by its own range instead.

    Returns:
        (B, C, H, W) float32 in [0, 1]; 0.5 for an image without range whose mean and std are not known.
    """
    check_images(images)
    x = images.detach().float()
    x = torch.where(x.isfinite(), x, 0.0)
    if mean is None and std is None:
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        span = high - low
        return torch.where(span > 0.0, (x - low) / torch.where(span > 0.0, span, 1.0), 0.5).clamp(0.0, 1.0)
    if mean is None or std is None or len(mean) != x.shape[1] or len(std) != x.shape[1]:
        raise ValueError(f"need mean and std of {x.shape[1]} channels, or neither, got mean={mean} and std={std}")
    shift, scale = (to_device(torch.tensor(v, dtype=torch.float32), x.device).view(1, -1, 1, 1) for v in (mean, std))
    return (x * scale + shift).clamp(0.0, 1.0)


def _grey(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """(B, 1, H, W) grey levels, whole numbers from 0 to 255; images that are not RGB: the mean of their channels."""
    pixels = as_pixels(images, mean, std)
    if pixels.shape[1] != 3:
        return _whole(pixels.mean(1, keepdim=True) * 255.0)
    return _whole((_GREY[0] * pixels[:, :1] + _GREY[1] * pixels[:, 1:2] + _GREY[2] * pixels[:, 2:]) * 255.0)


def _whole(levels: Tensor) -> Tensor:
    """The nearest whole grey levels, halves up, as 8-bit code rounds."""
    return (levels + 0.5).floor()


def _reflected(x: Tensor, dim: int, reach: int) -> Tensor:
    """Pads an axis by its mirror image, the edge itself not repeated; for axes of any length."""
    size = x.shape[dim]
    period = max(2 * (size - 1), 1)
    at = torch.arange(-reach, size + reach, device=x.device).abs() % period
    return x.index_select(dim, torch.where(at < size, at, period - at))


def blur(x: Tensor, kernel: Sequence[float]) -> Tensor:
    """Convolves (..., H, W) with the same short odd kernel along both axes, mirrored at the border."""
    reach = len(kernel) // 2
    for dim in (x.dim() - 2, x.dim() - 1):
        wide, size = _reflected(x, dim, reach), x.shape[dim]
        x = sum((w * wide.narrow(dim, i, size) for i, w in enumerate(kernel)), torch.zeros_like(x))
    return x


def gaussian(width: int, sigma: float) -> list[float]:
    """A kernel of ``width`` (odd) values that sum to 1."""
    values = [math.exp(-((i - width // 2) ** 2) / (2.0 * sigma**2)) for i in range(width)]
    return [value / sum(values) for value in values]


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, h, w) to (B, 1, *size), bilinear."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _scaled(saliency: Tensor, grey: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, H, W) with largest value 1; all 1 where the image has no contrast."""
    top = saliency.amax((2, 3), keepdim=True)
    flat = (grey.amax((2, 3), keepdim=True) - grey.amin((2, 3), keepdim=True) < _FLAT) | ~(top > 0.0)
    return torch.where(flat, 1.0, saliency / torch.where(flat, 1.0, top)).clamp(0.0, 1.0).squeeze(1)


@torch.no_grad()
def spectral_residual(
    images: Tensor,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    size: int = 64,
    style: Style = "opencv",
) -> Tensor:
    """What is unexpected in the spectrum of the image.

    Spectral residual (Hou and Zhang, CVPR 2007): the log amplitude minus its mean over 3 x 3 bins, back through the
    inverse transform with the old phase. Amplitudes are taken as log(1 + a), and a bin whose amplitude is below 1 has
    no phase to speak of: it fades out, so that rounding decides nothing.

    Args:
        images: (B, C, H, W). Three channels are taken as RGB, others by their mean.
        size: side to which the image is brought first.
        style: ``opencv`` always resizes to size x size, blurs by 5 x 5, sigma 8, and squares; ``guidedmixup`` shrinks
            the longer side to at most size, blurs by 7 x 7, sigma 3, and does not square.

    Returns:
        (B, H, W) float32 in [0, 1], the largest 1; all 1 for an image without contrast.
    """
    if style not in ("opencv", "guidedmixup") or size < 1:
        raise ValueError(f"need style opencv or guidedmixup and size >= 1, got {style!r} and {size}")
    grey = _grey(images, mean, std)
    height, width = grey.shape[2:]
    shrink = min(1.0, size / max(height, width))
    inner = (size, size) if style == "opencv" else (max(1, round(height * shrink)), max(1, round(width * shrink)))
    spectrum = torch.fft.fft2(_whole(_resize(grey, inner)))
    amplitude = spectrum.abs()
    log = torch.log1p(amplitude)
    residual = torch.exp(log - blur(log, [1 / 3] * 3))
    maps = torch.fft.ifft2(spectrum / amplitude.clamp(min=1.0) * residual).abs()
    maps = blur(maps, gaussian(5, 8.0)) ** 2 if style == "opencv" else blur(maps, gaussian(7, 3.0))
    return _scaled(_resize(maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12), (height, width)), grey)


@torch.no_grad()
def fine_grained(images: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """How much each pixel differs from its surrounds, at six scales.

    Fine-grained saliency (Montabone and Soto 2010), as OpenCV has it: grey is blurred twice by [1, 2, 1]; for radii n
    of 12, 24, 48, 28, 56 and 112 the surround of p is the window from p - n + 1 to p + n, cut by the border, without p
    itself. Brighter and darker differences are summed over the scales, each scaled by its own maximum, and added.

    Args:
        images: (B, C, H, W). Three channels are taken as RGB, others by their mean.

    Returns:
        (B, H, W) float32 in [0, 1], the largest 1; all 1 for an image without contrast.
    """
    grey = _grey(images, mean, std)
    for _ in range(2):
        grey = _whole(blur(grey, [0.25, 0.5, 0.25]))
    units = grey.long()  # sums of whole numbers are exact, on every device
    total = F.pad(units.cumsum(2).cumsum(3), (1, 0, 1, 0))
    brighter, darker = torch.zeros_like(grey), torch.zeros_like(grey)
    for radius in _RADII:
        difference = grey - _surround(units, total, radius)
        brighter, darker = brighter + difference.clamp(min=0.0), darker - difference.clamp(max=0.0)
    parts = [part / part.amax((2, 3), keepdim=True).clamp(min=1e-12) for part in (brighter, darker)]
    return _scaled(parts[0] + parts[1], grey)


def _surround(units: Tensor, total: Tensor, radius: int) -> Tensor:
    """Mean of the window around each pixel without the pixel, from the integral image (B, 1, H + 1, W + 1)."""
    bounds = []
    for size in units.shape[2:]:
        at = torch.arange(size, device=units.device)
        bounds.append(((at - radius + 1).clamp(min=0), (at + radius + 1).clamp(max=size)))
    (top, bottom), (left, right) = bounds
    below, above = total.index_select(2, bottom), total.index_select(2, top)
    inside = (below.index_select(3, right) - below.index_select(3, left)) - (
        above.index_select(3, right) - above.index_select(3, left)
    )
    count = (bottom - top).unsqueeze(1) * (right - left).unsqueeze(0) - 1
    return (inside - units).float() / count.clamp(min=1).float()


# Networks -------------------------------------------------------------------------------------------------------------


def gradient_saliency(model: nn.Module, images: Tensor, labels: Tensor, targets: TargetKind | None = None) -> Tensor:
    """Computes how strongly the clean loss depends on each pixel: ``sqrt(mean over channels of (dL / dx)^2)``.

    As PuzzleMix (Kim et al. 2020, arXiv:2009.06962) has it; L is the loss that fits the labels, summed over the batch:
    cross-entropy, binary cross-entropy for multi-hot labels, the squared error for values. The network is in eval mode,
    its gradients are left alone, and a DistributedDataParallel makes no process wait. Works inside ``torch.no_grad``
    and under autocast; gradients that overflow count as 0.

    Args:
        model: maps (B, C, H, W) to logits (B, K), or (B, K, H, W).
        images: (B, C, H, W). Not modified.
        labels: of any kind, see :data:`samix.batch.TargetKind`; at each pixel class ids only.
        targets: kind of the labels; None reads it from them.

    Returns:
        (B, H, W) float32, at least 0.
    """
    check_images(images)
    kind = target_kind(labels, targets)
    with inspecting(model, grad=True) as net:
        x = images.detach().clone().requires_grad_()
        wanted = as_targets(labels.detach().clone(), kind)
        logits = net(x)
        scale = _FP16_SCALE if logits.dtype == torch.float16 or images.dtype == torch.float16 else 1.0
        loss = target_loss(logits, wanted, kind, reduction="sum") * scale
        (gradient,) = torch.autograd.grad(loss, x)
    gradient = gradient.float() / scale
    gradient = torch.where(gradient.isfinite(), gradient, 0.0)
    # scaled by the largest first: squares of small gradients would vanish
    top = gradient.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    return torch.sqrt(((gradient / top) ** 2).mean(1)) * top.squeeze(1)


def class_activation(
    model: nn.Module, images: Tensor, labels: Tensor, *, feature: str = "", classifier: str = ""
) -> Tensor:
    """Class activation map of the true class: the last feature map, weighed as the last linear layer weighs it.

    CAM (Zhou et al. 2016, arXiv:1512.04150), of the feature map's positive part as SnapMix's code takes it. The
    smallest value is subtracted, so the layer's bias plays no part. In networks with a norm between the map and the
    classifier, as ConvNeXt, and for the patches of a ViT, it is an approximation.

    Args:
        model: a classifier; it is in eval mode for this pass and left as it was.
        images: (B, C, H, W). Not modified.
        labels: (B,) class ids, or (B, K) float targets, which weigh the classes.
        feature: dotted name of the layer that gives the map (B, D, h, w); empty for timm networks: their last map.
        classifier: dotted name of the last linear layer (D, K); empty takes timm's, or the last one of the network.

    Returns:
        (B, h, w) float32, at least 0.
    """
    with inspecting(model) as net:
        features, linear = _last_map(net, images, feature), linear_classifier(net, classifier)
        weight = linear.weight.detach().float()  # (K, D)
        if weight.shape[1] != features.shape[1]:
            raise ValueError(
                f"the feature map has {features.shape[1]} channels, the classifier takes {weight.shape[1]}; "
                "name two layers that fit, feature= and classifier="
            )
        if labels.dim() == 2:
            with torch.autocast(images.device.type, enabled=False):
                rows = labels.detach().float() @ weight
        else:
            rows = weight[labels.long()]
        cam = (features.clamp(min=0.0) * rows[:, :, None, None]).sum(1)
    cam = torch.where(cam.isfinite(), cam, 0.0)
    return cam - cam.amin((1, 2), keepdim=True)


def activation_map(model: nn.Module, images: Tensor, *, feature: str = "", absolute: bool = False) -> Tensor:
    """Mean over the channels of the last feature map.

    Args:
        model: a network; it is in eval mode for this pass and left as it was.
        images: (B, C, H, W). Not modified.
        feature: dotted name of the layer that gives the map (B, D, h, w); empty for timm networks: their last map.
        absolute: the mean of absolute values.

    Returns:
        (B, h, w) float32; not below 0 if ``absolute``.
    """
    with inspecting(model) as net:
        features = _last_map(net, images, feature)
        maps = (features.abs() if absolute else features).mean(1)
    return torch.where(maps.isfinite(), maps, 0.0)


def _last_map(net: Any, images: Tensor, feature: str) -> Tensor:
    """(B, D, h, w) float32: the output of the named layer, or what a timm network hands to its head."""
    if feature:
        return HookedBackbone(net, feature).feature_map(images).float()
    if not hasattr(net, "forward_intermediates"):
        raise not_timm(net, 'give feature="layer.name", a layer whose output is a map (B, D, h, w)')
    last, maps = net.forward_intermediates(images, indices=[-1], output_fmt="NCHW")
    height, width = maps[-1].shape[2:]
    if last.dim() == 3:  # tokens, those without a place first
        last = last[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
    elif last.shape[2:] != (height, width) and last.shape[1:3] == (height, width):
        last = last.permute(0, 3, 1, 2)  # (B, h, w, D), as Swin has it
    return last.float()  # type: ignore[no-any-return]
