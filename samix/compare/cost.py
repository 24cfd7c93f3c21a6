"""The cost of a training step in floating-point operations, and the epochs that give all rows the same cost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from samix.compare.plan import Entry
from samix.methods.base import Method
from samix.recipes import Recipe
from samix.recipes.build import build_method

CLASSES = 10  # of the classifier whose step is counted
BATCH = 8  # images in it
STEPS = 4  # a Mixer may learn in every second or fourth step only


def counted(step: Callable[[], object], steps: int) -> float:
    """Counts the floating-point operations of a step, mean of so many."""
    backward: dict[object, Callable[..., int]] = {torch.ops.aten.convolution_backward: convolution_gradients}
    counter = FlopCounterMode(display=False, custom_mapping=backward)
    counter.mod_tracker = NoModules()  # type: ignore[assignment]  # torch's own fails where a step calls autograd.grad
    with counter:
        for _ in range(steps):
            step()
    return float(counter.get_total_flops() / steps)


class NoModules(contextlib.nullcontext[None]):
    """Stands for torch's tracker of modules, which a total does not need."""

    parents = frozenset({"Global"})


def convolution_gradients(gradient: list[int], x: list[int], weight: list[int], *options: Any, **_: object) -> int:
    """Counts the operations of a convolution's gradients, each as many as its forward pass; torch miscounts groups.

    Args:
        gradient: shape of the output's gradient.
        x: shape of the input.
        weight: shape of the kernels.
        options: bias, stride, padding, dilation, transposed, output padding, groups, and which gradients are wanted.
    """
    transposed, wanted = options[-4], options[-1]
    return int(sum(wanted[:2])) * int(conv_flop_count(x, weight, gradient, transposed=transposed))


def build_once(recipe: Recipe) -> Method:
    """Builds the method of a recipe without trained weights; draws nothing from torch's generator.

    Raises:
        ValueError: a network, mixup or option of the recipe that cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_method(dataclasses.replace(recipe, pretrained=False), CLASSES, ((0.5,) * 3, (0.5,) * 3))


def step_cost(recipe: Recipe) -> float:
    """Counts the operations of a training step per image, on random images."""
    method = build_once(recipe).train()
    with torch.random.fork_rng(devices=[]):
        for generator in method.generators():
            generator.manual_seed(0)
        images, labels = torch.randn(BATCH, 3, recipe.size, recipe.size), torch.arange(BATCH) % CLASSES

        def step() -> None:
            method(images, labels)[0].backward()
            method.zero_grad()
            method.after_step(0.0)

        return counted(step, STEPS) / BATCH


def equal_time(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Gives every row so many epochs that its run costs as much as the costliest row's, by counted operations.

    Raises:
        ValueError: a row that cannot be counted: it mixes by the Mixer of another row, or its options are wrong.
    """
    costs = [cost_of(entry) for entry in entries]
    budget = max(cost * entry.recipe.epochs for cost, entry in zip(costs, entries, strict=True))
    return tuple(
        longer(entry, max(round(budget / cost), 1)) if cost else entry
        for cost, entry in zip(costs, entries, strict=True)
    )


def cost_of(entry: Entry) -> float:
    """Counts a row's step."""
    if entry.variant.mixer_of:
        raise ValueError(
            f"{entry.label} mixes by the Mixer of {entry.variant.mixer_of}, which is not trained yet, so its step "
            "cannot be counted; leave --equal-time out, or give the Mixer as mixer:PATH"
        )
    try:
        return step_cost(entry.recipe)
    except ValueError as error:
        raise ValueError(f"{entry.label}: {error}") from None


def longer(entry: Entry, epochs: int) -> Entry:
    """Returns the row with so many epochs; nothing is published of another length."""
    if epochs == entry.recipe.epochs:
        return entry
    return dataclasses.replace(entry, recipe=dataclasses.replace(entry.recipe, epochs=epochs), published=None)
