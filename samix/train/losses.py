"""The losses of an epoch, summed where they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class LossSums:
    """Sums of losses by name, on the device: nothing waits for it. Not every step has every loss."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}  # of the passes in each sum

    def add(self, values: Mapping[str, Tensor], passes: int) -> None:
        """Adds what one of a step's ``passes`` gave."""
        for name, value in values.items():
            value = value.float() / passes
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, passes: int) -> Tensor:
        """(losses,) mean of a step, in the order of ``sums``."""
        return torch.stack([value / (self.counts[name] / passes) for name, value in self.sums.items()])

    def clear(self) -> None:
        """Forgets all."""
        self.sums, self.counts = {}, {}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def restore(self, state: Mapping[str, Any], done: int, device: torch.device) -> None:
        """Takes back what :meth:`state` gave.

        Args:
            state: with ``sums``, and ``counts`` unless it is of an early version.
            done: passes of this epoch, which then stand for the counts.
            device: of the sums.
        """
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state.get("counts", dict.fromkeys(self.sums, done)))
