"""Measures trained Mixers: what their masks keep of the objects, how they follow lambda, and what they cost.

    python benchmarks/mixer_quality.py --data /data/tiny-imagenet-200 --mixers NAME=PATH ... --out mixers.json

Objects are the boxes of Tiny-ImageNet's validation images, which no Mixer here was trained on. For pairs of images at
lambda 0.5, the share of an object kept is the mean of the mask over its box; "lesser" is the lesser of the pair's two,
and "small" takes the pairs whose objects fill less than 0.4 of their images. A mask that does not look at the images
keeps 0.5 on average. The upper bound gives each pixel to the image whose box it serves best. A step's cost is that of
a plain step of the learner and the mix, over the plain step: in counted operations (of convolutions and products of
matrices), and in CPU time of one process, the least of several.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import samix
from samix.mixers.distill import agreement
from samix.mixups.boxes import CutMix

LEARNERS = (("resnet50", 224, 8), ("resnet18", 224, 16), ("resnet18", 32, 64))


def read_validation(data: Path, skip: int, count: int) -> tuple[Tensor, Tensor]:
    """Validation images (N, 3, 64, 64), normalised to [-1, 1], and masks (N, 64, 64) of their boxes."""
    lines = (data / "val" / "val_annotations.txt").read_text().splitlines()[skip : skip + count]
    images, boxes = [], torch.zeros(count, 64, 64)
    for row, line in enumerate(lines):
        name, _, *corners = line.split()
        images.append(np.asarray(Image.open(data / "val" / "images" / name).convert("RGB")))
        left, top, right, bottom = map(int, corners)
        boxes[row, top : bottom + 1, left : right + 1] = 1.0
    return torch.from_numpy(np.stack(images)).movedim(3, 1).float().div(127.5).sub(1.0), boxes


def kept(mask: Tensor, own: Tensor, partner: Tensor) -> dict[str, float]:
    """What masks (N, 1, 64, 64) keep of the objects in boxes (N, 64, 64); errors are standard errors over pairs."""
    of_own = (mask[:, 0] * own).sum((1, 2)) / own.sum((1, 2))
    of_partner = ((1.0 - mask[:, 0]) * partner).sum((1, 2)) / partner.sum((1, 2))
    share, both = (of_own + of_partner) / 2, torch.minimum(of_own, of_partner)
    small = (own.mean((1, 2)) < 0.4) & (partner.mean((1, 2)) < 0.4)
    return {
        "kept": float(share.mean()),
        "kept_error": float(share.std() / len(share) ** 0.5),
        "both": float(both.mean()),
        "small": float(share[small].mean()),
        "small_error": float(share[small].std() / int(small.sum()) ** 0.5),
        "small_pairs": int(small.sum()),
    }


def best_mask(own: Tensor, partner: Tensor) -> Tensor:
    """The mask of half of the pixels that keeps most of both boxes."""
    gain = own / own.sum((1, 2), keepdim=True) - partner / partner.sum((1, 2), keepdim=True)
    order = (gain.flatten(1) + 1e-9 * torch.rand(len(gain), 64 * 64)).argsort(1, descending=True)
    mask = torch.zeros(len(gain), 64 * 64).scatter_(1, order[:, : 64 * 32], 1.0)
    return mask.view(-1, 1, 64, 64)


def masks_of(mix: samix.Mixer, z: Tensor, lam: Tensor) -> Tensor:
    """The masks of images paired half a round away, in parts of 100, from their feature maps."""
    parts = zip(z.split(100), partners(z).split(100), lam.split(100), strict=True)
    return torch.cat([mix.predict_mask(own, other, share, (64, 64)) for own, other, share in parts])


def quality(source: str, images: Tensor, boxes: Tensor) -> dict[str, Any]:
    """What one Mixer keeps, and how the means of its masks follow lambda before they are adjusted."""
    mix = samix.Mixer.from_pretrained(source, lam_margin=-1.0)
    mix.set_normalization((0.5,) * 3, (0.5,) * 3)
    z = torch.cat([mix.encode(part) for part in images.split(100)])
    result: dict[str, Any] = kept(masks_of(mix, z, torch.full((len(images),), 0.5)), boxes, partners(boxes))
    mix.adjust = False
    lam = torch.linspace(0.1, 0.9, len(images))[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))]
    mask = masks_of(mix, z, lam)
    means = mask.mean((1, 2, 3))
    result["spread"] = float(mask.std((1, 2, 3)).mean())
    result["correlation"] = float(torch.corrcoef(torch.stack([means, lam]))[0, 1])
    result["error"] = float((means - lam).abs().mean())
    result["encoder_side"] = min(mix.loaded.config.size, 2 * images.shape[-1])
    result["kind"] = mix.loaded.config.kind
    return result


def partners(rows: Tensor) -> Tensor:
    """The rows half a round away."""
    return rows.roll(-(len(rows) // 2), 0)


def cpu_seconds(call: Callable[[], Any]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def operations(call: Callable[[], Any]) -> float:
    """Counted operations of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def costs(sources: dict[str, str], repeats: int) -> dict[str, Any]:
    """Ratios of a mixed step to a plain one, for each learner and Mixer."""
    return {f"{learner[0]} at {learner[1]} px": cost_beside(*learner, sources, repeats) for learner in LEARNERS}


