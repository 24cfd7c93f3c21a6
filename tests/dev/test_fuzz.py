"""Random calls end in a right result or in an error of one line; see benchmarks/fuzz.py for what they are."""

import random
from pathlib import Path

import pytest
from fuzz import CALLS, drawn
from fuzzing import command_calls, file_calls, judging
from fuzzing.judging import judge, require
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samix.train import Run

EXAMPLES = {"mixup": 150, "method": 40, "checkpoint": 80, "image": 120, "recipe": 100, "layout": 40, "command": 12}
EXAMPLES |= {"target": 100, "predict": 40, "source": 40, "fit": 12}


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(Run, "fit", command_calls.no_steps)


@pytest.mark.parametrize("name", CALLS)
def test_random_calls_end_in_a_right_result_or_in_one_line(name, tmp_path):
    @settings(
        max_examples=EXAMPLES[name],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(st.integers(0, 2**32))
    def each(seed):
        outcome = judge(CALLS[name][0], random.Random(seed), tmp_path)
        assert outcome.kind in ("right", "error"), outcome.words

    each()


def test_a_seed_and_a_number_bring_a_call_back():
    kinds = ["checkpoint", "mixup", "mixup", "method", "fit", "recipe", "image", "mixup"]
    assert [drawn(5, number, list(CALLS))[0] for number in range(8)] == kinds
    (_, once), (_, again) = drawn(5, 7, list(CALLS)), drawn(5, 7, list(CALLS))
    assert once.getstate() == again.getstate()


def outcome_of(call):
    return judge(lambda draw, place: call(), random.Random(0), Path()).kind


def test_the_judge_tells_outcomes_apart(monkeypatch):
    def fails(error):
        raise error

    assert outcome_of(lambda: None) == "right"
    assert outcome_of(lambda: fails(ValueError("lam must be in [0, 1]"))) == "error"
    assert outcome_of(lambda: fails(ValueError(""))) == "traceback"
    assert outcome_of(lambda: fails(ValueError("two\nlines"))) == "traceback"
    assert outcome_of(lambda: fails(IndexError("7"))) == "traceback"
    assert outcome_of(lambda: require(False, "NaN")) == "silent"
    monkeypatch.setattr(judging, "LONGEST", 0.05)
    assert outcome_of(lambda: [None for _ in iter(int, 1)]) == "traceback"


def test_every_kind_of_call_can_fail(tmp_path, monkeypatch):
    """A judge that lets everything pass would find nothing."""

    def worst(name, calls=40):
        return max(judge(CALLS[name][0], random.Random(s), tmp_path).kind for s in range(calls))

    file_calls.whole_checkpoint(tmp_path)
    steps = iter(range(100))
    monkeypatch.setattr(file_calls, "load_checkpoint", lambda path: {"step": next(steps), "method": {}})
    assert worst("checkpoint", 1) == "silent"
    monkeypatch.setattr(file_calls, "open_image", lambda path: (_ for _ in ()).throw(ValueError("broken")))
    assert worst("image", 3) == "silent"
    monkeypatch.setattr(file_calls, "load_data", lambda *a, **k: {}["x"])
    assert worst("layout", 1) == "traceback"
    monkeypatch.setattr(command_calls, "main", lambda arguments: 1)
    assert worst("command", 3) == "silent"
