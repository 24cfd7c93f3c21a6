"""Control rows by name, paired differences from them, rows of equal time; and what is refused before a run."""

import io
import json

import pytest
import torch
from runs import SLIM, small_recipe

from samix.cli.compare import compare
from samix.cli.compare_plan import read_plan
from samix.compare.cost import step_cost
from samix.compare.results import compare_with, gain_over, mean_and_std
from samix.compare.tables import difference_cells

FLAGS = ["--model-args", SLIM, "--limit", "100", "--batch-size", "20", "--size", "8"]


def never(job, plan):
    raise AssertionError(f"{job.label}, seed {job.seed} is trained")


def test_controls_by_name_are_the_rows_that_they_stand_for():
    rows = ["control:samix:alpha=1", "control:mixup", "control:vanilla", "control:mixer:slim"]
    entries = {entry.label: entry.recipe for entry in read_plan(rows).entries}
    assert list(entries) == ["control:samix:alpha=1", "control:mixup", "control:vanilla", "control:mixer-slim"]
    samix, mixup, vanilla, mixer = entries.values()
    assert (samix.mixup, samix.mixup_options["alpha"], samix.mixup_options["constant_masks"]) == ("samix", 1.0, True)
    assert (mixup.mixup, mixup.clean_weight, mixup.ema_decay) == ("mixup", 1.0, 0.999)
    assert (vanilla.clean_weight, vanilla.ema_decay) == (0.0, 0.999)
    assert (mixer.mixup, mixer.mixup_options) == ("mixer:slim", {"softness": 1.0})


def test_differences_from_controls_are_paired_and_only_shown_where_there_is_a_control():
    run = {"seconds": None, "memory": None, "published": None, "failed": [], "missing": 0}
    run |= dict.fromkeys(["top1", "nll", "ece", "relative_seconds", "relative_memory", "mask_std", "mask_correlation"])
    top1 = {"vanilla": (50.0, 52.0), "control:samix": (53.0, 54.0), "samix": (54.0, 56.0)}
    rows = {
        label: {**run, "runs": [{"seed": seed, "top1": value} for seed, value in enumerate(values)]}
        for label, values in top1.items()
    }
    for label, row in rows.items():
        row["gain"] = None
        row["differences"] = {
            base: gain_over(row, rows[base]) for base in ("vanilla", "control:samix") if base != label
        }
    columns = dict(difference_cells({"mixups": rows}))
    assert columns["less control:samix"] == [
        "−2.50 (−8.85 to +3.85)",  # t of one degree of freedom, 12.7062, times 0.5
        "–",
        "+1.50 (−4.85 to +7.85)",
    ]
    for row in rows.values():
        row["differences"].pop("control:samix", None)
    assert difference_cells({"mixups": rows}) == []


def test_rows_of_equal_time_cost_the_same_by_counted_operations():
    flags = [*FLAGS, "--epochs", "30"]
    plain = read_plan(["vanilla", "mixup:recipe.clean_weight=1", "samix", *flags])
    even = read_plan(["vanilla", "mixup:recipe.clean_weight=1", "samix", *flags, "--equal-time"])
    assert [entry.recipe.epochs for entry in plain.entries] == [30, 30, 30]
    vanilla, clean, samix = (entry.recipe for entry in even.entries)
    assert samix.epochs == 30
    assert vanilla.epochs == 2 * clean.epochs
    assert vanilla.epochs * step_cost(vanilla) == pytest.approx(30 * step_cost(samix), rel=0.02)
    with pytest.raises(ValueError, match=r"samix frozen mixes by the Mixer of samix.*leave --equal-time out"):
        read_plan(["ablation:online", *flags, "--equal-time"])


def test_counting_a_step_draws_nothing_from_torch():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    step_cost(small_recipe("cutmix"))
    assert torch.equal(torch.rand(1), expected)


def test_times_of_two_machines_are_not_compared():
    def row(machine):
        run = {"seed": 0, "top1": 50.0, "device": "CPU", "machine": machine, "threads": 1}
        return {"runs": [run], "seconds": mean_and_std([3.0]), "memory": mean_and_std([8.0])}

    base, same, other = row("a"), row("a"), row("b")
    for each in (same, other):
        compare_with(each, base)
    assert (same["relative_seconds"], same["relative_memory"]) == (1.0, 1.0)
    assert (other["relative_seconds"], other["relative_memory"]) == (None, None)


def report_of(recipe, **seeds):
    rows = {label: {"runs": [{"seed": seed} for seed in range(count)]} for label, count in seeds.items()}
    return json.dumps({"mixups": rows, "recipe": recipe})


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (report_of("digits-quick", vanilla=1, fmix=1), "a comparison with rows fmix"),
        (report_of("cifar-few", vanilla=1), "recipe cifar-few"),
        (report_of("digits-quick", vanilla=4, cutmix=4), "4 seeds, which this one would replace; give --seeds 4"),
        ("{}", "is not a report of samix compare"),
    ],
)
@pytest.mark.parametrize("published", [False, True])
def test_a_report_of_another_comparison_is_not_replaced(tmp_path, earlier, message, published):
    path = tmp_path / ("kept.json" if published else "results.json")
    path.write_text(earlier)
    place = ["--out", str(tmp_path / "new"), "--publish", str(tmp_path / "kept.md")] if published else []
    place = place or ["--out", str(tmp_path)]
    with pytest.raises(ValueError, match=message):
        compare(["vanilla", "cutmix", *place, *FLAGS], never, io.StringIO())
    assert path.read_text() == earlier


def test_a_row_that_cannot_be_built_is_told_before_anything_runs(tmp_path):
    for row, message in (
        ("samix:recipe.feature=9", "^samix:recipe.feature=9: .*feature"),
        ("samix:recipe.clean_weight=1", "has a clean loss of its own"),
        ("mixer:nowhere", "^mixer-nowhere: .*nowhere"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(["vanilla", row, "--out", str(tmp_path), *FLAGS], never, io.StringIO())
    assert not list(tmp_path.glob("*-s0"))