def cost_beside(architecture: str, side: int, batch: int, sources: dict[str, str], repeats: int) -> dict[str, Any]:
    """Ratios for one learner."""
    model = timm.create_model(architecture, num_classes=100)
    if side == 32:  # the CIFAR stem
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 100, (batch,))

    def plain() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    mixes: dict[str, Any] = {name: samix.Mixer.from_pretrained(source) for name, source in sources.items()}
    mixes["cutmix"] = CutMix()
    calls = {name: partial(mix, images, labels, lam=0.4) for name, mix in mixes.items()}
    whole = operations(plain)
    counted = {name: 1.0 + operations(call) / whole for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *calls)}
    for _ in range(repeats):
        for name, call in {"plain": plain, **calls}.items():
            seconds[name].append(cpu_seconds(call))
    least = {name: min(times) for name, times in seconds.items()}
    return {name: {"counted": counted[name], "cpu": 1.0 + least[name] / least["plain"]} for name in calls}


def table(result: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    lines = [
        "# Trained Mixers", "", f"`{result['command']}`, one CPU thread; errors are standard errors over pairs.", "",
        "| masks of | object kept | over CutMix's | lesser | small objects | correlation with lambda | mean error |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    reference = result["quality"]["cutmix"]["kept"]
    for name, row in result["quality"].items():
        follows = [f"{row[key]:.3f}" if key in row else "" for key in ("correlation", "error")]
        kept_, small = (f"{row[key]:.3f} ± {row[f'{key}_error']:.3f}" for key in ("kept", "small"))
        cells = [name, kept_, f"{row['kept'] / reference:.2f}", f"{row['both']:.3f}", small, *follows]
        lines.append("| " + " | ".join(cells) + " |")
    names = list(next(iter(result["costs"].values())))
    lines += ["", "Cost of a step, in plain steps: counted operations, CPU time.", ""]
    lines += ["| learner | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for learner, row in result["costs"].items():
        cells = [f"{row[name]['counted']:.3f}, {row[name]['cpu']:.3f}" for name in names]
        lines.append(f"| {learner} | " + " | ".join(cells) + " |")
    for text, value in result["agreement"].items():
        lines += ["", f"{text}: {value:.1%} of the cells at lambda 0.5, 1,000 pairs."]
    return "\n".join(lines) + "\n"


@torch.no_grad()
def measure_quality(options: argparse.Namespace, sources: dict[str, str]) -> tuple[dict[str, Any], dict[str, float]]:
    """The masks of each Mixer, of CutMix, of noise and of the upper bound; and which pairs of Mixers agree."""
    torch.manual_seed(0)
    images, boxes = read_validation(options.data, options.skip, options.images)
    rows = {name: quality(source, images, boxes) for name, source in sources.items()}
    boxed = CutMix()(images, torch.arange(len(images)), lam=0.5, index=torch.arange(len(images)).roll(1)).mask
    other = partners(boxes)
    rows["cutmix"] = kept(boxed, boxes, other)
    rows["noise"] = kept((torch.rand(len(images), 1, 64, 64) < 0.5).float(), boxes, other)
    rows["upper bound, boxes known"] = kept(best_mask(boxes, other), boxes, other)
    agreed = {}
    for text in options.agree:
        one, two = text.split(",")
        networks = [samix.Mixer.from_pretrained(sources[name]).loaded for name in (one, two)]
        agreed[f"{one} and {two} agree on"] = agreement(networks[0], networks[1], images[:1000])
    return rows, agreed


def main() -> None:
    """Measures, and writes the JSON file and the table beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mixers", nargs="+", required=True, metavar="NAME=PATH")
    parser.add_argument("--agree", nargs="*", default=[], metavar="NAME,NAME")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--skip", type=int, default=2000, help="the first ones served to choose the gain")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = dict(item.split("=", 1) for item in options.mixers)
    rows, agreed = measure_quality(options, sources)
    part = f"--skip {options.skip} --images {options.images}"
    command = f"python benchmarks/mixer_quality.py {part} --mixers {' '.join(sources)}"
    result = {"command": command, "quality": rows, "agreement": agreed, "costs": costs(sources, options.repeats)}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
