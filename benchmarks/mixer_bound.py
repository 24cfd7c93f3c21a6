"""How well can maps of single images describe a Mixer's masks? The best additive fit, on pairs that were not fitted.

    python benchmarks/mixer_bound.py --data /data/tiny-imagenet-200 --mixer slim --out mixer-bound.json

All pairs of some images are masked by the Mixer, and each mask's logit is shifted so that its mean is lambda. Four
fifths of the pairs serve to fit a_i - b_j (two maps an image) or s_i - s_j (one map), by least squares and then by the
cross-entropy of the side of 1/2 on which a cell is. The share of cells on the same side is measured on the others. The
maps are free values, fitted to as many pairs as an image has: an estimate of what the form can do, from below.
``rescaled`` compares the Mixer's mask brought to mean lambda by a shift with the same mask brought to it by rescaling
(``adjust_mask``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import samix
from samix.mixers.base import adjust_mask
from samix.mixers.distill import shifted_mask
from samix.mixers.folder import MixerWithEncoder
from samix.mixers.score import solve_offset

LAMS, STEPS = (0.3, 0.5, 0.7), 150


def shifted(logit: Tensor, lam: Tensor) -> Tensor:
    """Logits (P, n) with an offset that gives their masks the mean lam (P,)."""
    return logit + solve_offset(logit, lam)


def least_squares(y: Tensor, own: Tensor, other: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Maps a, b (count, n) with ``a[own] - b[other]`` near y (P, n), by alternating means."""
    a, b = torch.zeros(count, y.shape[1]), torch.zeros(count, y.shape[1])
    each, every = own.bincount(minlength=count)[:, None], other.bincount(minlength=count)[:, None]
    for _ in range(10):
        a = torch.zeros_like(a).index_add(0, own, y + b[other]) / each
        b = torch.zeros_like(b).index_add(0, other, a[own] - y) / every
    return a, b


def by_side(
    a: Tensor, b: Tensor | None, side: Tensor, own: Tensor, other: Tensor, lam: Tensor
) -> tuple[Tensor, Tensor]:
    """The maps improved by the cross-entropy of each cell's side; b None keeps one map."""
    maps = [t.clone().requires_grad_() for t in (a, b) if t is not None]
    optimizer = torch.optim.Adam(maps, 0.05)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / STEPS)
        difference = maps[0][own] - maps[-1][other]
        loss = F.binary_cross_entropy_with_logits(
            3 * (difference + solve_offset(difference.detach(), lam)), side.float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return maps[0].detach(), maps[-1].detach()


def bounds(network: MixerWithEncoder, images: Tensor, lam: float) -> dict[str, float]:
    """The shares of cells at one lambda."""
    with torch.no_grad():
        z = network.encode(images).float()
        count, cells = len(z), (z.shape[-2], z.shape[-1])
        own, other = (~torch.eye(count, dtype=torch.bool)).nonzero().unbind(1)
        share = torch.full((len(own),), lam)
        parts = zip(own.split(200), other.split(200), share.split(200), strict=True)
        mask = torch.cat([network(z[i], z[j], s, cells) for i, j, s in parts])
    logit = torch.logit(shifted_mask(mask, share), eps=1e-6).flatten(1)
    side = logit > 0
    rescaled = (adjust_mask(mask, share).flatten(1) > 0.5) == side
    tested = torch.rand(len(own), generator=torch.Generator().manual_seed(0)) < 0.2
    fitted, y = ~tested, logit.clamp(-8, 8)
    y = y - y.mean(1, keepdim=True)

    def agreement(a: Tensor, b: Tensor) -> float:
        difference = shifted(a[own[tested]] - b[other[tested]], share[tested])
        return float(((difference > 0) == side[tested]).float().mean())

    pairs = own[fitted], other[fitted]
    a, b = least_squares(y[fitted], *pairs, count)
    one = (a + b) / 2
    return {
        "two maps": max(agreement(a, b), agreement(*by_side(a, b, side[fitted], *pairs, share[fitted]))),
        "one map": max(agreement(one, one), agreement(*by_side(one, None, side[fitted], *pairs, share[fitted]))),
        "rescaled": float(rescaled.float().mean()),
    }


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mixer", default="slim")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = samix.Mixer.from_pretrained(options.mixer).loaded
    files = sorted((options.data / "val" / "images").iterdir())[:: 10_000 // options.images][: options.images]
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (network.config.mean, network.config.std))
    images = (pixels.movedim(3, 1).float() / 255 - mean) / std
    result = {f"{lam}": bounds(network, images, lam) for lam in LAMS}
    command = f"python benchmarks/mixer_bound.py --mixer {options.mixer} --images {options.images}"
    options.out.write_text(json.dumps({"command": command, "agreement": result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
