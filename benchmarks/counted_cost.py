"""Counts the operations of a training step of every method, as a ratio to a plain supervised step.

Counts are facts of the mathematics, the same on every machine; they leave out what is no convolution and no matrix
product (FFTs, sorting, solvers). The network is a ResNet-18 with the small stem at 32 pixels; for mixups that read the
attention of a vision transformer a ViT-Tiny with patches of 4.

    python benchmarks/counted_cost.py --out docs/methods/step-cost.json
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from measuring import save
from step_cost import FROZEN, frozen_mixer

from samix.compare.cost import counted
from samix.methods.base import Method
from samix.methods.contrastive import SSL_METHODS
from samix.methods.contrastive.moco import MoCoOptions
from samix.methods.supervised import Supervised
from samix.mixups import MIXUPS
from samix.recipes import Recipe
from samix.recipes.build import METHODS, build_method, build_network
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe

NEED_VIT = ("transmix", "mixpro", "tla", "smmix")
LEARNED_VIEWS = {"samix-i": "samix", "samix-c": "samix-c"}
IMAGES, CLUSTERS, CLASSES, SIZE = 5000, 20, 100, 32
CYCLE = 4  # steps: in every fourth a learned mixup's clean pass is whole
VIT = {"model": "vit_tiny_patch16_224", "model_args": '{"patch_size": 4}', "feature": 6}
RESNET = {"model": "resnet18", "stem": "small"}


def flops_of(method: Method, batch: tuple[torch.Tensor, ...], steps: int) -> float:
    """Operations of the forward and the backward pass, mean over so many steps."""

    def step() -> None:
        loss, _ = method(batch)
        loss.backward()
        method.zero_grad()
        method.after_step(0.05)

    return counted(step, steps)


def labelled(name: str, batch: int) -> float:
    """Operations of a step with a mixup, or with a frozen Mixer on a ResNet-18."""
    torch.manual_seed(0)
    network: dict[str, Any] = VIT if name in (*NEED_VIT, "vit") else RESNET
    recipe = Recipe(size=SIZE, mixup="vanilla", **network)
    switch = float(getattr(MIXUPS.get(name), "switch", 0.0)) if name in MIXUPS else 0.0  # share of plain MixUp instead
    if name == "mixer":
        mixer = frozen_mixer(f"{FROZEN}resnet18", recipe)
        method: Method = Supervised(build_network(recipe, CLASSES), mixer, num_classes=CLASSES)
    else:
        mixup = "vanilla" if name == "vit" else name
        options = {"switch": 0.0} if switch else {}
        method = build_method(dataclasses.replace(recipe, mixup=mixup, mixup_options=options), CLASSES)
    images, labels = torch.randn(batch, 3, SIZE, SIZE), torch.randint(CLASSES, (batch,))
    flops = flops_of(method.train(), (images, labels), CYCLE if name in METHODS else 2)
    return (
        flops if not switch else switch * labelled("vit" if network is VIT else "vanilla", batch) + (1 - switch) * flops
    )


def has_queue(framework: str) -> bool:
    """Whether a framework keeps a queue of keys, which must be shorter than the data."""
    return isinstance(next(iter(SSL_METHODS[framework].presets.values())), MoCoOptions)


def unlabelled(name: str, batch: int) -> float:
    """Operations of a step of a framework, or of MoCo with a learned Mixer."""
    learned = LEARNED_VIEWS.get(name, "")
    framework = "moco" if learned else name
    torch.manual_seed(0)
    recipe = PretrainRecipe(
        size=SIZE,
        stem="small",
        method=framework,
        method_options={"queue": 2048} if has_queue(framework) else {},
        mixup=learned or "vanilla",
        mixup_options={"clusters": CLUSTERS, "warmup_epochs": 0} if name == "samix-c" else {},
        batch_size=batch,
    )
    method: Any = build_pretraining(recipe, IMAGES).train()
    if name == "samix-c":
        centres = torch.randn(CLUSTERS, 128)
        method.mixup.clusters.initialise(centres[torch.arange(IMAGES) % CLUSTERS] + 0.3 * torch.randn(IMAGES, 128))
    views = torch.randn(2, batch, 3, SIZE, SIZE)
    return flops_of(method, (views[0], views[1], torch.arange(batch)), 1)


def main() -> None:
    """Counts, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=4, help="images with labels; without labels four times as many")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    plain = {"resnet18": labelled("vanilla", arguments.batch), "vit": labelled("vit", arguments.batch)}
    results: dict[str, dict[str, object]] = {}
    for name in (*MIXUPS, *METHODS, "mixer", *SSL_METHODS, *LEARNED_VIEWS):
        views = name in SSL_METHODS or name in LEARNED_VIEWS
        network = "vit" if name in NEED_VIT else "resnet18"
        flops = unlabelled(name, 4 * arguments.batch) / 4 if views else labelled(name, arguments.batch)
        results[name] = {"counted": flops / plain[network], "network": network}
        print(f"{name:20} {flops / plain[network]:6.2f}", flush=True)
    save(arguments, torch.device("cpu"), results)


if __name__ == "__main__":
    main()
