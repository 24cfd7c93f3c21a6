"""What measures a step: mixups with options, each with a row of its own; steps in turn; operations as by hand."""

import json
import random

import pytest
import step_cost
import step_table
import torch
from measuring import counted, interleaved, quartiles, save, timed

CPU = torch.device("cpu")
SMALL = ["--device", "cpu", "--size", "8", "--batch", "4", "--classes", "5"]


def asked(*words):
    return step_cost.parse([*SMALL, *words])


# Mixups with options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("mixup", {"per_sample": False, "alpha": 1.0}),
        ("mixup:per_sample=true", {"per_sample": True, "alpha": 1.0}),
        ("cutmix:per_sample=true", {"per_sample": True}),
        ("cutmix:per_sample=false,clip=false", {"per_sample": False, "clip": False}),
        ("resizemix:per-sample=true,alpha=0.2,pairing=roll", {"per_sample": True, "alpha": 0.2, "pairing": "roll"}),
    ],
)
def test_options_reach_mixups_made_by_hand(spec, options):
    arguments = asked("--mixups", "vanilla", spec)
    method = step_cost.make_method(spec, step_cost.recipe_of(spec, arguments), 5)
    assert {name: getattr(method.mixup, name) for name in options} == options


def test_options_reach_methods():
    arguments = asked()
    given = {"preset": "fast", "generator_every": 4, "clean_share": 0.5}
    spec = "samix:preset=fast,generator_every=4,clean_share=0.5"
    assert step_cost.recipe_of(spec, arguments).mixup_options == given
    assert step_cost.recipe_of("frozen:resnet18@16", arguments) == step_cost.recipe_of("vanilla", arguments)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mixup:per_sample=often", "per_sample must be bool, got 'often'"),
        ("mixup:preset=fast", "mixup has no presets; those that have are automix"),
        ("mixup:decay=3", "mixup has no option decay; it has alpha"),
        ("mixapp", "unknown mixup 'mixapp'"),
    ],
)
def test_wrong_mixups_are_refused_in_one_line(spec, says, capsys):
    with pytest.raises(SystemExit):
        asked("--mixups", "vanilla", spec)
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_each_mixup_has_a_row_under_the_name_it_was_given(capsys):
    names = ["vanilla", "mixup:per_sample=true", "mixup:per_sample=false"]

    def make_step(name, arguments, device):
        a = torch.ones(64, 64 if name == "vanilla" else 96)
        return lambda: a @ a.T

    arguments = asked("--mixups", *names, "--rounds", "2")
    results = step_table.measure(step_table.Comparison(make_step, "mixup", 44, cycle=2), arguments, CPU)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["mixup", *names]
    assert list(results) == names
    assert results["vanilla"]["ratio"] == results["vanilla"]["counted"] == 1.0
    assert results["mixup:per_sample=true"]["counted"] == 1.5
    assert all(row["mebibytes"] == 0 for row in results.values())  # not asked for


# The parts ------------------------------------------------------------------------------------------------------------


def test_calls_are_taken_in_turn():
    seen = []
    calls = {name: lambda name=name: seen.append(name) for name in "abcd"}

    def seconds_of(call):
        call()
        return len(seen)

    assert interleaved(calls, 2, seconds_of) == {"a": [1, 5], "b": [2, 6], "c": [3, 7], "d": [4, 8]}
    seen.clear()
    interleaved(calls, 3, seconds_of, random.Random(0))
    order = random.Random(0)
    assert seen == [name for _ in range(3) for name in order.sample("abcd", 4)]


def test_time_is_that_of_one_call():
    ticks = iter([10.0, 16.0])
    calls = []
    assert timed(lambda: calls.append(1), CPU, clock=lambda: next(ticks), repeats=3) == 2.0
    assert len(calls) == 3


def test_quartiles_and_operations():
    assert quartiles([4.0]) == (4.0, 4.0, 4.0)
    assert quartiles([1.0, 2.0, 3.0]) == (1.0, 2.0, 3.0)
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert counted(lambda: a @ b, 4) == 2 * 3 * 5 * 7


def test_results_are_saved_with_machine_and_arguments(tmp_path):
    arguments = asked("--out", str(tmp_path / "a.json"))
    save(arguments, CPU, {"vanilla": 1.5})
    record = json.loads((tmp_path / "a.json").read_text())
    assert list(record) == ["arguments", "device", "versions", "results"]
    assert record["results"] == {"vanilla": 1.5}
    assert record["arguments"]["batch"] == "4"
