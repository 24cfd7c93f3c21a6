"""Optimiser and learning rate of a recipe. The schedule is a function of progress, so a resumed run needs no state."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import nn

from samix.methods.base import Method
from samix.recipes import Recipe
from samix.runtime.checks import Values, check_choice


def parameter_groups(method: Method, recipe: Recipe) -> list[Values]:
    """Returns the method's groups with ``lr_start`` and ``lr_end``; norms and biases apart if not decayed."""
    mixer_lr, mixer_end = recipe.mixer_lr, recipe.mixer_lr_end
    if mixer_end is None:
        mixer_end = recipe.lr_end if mixer_lr is None else 0.0
    mixer_lr = recipe.lr if mixer_lr is None else mixer_lr
    groups = method.parameter_groups(recipe.lr, weight_decay=recipe.weight_decay, mixer_lr=mixer_lr)
    for group in groups:
        is_mixer = group["name"] in ("mixer", "clusters")
        group["lr_start"], group["lr_end"] = (mixer_lr, mixer_end) if is_mixer else (recipe.lr, recipe.lr_end)
        if group["name"] == "predictor":  # SimSiam's keeps its learning rate
            group["lr_end"] = recipe.lr
        group["momentum"] = recipe.mixer_momentum if is_mixer and recipe.mixer_momentum is not None else recipe.momentum
    if recipe.layer_decay < 1.0:
        factors = layer_factors(method, recipe.layer_decay)
        groups = [part for group in groups for part in split_layers(group, factors)]
    if recipe.decay_norms:
        return groups
    exempt = exempt_from_decay(method)
    return [part for group in groups for part in split_decay(group, exempt)]


def layer_factors(method: nn.Module, decay: float) -> dict[int, float]:
    """Returns the factor of the learning rate by parameter (its id): ``decay`` to the number of layers above its own.

    Layers are timm's, for ``layer_decay`` in its training script; the classifier is the last, with factor 1.
    """
    from timm.models import group_parameters

    factors: dict[int, float] = {}
    for network in method.modules():
        matcher = getattr(network, "group_matcher", None)
        if not callable(matcher):
            continue
        layers = group_parameters(network, matcher(coarse=False), reverse=True)
        last = max(layers.values())
        factors |= {id(p): decay ** (last - layers[name]) for name, p in network.named_parameters()}
    if not factors:
        raise ValueError("layer_decay needs a network of timm, which says what its layers are; leave it at 1")
    return factors


def split_layers(group: Values, factors: Mapping[int, float]) -> list[Values]:
    """Returns the group in parts of one factor of the learning rate each; other parameters have 1."""
    parts: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    rates = ("lr", "lr_start", "lr_end")
    return [
        {**group, "params": params, **{name: factor * group[name] for name in rates}}
        for factor, params in parts.items()
    ]


def exempt_from_decay(method: nn.Module) -> set[int]:
    """Returns ids of the parameters that networks exempt from weight decay: class tokens, position embeddings, ..."""
    exempt = set()
    for module in method.modules():
        names = getattr(module, "no_weight_decay", None)  # a method of timm's networks
        if callable(names):
            wanted = set(names())
            exempt |= {id(p) for name, p in module.named_parameters() if name in wanted}
    return exempt


def split_decay(group: Values, exempt: Collection[int] = ()) -> list[Values]:
    """Returns the group in two: matrices and kernels, decayed; vectors, scalars and exempt parameters (by id), not."""
    matrices = [p for p in group["params"] if p.ndim > 1 and id(p) not in exempt]
    vectors = [p for p in group["params"] if p.ndim <= 1 or id(p) in exempt]
    parts = [{**group, "params": matrices}, {**group, "params": vectors, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]


def build_optimizer(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns a timm optimiser by name over the method's groups."""
    from timm.optim import create_optimizer_v2, list_optimizers

    groups = parameter_groups(method, recipe)
    check_choice("optimizer", recipe.optimizer, list_optimizers())
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
    )
    for group in optimizer.param_groups:  # timm gives momentum to SGD and its kin only
        if "betas" in group:
            group["betas"] = (group["momentum"], *group["betas"][1:])
    return optimizer


def learning_rate(start: float, end: float, progress: float, warmup: float = 0.0) -> float:
    """Rises from 0 to ``start`` during ``warmup``, then ``end + (start - end) (1 + cos(pi progress)) / 2``.

    Args:
        start: at progress 0, were there no warm-up.
        end: at progress 1.
        progress: share of the run that is done, in [0, 1].
        warmup: share of the run.
    """
    if progress < warmup:
        return start * progress / warmup
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def set_learning_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps_per_epoch: int) -> None:
    """Sets every group's learning rate for this step (0 is the first)."""
    done = step if recipe.schedule == "step" else step // steps_per_epoch * steps_per_epoch
    progress = done / (recipe.epochs * steps_per_epoch)
    warmup = recipe.warmup_epochs / recipe.epochs
    if progress < warmup:  # a warm-up moves at every step, from the first one on
        progress = min((step + 1) / (recipe.epochs * steps_per_epoch), warmup * (1 - 1e-9))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["lr_start"], group["lr_end"], progress, warmup)
