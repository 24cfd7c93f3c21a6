"""What a step without labels costs with each mixup beside MoCo, as a ratio to a plain step of MoCo.

Steps of all are interleaved in one process, so that a slow minute of the machine hits all alike; medians and quartiles
of the ratio to MoCo's step of the same round are printed and written as JSON. On a CPU it is processor time, of all
threads, so that busy neighbours do not count.

    python benchmarks/pretrain_cost.py --batch 64 --rounds 10 --memory

Columns: *counted* is the ratio of floating-point operations, counted as they run; by hand MoCo has 4 passes (3 of the
query encoder with its backward pass, 1 of the keys), any mixup 3 more, SAMix-I 6 more and four small passes of the
Mixer. *above* is the measured ratio over the counted one. *MiB* is the peak of memory above what the networks take: on
a GPU by its allocator, on a CPU (``--memory``) by the resident set of a process that runs this step alone.

SAMix-C is measured with clusters that are there, of as many images as ``--images`` says: how often centroids and small
clusters are seen to hangs on the length of an epoch.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from measuring import Call
from step_table import PLAIN, Comparison, compare, step_parser, training_step

from samix.recipes.build_pretraining import LEARNED, build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.train.optim import build_optimizer

MIXUPS = (PLAIN, "mixup", "samix", "samix-c")  # of which the first is MoCo alone


def make_step(mixup: str, arguments: argparse.Namespace, device: torch.device) -> Call:
    """One whole training step on fixed random views: forward, backward, optimiser, momentum, queue."""
    recipe = PretrainRecipe(
        model=arguments.model,
        size=arguments.size,
        stem=arguments.stem,
        method_options={"preset": "cifar", "queue": arguments.batch * 16},
        mixup=mixup,
        mixup_options={"clusters": arguments.clusters, "warmup_epochs": 0} if mixup == "samix-c" else {},
        batch_size=arguments.batch,
        lr=0.06,
        mixer_lr=0.02 if mixup in LEARNED else None,
        channels_last=arguments.channels_last,
    )
    torch.manual_seed(0)
    method: Any = build_pretraining(recipe, arguments.images).to(device).train()
    if mixup == "samix-c":
        method.mixup.clusters.initialise(clustered(arguments.images, arguments.clusters).to(device))
    optimizer = build_optimizer(method, recipe)
    views = torch.randn(2, arguments.batch, 3, arguments.size, arguments.size, device=device)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    view_q, view_k = (view.contiguous(memory_format=layout) for view in views)

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return view_q, view_k, torch.randint(arguments.images, (arguments.batch,)).to(device)

    return training_step(method, optimizer, batch, arguments)


def clustered(images: int, clusters: int, dim: int = 128) -> torch.Tensor:
    """Features (N, D) that lie around so many centres."""
    centres = torch.randn(clusters, dim)
    return centres[torch.arange(images) % clusters] + 0.3 * torch.randn(images, dim)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = step_parser(__doc__, 64, "a multiple of 8, of the groups of split BatchNorm", MIXUPS)
    parser.add_argument("--images", type=int, default=50_000, help="of the training set, for the clusters")
    parser.add_argument("--clusters", type=int, default=200)
    arguments = parser.parse_args()
    if arguments.mixups[0] != PLAIN:
        parser.error("the first of --mixups must be vanilla, MoCo alone, which the ratios refer to")
    return arguments


if __name__ == "__main__":
    compare(Comparison(make_step, "MoCo and", 20, warm_up=2), parse())
