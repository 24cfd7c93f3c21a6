"""Grad-CAM: where a network sees a class; on mixed images, where it sees each of the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch, check_images, check_labels
from samix.networks.backbone import find_layer, hooked
from samix.networks.inference import looking
from samix.networks.last_map import LastMap, catch_last_map


@dataclass(frozen=True, eq=False)
class MixedCam:
    """Where a network sees the two classes of mixed images.

    Args:
        own: (N, h, w) map of class a, at least 0.
        partner: (N, h, w) map of class b.
        inside: mean over maps of the share that lies on pixels of its own class, by the mask; NaN without masks.
        chance: mean share of the pixels that are, which a flat map gets.
    """

    own: Tensor
    partner: Tensor
    inside: float
    chance: float


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: str = "") -> Tensor:
    """Gradient-weighted class activation map.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), Eq. (1) and (2): ``relu(sum_k a_k A_k)``, where ``a_k`` is the
    mean over the map of the logit's gradient with respect to channel k.

    Args:
        model: classifier; left as it was.
        images: (N, C, H, W), normalised. Not modified.
        classes: (N,) class ids, whose logits are explained.
        layer: dotted name of the layer whose output is the map. Empty takes the last map of a timm network; of a ViT
            the patches that enter its last block's attention, as those that leave it have no gradient where a class
            token is read.

    Returns:
        (N, h, w) float32, at least 0, not scaled.

    Raises:
        ValueError: no such layer, or one whose output is no map.
    """
    check_images(images)
    check_labels(classes, len(images))
    with looking(model, grad=True) as net:
        x = images.detach().clone().requires_grad_()
        blocks: Any = getattr(net, "blocks", None)
        named = find_layer(net, layer, "feature") if layer else getattr(blocks[-1], "norm1", None) if blocks else None
        if named is None:
            with catch_last_map(net) as caught:
                logits = net(x)
        else:
            caught = LastMap()
            with hooked(named.register_forward_hook(keeper(caught))):
                logits = net(x)
        chosen = logits.float().gather(1, classes.long().clone()[:, None]).sum()
        slope = LastMap()
        (slope.found,) = torch.autograd.grad(chosen, caught.found)
        features, gradient = caught.read(net).detach().float(), slope.read(net).float()
    return (gradient.mean((2, 3), keepdim=True) * features).sum(1).clamp(min=0.0)


def keeper(caught: LastMap) -> Any:
    """A hook that keeps a layer's output and hands on a copy, as the layers behind may work in place."""

    def keep(_layer: nn.Module, _args: Any, output: Any) -> Any:
        caught.found = output
        return output.clone() if isinstance(output, Tensor) else None

    return keep


def mixed_cam(model: nn.Module, batch: MixedBatch, layer: str = "") -> MixedCam:
    """Grad-CAM of both classes of each mixed image, and how much of each lies where its class is.

    Args:
        model: classifier; left as it was.
        batch: mixed images with class ids; masks are compared with where they are there and not constant.
        layer: see :func:`grad_cam`.

    Raises:
        ValueError: as :func:`grad_cam`, or labels that are no class ids.
    """
    if batch.labels.dim() != 2 or batch.labels.is_floating_point():
        raise ValueError(f"mixed_cam needs class ids (B, k), got {batch.labels.dtype} {tuple(batch.labels.shape)}")
    own, partner = (grad_cam(model, batch.images, batch.labels[:, column], layer) for column in (0, 1))
    if batch.mask is None:
        return MixedCam(own, partner, float("nan"), float("nan"))
    mask = batch.mask.float()
    size = batch.images.shape[2:]
    shares, areas = [], []
    for cam, place in ((own, mask), (partner, 1.0 - mask)):
        place = place.expand(-1, 1, *size).squeeze(1)
        large = enlarge(cam, (size[0], size[1]))
        total, area = large.sum((1, 2)), place.mean((1, 2))
        seen = (total > 0) & (area > 0)
        shares.append(((large * place).sum((1, 2)) / total.clamp(min=1e-12))[seen])
        areas.append(area[seen])
    inside, chance = torch.cat(shares), torch.cat(areas)
    return MixedCam(own, partner, float(inside.mean()), float(chance.mean()))


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) to (N, *size), bilinear."""
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False).squeeze(1)
