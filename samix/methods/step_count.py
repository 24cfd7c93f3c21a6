"""Optimiser steps done, as a part of a method's state, and on the host, so that no step waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def count_steps(method: nn.Module) -> None:
    """Gives a method its counts: ``steps``, a buffer () int64 of its state, and ``step``, the same on the host.

    The method adds 1 to both after each step; ``step`` follows whatever state is loaded.
    """
    method.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    method.step = 0  # type: ignore[assignment]  # no module, no tensor
    method.register_load_state_dict_pre_hook(add_steps)  # type: ignore[no-untyped-call]
    method.register_load_state_dict_post_hook(read_steps)  # type: ignore[no-untyped-call]


def add_steps(method: Any, state: Mapping[str, Any], prefix: str, *_unused: Any) -> None:
    """Before a checkpoint is loaded: those of earlier versions counted no steps."""
    if f"{prefix}steps" not in state and isinstance(state, dict):
        state[f"{prefix}steps"] = method.steps


def read_steps(method: Any, _keys: Any) -> None:
    """After a checkpoint was loaded: the host's count follows the state's."""
    method.step = int(method.steps)
