"""Options of every self-supervised method and of every mixup beside MoCo: what cannot be meant is refused by name."""

import dataclasses
import re

import pytest

from samix import SSL_METHODS, PseudoLabelOptions, SAMixCOptions, SAMixIOptions

DEFAULTS = {name: next(iter(cls.presets.values())) for name, cls in SSL_METHODS.items()}
DEFAULTS |= {"samix": SAMixIOptions(), "samix-c": SAMixCOptions(), "pseudo-labels": PseudoLabelOptions()}
OPTIONAL = {"hidden": 8, "ema_decay_end": 0.5, "min_cluster": 2}  # options whose default may be None
NUMBERS = [
    (name, field.name)
    for name, options in DEFAULTS.items()
    for field in dataclasses.fields(options)
    if type(getattr(options, field.name)) in (int, float) or field.name in OPTIONAL
]


def refused(options: object, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"\b{re.escape(field)}\b"):
        dataclasses.replace(options, **{field: value})


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_numbers_that_cannot_be_meant_are_refused(name, field):
    options = DEFAULTS[name]
    for value in (float("nan"), float("inf"), -float("inf")):
        refused(options, field, value)
    whole = type(getattr(options, field)) is int or field in ("hidden", "min_cluster")
    if whole:
        refused(options, field, 0.5)
    if whole or not field.endswith(("margin", "alpha", "gamma", "lam_scale")):  # negative ones switch something off
        refused(options, field, -1)


@pytest.mark.parametrize("name", [n for n, o in DEFAULTS.items() if hasattr(o, "ema_decay")])
def test_decays_above_one_are_refused(name):
    for field in ("ema_decay", "ema_decay_end"):
        refused(DEFAULTS[name], field, 1.5)


def test_swav_without_a_sinkhorn_iteration_is_refused():
    with pytest.raises(ValueError, match=r"iterations must be a whole number in \[1, "):
        dataclasses.replace(DEFAULTS["swav"], iterations=0)
