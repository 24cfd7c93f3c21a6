"""Random calls end in a right result or in an error of one line; see benchmarks/fuzz.py for what they are."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samix.engine import Run

PATH = Path(__file__).parent.parent / "benchmarks" / "fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz", PATH)
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz"] = fuzz  # its dataclasses look themselves up
spec.loader.exec_module(fuzz)

CALLS = {"mixup": 150, "method": 40, "checkpoint": 80, "image": 120, "recipe": 100, "layout": 40, "command": 12}


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(Run, "fit", fuzz.no_steps)


@pytest.mark.parametrize("name", fuzz.CALLS)
def test_random_calls_end_in_a_right_result_or_in_one_line(name, tmp_path):
    @settings(
        max_examples=CALLS[name],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(st.integers(0, 2**32))
    def each(seed):
        outcome = fuzz.judge(fuzz.CALLS[name][0], random.Random(seed), tmp_path)
        assert outcome.kind in ("right", "error"), outcome.words

    each()


def outcome_of(call):
    return fuzz.judge(lambda draw, place: call(), random.Random(0), Path()).kind


def test_the_judge_tells_outcomes_apart(monkeypatch):
    def fails(error):
        raise error

    assert outcome_of(lambda: None) == "right"
    assert outcome_of(lambda: fails(ValueError("lam must be in [0, 1]"))) == "error"
    assert outcome_of(lambda: fails(ValueError(""))) == "traceback"
    assert outcome_of(lambda: fails(ValueError("two\nlines"))) == "traceback"
    assert outcome_of(lambda: fails(IndexError("7"))) == "traceback"
    assert outcome_of(lambda: fuzz.require(False, "NaN")) == "silent"
    monkeypatch.setattr(fuzz, "LONGEST", 0.05)
    assert outcome_of(lambda: [None for _ in iter(int, 1)]) == "traceback"


def test_every_kind_of_call_can_fail(tmp_path, monkeypatch):
    """A judge that lets everything pass would find nothing."""

    def worst(name, calls=40):
        return max(fuzz.judge(fuzz.CALLS[name][0], random.Random(s), tmp_path).kind for s in range(calls))

    fuzz.whole_checkpoint(tmp_path)
    steps = iter(range(100))
    monkeypatch.setattr(fuzz, "load_checkpoint", lambda path: {"step": next(steps), "method": {}})
    assert worst("checkpoint", 1) == "silent"
    monkeypatch.setattr(fuzz, "open_image", lambda path: (_ for _ in ()).throw(ValueError("broken")))
    assert worst("image", 3) == "silent"
    monkeypatch.setattr(fuzz, "load_data", lambda *a, **k: {}["x"])
    assert worst("layout", 1) == "traceback"
    monkeypatch.setattr(fuzz, "main", lambda arguments: 1)
    assert worst("command", 3) == "silent"
