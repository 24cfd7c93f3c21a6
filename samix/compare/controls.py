"""Control rows of a comparison by name: ``samix compare samix control:samix mixup control:mixup``.

A learned mixup differs from a hand-made one by more than its masks: it has a clean loss, and its average is evaluated.
Its control keeps the whole step and holds every mask at lam. The control of a hand-made mixup has what a learned one
has besides masks: a clean loss and a running average.
"""

from __future__ import annotations

from samix.compare.ablations import Variant
from samix.recipes.build import METHODS, MIXER

CONTROL = "control:"  # and a mixup, with its options
AVERAGE = 0.999


def control_of(label: str, name: str, options: str = "") -> Variant:
    """Returns the control row of a mixup.

    Args:
        label: of the mixup's own row.
        name: of the mixup, or ``mixer:PATH``.
        options: of the mixup, as on the command line: ``alpha=1,...``.

    Example:
        >>> control_of("samix", "samix").spec
        'samix:constant_masks=true'
    """
    if name in METHODS.names():
        change = "constant_masks=true"
    elif name.startswith(MIXER):
        change = "softness=1"
    elif name == "vanilla":
        change = f"recipe.ema_decay={AVERAGE}"
    else:
        change = f"recipe.clean_weight=1,recipe.ema_decay={AVERAGE}"
    return Variant(f"{CONTROL}{label}", f"{name}:{','.join(part for part in (options, change) if part)}")
