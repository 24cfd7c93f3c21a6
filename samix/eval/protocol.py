"""The base of training protocols: schedule, optimiser, and protocols by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from samix.runtime.checks import check_choice
from samix.runtime.typed_options import CheckedOptions, Count

P = TypeVar("P", bound="Protocol")


@dataclass(frozen=True, kw_only=True)
class Protocol(CheckedOptions):
    """How a network or a layer is trained."""

    optimizer: Literal["sgd", "lars"] = "sgd"  # ``sgd``, or ``lars`` (timm's)
    batch_size: Count = 256  # images per step
    epochs: Count = 100  # passes over the training images
    schedule: Literal["steps", "cosine"] = "cosine"  # ``steps`` or ``cosine``; both change the rates once per epoch
    steps: tuple[int, ...] = ()  # epochs at which the rates are multiplied by ``gamma``
    gamma: float = 0.1  # see ``steps``
    momentum: float = 0.9  # of either optimiser
    weight_decay: float = 0.0  # on every parameter that the optimiser's groups do not exempt

    def decay(self, epoch: int) -> float:
        """Returns the factor of the learning rates in an epoch; 0 is the first."""
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))
        return float(self.gamma ** sum(epoch >= step for step in self.steps))

    def with_epochs(self: P, epochs: int) -> P:
        """Returns the protocol with other epochs, and the steps in proportion; 0 keeps its own."""
        steps = tuple(round(step * epochs / self.epochs) for step in self.steps)
        return dataclasses.replace(self, epochs=epochs, steps=steps) if epochs else self

    def build_optimizer(self, groups: Sequence[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
        """Builds SGD or LARS over groups that have parameters; ``options`` are those of this optimiser."""
        from timm.optim import Lars

        cls: type[torch.optim.Optimizer] = Lars if self.optimizer == "lars" else torch.optim.SGD
        filled = [group for group in groups if group["params"]]
        return cls(filled, momentum=self.momentum, weight_decay=self.weight_decay, **options)  # type: ignore[call-arg]


def named_protocol(protocols: Mapping[str, P], name: str) -> P:
    """Returns the protocol of that name."""
    check_choice("protocol", name, protocols)
    return protocols[name]
