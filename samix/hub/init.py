"""Starts a network from trained weights: what fits is taken, another number of classes gets a new head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from samix.hub.network_config import NetworkConfig
from samix.hub.source import Source, read_source

LEAST_SHARE = 0.9  # of the weights outside the classifier that a source must give
# Prefixes under which training scripts keep the network itself.
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.", "network.", "encoder_q.", "base_encoder.")


@dataclass(frozen=True)
class InitReport:
    """The tensors that were taken from a source."""

    location: str  # of the source
    taken: tuple[str, ...]  # names of the tensors that were copied
    new: tuple[str, ...]  # names of the network's tensors that keep their new values
    unused: tuple[str, ...]  # names of the source's tensors that the network does not have
    config: NetworkConfig | None = None  # how the source's network prepares images; None where nothing is known

    def __str__(self) -> str:
        """Returns one line for the terminal."""
        count = len(self.taken) + len(self.new)
        return (
            f"weights from {self.location}: {len(self.taken)} of {count} tensors taken; "
            f"new: {_some(self.new)}; unused: {_some(self.unused)}"
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "none"


@torch.no_grad()
def load_init(
    model: nn.Module, source: str | Path | Source, *, class_names: Sequence[str] = (), take_head: bool | None = None
) -> InitReport:
    """Copies the weights of a source into a network.

    The classifier is taken where it has the same shape and, if both sides name their classes, the same names. The
    rest of the network must fit: at least 90 % of its weights must be in the source with the same shape.

    Args:
        model: the network to start; changed in place.
        source: as for :func:`samix.hub.source.read_source`, or what it returned.
        class_names: of the network's classes, in order.
        take_head: True or False decides about the classifier; None decides as above.

    Returns:
        What was taken, what is new, and what was not used.

    Raises:
        FileNotFoundError, ValueError: no such source, a damaged one, or one of another network.

    Example:
        >>> net = timm.create_model("resnet18", num_classes=5)
        >>> print(samix.load_init(net, "runs/ssl"))
        weights from runs/ssl/export: 120 of 122 tensors taken; new: fc.weight, fc.bias; unused: none
    """
    given = source if isinstance(source, Source) else read_source(source)
    own = model.state_dict()
    state = strip_prefix(given.state, own)
    head = head_names(model)
    if take_head is None:
        theirs = given.config.class_names if given.config is not None else ()
        take_head = not (theirs and class_names and tuple(theirs) != tuple(class_names))
    fits = [
        name
        for name, tensor in own.items()
        if name in state and state[name].shape == tensor.shape and (take_head or name not in head)
    ]
    trunk = {name: tensor.numel() for name, tensor in own.items() if name not in head}
    share = sum(trunk[name] for name in fits if name in trunk) / max(1, sum(trunk.values()))
    if share < LEAST_SHARE:
        raise ValueError(_misfit(given, own, state, head, share))
    for name in fits:
        own[name].copy_(state[name])
    new = tuple(name for name in own if name not in set(fits))
    return InitReport(given.location, tuple(fits), new, tuple(n for n in state if n not in own), given.config)


def _misfit(
    source: Source, own: Mapping[str, Tensor], state: Mapping[str, Tensor], head: set[str], share: float
) -> str:
    missing = [name for name in own if name not in head and name not in state]
    shapes = [name for name in own if name not in head and name in state and state[name].shape != own[name].shape]
    examples = [f"{len(missing)} tensors are missing (first: {missing[0]})"] if missing else []
    if shapes:
        first = shapes[0]
        examples.append(
            f"{len(shapes)} have another shape (first: {first}, {tuple(state[first].shape)} there, "
            f"{tuple(own[first].shape)} here)"
        )
    advice = "name the network that the weights belong to"
    if source.config is not None:
        args = f" --model-args '{dict(source.config.model_args)}'" if source.config.model_args else ""
        advice = f"they are of {source.config.architecture}, stem {source.config.stem}"
        advice += f": --model {source.config.architecture}{args}"
    return f"{source.location} gives {share:.0%} of this network's weights: {'; '.join(examples)}; {advice}"


def strip_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict without the prefix, such as ``module.``, whose removal matches most names."""
    best = dict(state)
    for _ in range(3):  # prefixes of prefixes, such as module.backbone.
        candidates = [best]
        for prefix in PREFIXES:
            inside = {name.removeprefix(prefix): t for name, t in best.items() if name.startswith(prefix)}
            candidates.append(inside)
        chosen = max(candidates, key=lambda names: len(set(names) & set(own)))
        if chosen is best and not set(best) & set(own):  # nothing matches yet: look one prefix deeper
            chosen = max(candidates[1:], key=len, default=best) or best
        if chosen is best:
            break
        best = chosen
    return best


def head_names(model: nn.Module) -> set[str]:
    """Returns names of the classifier's tensors: timm's, else those of the last linear layer."""
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    layers = [classifier] if isinstance(classifier, str) else list(classifier or ())
    if not layers:
        linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        layers = linear[-1:]
    return {name for name in model.state_dict() if any(name.startswith(f"{layer}.") for layer in layers)}
