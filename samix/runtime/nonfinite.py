"""Finds the step whose numbers are not finite without waiting for the device at each step; copies of the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GRADIENT = "gradient"


@dataclass(frozen=True)
class NonFiniteStep:
    """A step with a number that is not finite."""

    step: int
    parts: tuple[str, ...]

    def __str__(self) -> str:
        if self.parts == (GRADIENT,):
            return f"the gradient is not finite at step {self.step}"
        return f"the loss is not finite at step {self.step} (parts: {', '.join(self.parts)})"


class NonFiniteMonitor:
    """Flags non-finite numbers of every pass since the last sync; the flags stay on the device."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, tuple[str, ...]]] = []
        self.flags: list[Tensor] = []

    def note(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Notes scalars of a step by name; every process gives the same names."""
        self.notes.append((step, tuple(values)))
        self.flags.append(~torch.stack([value.detach().float() for value in values.values()]).isfinite())

    def tensors(self) -> list[Tensor]:
        """Returns all flags as vectors of 0 and 1, on the device; to be read by one copy and given to :meth:`first`."""
        return [flags.float() for flags in self.flags]

    def first(self, values: Sequence[float]) -> NonFiniteStep | None:
        """Returns the first step with a number that is not finite."""
        bad: dict[int, list[str]] = {}
        left = iter(values)
        for step, names in self.notes:
            for name in names:
                if next(left) > 0:
                    bad.setdefault(step, []).append(name)
        if not bad:
            return None
        step = min(bad)
        return NonFiniteStep(step, tuple(dict.fromkeys(bad[step])))

    def clear(self) -> None:
        """Forgets all flags, after a sync."""
        self.notes, self.flags = [], []


def gradient_size(module: nn.Module, device: torch.device) -> Tensor:
    """Returns the largest absolute value of all gradients, a scalar on the device; infinite or NaN where one is."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=device)
    return torch.nn.utils.get_total_norm(gradients, float("inf"))


def copied(state: object) -> object:
    """Copies nested dictionaries and lists with their tensors, each on its device."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [copied(value) for value in state] if isinstance(state, list) else tuple(map(copied, state))
    return state
