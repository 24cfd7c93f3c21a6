"""Keeps parts of a network as they are during training."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from typing_extensions import Self


class FrozenStatistics(nn.Module):
    """A BatchNorm that stays in eval mode: its running statistics are used and kept, scale and shift are trained."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)


@cache
def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Frozen{kind.__name__}", (FrozenStatistics, kind), {})


def freeze_norms(model: nn.Module) -> None:
    """Keeps all BatchNorm statistics of a network, also in copies of it; in place."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and not isinstance(m, FrozenStatistics)]
    for norm in norms:
        norm.__class__ = _frozen(type(norm))  # type: ignore[assignment, arg-type]  # the same layout, with another train()
        norm.eval()


def freeze_backbone(model: nn.Module, classifier: nn.Module) -> None:
    """Trains the classifier only, and keeps all BatchNorm statistics; in place."""
    freeze_norms(model)
    model.requires_grad_(False)
    classifier.requires_grad_(True)
