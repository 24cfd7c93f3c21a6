"""Options are checked by the types of their fields."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from samix.runtime.typed_options import CheckedOptions, Count, Share


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of every kind."""

    alpha: float = 1.0
    seed: int = 0
    share: Share = 0.5
    count: Count | None = None
    shares: tuple[Share, ...] = (0.5,)
    style: Literal["a", "b"] = "a"
    quick: bool = False
    folder: str = ""
    feature: int | str | None = None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": float("nan")}, "alpha must be a finite number, got nan"),
        ({"alpha": "1"}, "alpha must be a finite number, got '1'"),
        ({"alpha": (1.0,)}, r"alpha must be a finite number, got \(1.0,\)"),
        ({"seed": 2.5}, "seed must be a whole number, got 2.5"),
        ({"share": 1.5}, r"share must be in \[0, 1\], got 1.5"),
        ({"share": True}, r"share must be in \[0, 1\], got True"),
        ({"count": 0}, r"count must be a whole number in \[1, 2\^31\), got 0"),
        ({"shares": (0.5, -1.0)}, r"shares must be in \[0, 1\], got -1.0"),
        ({"style": "c"}, "style must be one of a, b; got 'c'"),
        ({"style": ("a",)}, "style must be one of a, b"),
        ({"quick": "often"}, "quick must be bool, got 'often'"),
        ({"folder": 3}, "folder must be str, got 3"),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_refused_by_name(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Options(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"alpha": 1, "share": np.float32(0.5), "seed": np.int64(3), "count": np.int32(3)},
        {"quick": 1, "folder": Path("a"), "feature": "layer", "shares": [0.1, 1]},
        {"feature": 3},
        {"count": None, "feature": None},
    ],
)
def test_values_that_mean_the_same_are_let_in(given):
    assert dataclasses.asdict(Options(**given)).items() >= given.items()
