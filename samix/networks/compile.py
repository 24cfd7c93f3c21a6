"""Methods of a module in compiled form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn


def compile_methods(module: nn.Module, names: Sequence[str], options: Mapping[str, object]) -> None:
    """Puts compiled forms in the place of those methods that a module has; its state is what it was.

    Args:
        module: changed in place.
        names: of methods; those it has not are passed over.
        options: of ``torch.compile``.
    """
    for name in names:
        if hasattr(module, name):
            setattr(module, name, torch.compile(getattr(module, name), **options))  # type: ignore[call-overload]
