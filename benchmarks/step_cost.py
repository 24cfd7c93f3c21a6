"""What a training step costs with each mixup, as a ratio to a plain step.

Steps of all methods, four of each at a time, are interleaved in one process, so that a slow minute of the machine hits
all alike; medians and quartiles of the ratio to the plain steps of the same round are printed and written as JSON. On a
CPU the processor's time is taken, which other processes disturb far less than the clock's.

    python benchmarks/step_cost.py --model resnet18 --size 32 --stem small --batch 100 --dtype float32

A mixup may carry options, as in ``samix compare``: ``mixup:per_sample=true``,
``samix:clean_share=0.5,generator_every=4``. A frozen Mixer (SAMix^P, mixed loss only) is written ``frozen:ENCODER``, or
``frozen:ENCODER@SIDE`` to encode at that side in pixels; its weights are new, which costs the same.

Columns: *counted* is the ratio of floating-point operations, counted as they run, mean of four steps; *above* is the
measured ratio over the counted one: what is spent on anything but convolutions and matrix products. *MiB* is the peak
of memory above what the networks take: on a GPU by its allocator, on a CPU (``--memory``) by the resident set of a
process that runs this step alone. ``--profile NAME`` prints what a step's time goes to, against a plain step's.

Bfloat16 on a virtual CPU that advertises AMX without having it ends in an illegal instruction; then set
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import get_type_hints

import torch
from measuring import Call
from step_table import PLAIN, Comparison, compare, headline, step_parser, training_step

from samix.cli.compare_plan import option_value, split_spec
from samix.hub.mixer_export import mixer_network
from samix.methods.base import Method
from samix.methods.supervised import Supervised
from samix.mixers.pretrained import Mixer
from samix.recipes import Recipe
from samix.recipes.build import build_method, build_network, options_owner, resolve_options
from samix.train.optim import build_optimizer

FROZEN = "frozen:"
CYCLE = 4  # steps: in every fourth the momentum copy's clean pass is whole, in some only the Mixer is trained


def recipe_of(mixup: str, arguments: argparse.Namespace) -> Recipe:
    """The recipe of a mixup; of a frozen Mixer the plain one, whose network it mixes for.

    Raises:
        ValueError: unknown mixup, option or value.
    """
    name, texts = (PLAIN, {}) if mixup.startswith(FROZEN) else split_spec(mixup)
    hints = get_type_hints(options_owner(name))
    options = {key: option_value(key, hints.get(key, str), text) for key, text in texts.items()}
    resolve_options(name, options)  # refuses what the mixup does not have
    return Recipe(
        model=arguments.model,
        size=arguments.size,
        stem=arguments.stem,
        mixup=name,
        mixup_options=options,
        batch_size=arguments.batch,
        channels_last=arguments.channels_last,
    )


def make_method(mixup: str, recipe: Recipe, classes: int) -> Method:
    """The method of a recipe, or the recipe's network with the frozen Mixer that ``mixup`` names."""
    if not mixup.startswith(FROZEN):
        return build_method(recipe, classes)
    network = build_network(recipe, classes)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return Supervised(network, frozen_mixer(mixup, recipe), num_classes=classes)


def make_step(mixup: str, arguments: argparse.Namespace, device: torch.device) -> Call:
    """One whole training step with a mixup on fixed random images."""
    recipe = recipe_of(mixup, arguments)
    torch.manual_seed(0)
    method = make_method(mixup, recipe, arguments.classes).to(device).train()
    optimizer = build_optimizer(method, recipe)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    if arguments.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(arguments.classes, (arguments.batch,), device=device)
    if arguments.compile:
        method.compile_parts()
    return training_step(method, optimizer, lambda: (images, labels), arguments)


def frozen_mixer(name: str, recipe: Recipe) -> Mixer:
    """A frozen Mixer with new weights: SAMix's, on the encoder of ``frozen:ENCODER@SIDE``."""
    encoder, _, side = name.removeprefix(FROZEN).partition("@")
    method = build_method(dataclasses.replace(recipe, mixup="samix", model=encoder), 10)
    network = mixer_network(method, dataclasses.replace(recipe, model=encoder), (0.5,) * 3, (0.2,) * 3, {})
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return Mixer(network=network, encode_size=int(side or 0))


def profile(step: Call, reference: Call, device: torch.device) -> None:
    """Prints the operators on which a step spends more than ``reference``, in milliseconds."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    tables = []
    for run in (step, reference):
        run()
        with torch.profiler.profile(activities=kinds) as profiler:
            run()
        on_gpu = device.type == "cuda"
        tables.append(
            {e.key: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) for e in profiler.key_averages()}
        )
    own, other = tables
    extra = sorted(((own[key] - other.get(key, 0.0), key) for key in own), reverse=True)
    total = sum(own.values()) - sum(other.values())
    print(f"a step takes {sum(own.values()) / 1000:.1f} ms, {total / 1000:.1f} ms more than a plain one; most on")
    for microseconds, key in extra[:15]:
        print(f"  {microseconds / 1000:9.2f} ms {100 * microseconds / total:6.1f} %  {key}")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = step_parser(__doc__, 100, None, [PLAIN, "mixup", "cutmix", "automix", "samix"])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="torch.compile the parts of each step")
    parser.add_argument("--profile", default="", metavar="NAME", help="print where a step's time goes, and stop")
    arguments = parser.parse_args(words)
    if arguments.mixups[0] != PLAIN:
        parser.error("the first of --mixups must be vanilla, which the ratios refer to")
    try:
        for mixup in (*arguments.mixups, arguments.profile or PLAIN):
            recipe_of(mixup, arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    """Measures, prints a table, writes JSON."""
    arguments = parse()
    if arguments.profile:
        device = torch.device(arguments.device)
        print(headline(arguments, device))
        profile(make_step(arguments.profile, arguments, device), make_step(PLAIN, arguments, device), device)
        return
    compare(Comparison(make_step, "mixup", 44, cycle=CYCLE), arguments)


if __name__ == "__main__":
    main()
