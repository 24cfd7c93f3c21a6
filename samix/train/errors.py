"""How a run may end before its time."""

from __future__ import annotations


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite."""


class Interrupted(RuntimeError):
    """The run was asked to stop, and has saved its state."""


class LostProcess(RuntimeError):
    """Another process of the run has ended."""
