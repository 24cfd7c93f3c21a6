"""The papers' ablations as comparisons: what each row is, that it can be built, and whose Mixer a frozen one is."""

import dataclasses
import io
import itertools
import json

import pytest
import torch
from planted_runs import plant
from runs import SLIM
from safetensors.torch import load_file
from test_compare import Here

from samix.cli.compare import compare
from samix.cli.compare_plan import read_plan
from samix.compare.ablations import ABLATIONS
from samix.compare.finished import find_finished
from samix.compare.running import NO_SOURCE
from samix.recipes.build import MIXER, build_method
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe

UNLABELLED = ("objective-ssl", "clusters")
TINY = ["--model-args", SLIM, "--limit", "60", "--epochs", "4", "--batch-size", "20", "--size", "8", "--device", "cpu"]
DIGITS = 1438  # training images


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["mixups"]


# What the rows are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_row_of_an_ablation_is_a_recipe_that_can_be_built(name):
    plan = read_plan([f"ablation:{name}"])
    assert len(plan.entries) == len(ABLATIONS[name].variants)
    for entry in plan.entries:
        recipe = entry.recipe
        assert isinstance(recipe, PretrainRecipe) == (name in UNLABELLED)
        if entry.variant.mixer_of:  # its Mixer is still to be trained; any will do
            recipe = dataclasses.replace(recipe, mixup="mixer:default")
        if name in UNLABELLED:
            build_pretraining(recipe, DIGITS)
        else:
            build_method(recipe, 10)


@pytest.mark.parametrize("name", ABLATIONS)
def test_no_two_rows_of_an_ablation_are_the_same(name):
    plan = read_plan([f"ablation:{name}", "--epochs", "20", "--seeds", "1"])
    recipes = [json.dumps(job.recipe.to_dict(), sort_keys=True) for job in plan.jobs]
    assert len(set(recipes)) == len(recipes) == len(ABLATIONS[name].variants)


def test_ablations_can_be_asked_for_together_and_share_their_rows():
    for names in ([n for n in ABLATIONS if n not in UNLABELLED], UNLABELLED):
        plan = read_plan([f"ablation:{name}" for name in names])
        labels = [entry.label for entry in plan.entries]
        assert labels.count("vanilla") == labels.count("samix") == 1
        assert len(set(labels)) == len(labels)
        assert plan.ablations == tuple(names)


def test_the_ladder_of_modules_adds_one_at_a_time():
    plan = read_plan(["ablation:modules"])
    rows = [e.recipe.mixup_options for e in plan.entries if e.label != "vanilla"]
    changes = []
    for before, after in itertools.pairwise(rows):
        changes.append({key for key in before.keys() | after.keys() if before.get(key) != after.get(key)})
    assert changes == [{"gamma"}, {"attention"}, {"content"}, {"upsample"}, {"adjust_prob"}]


def test_a_published_figure_stands_beside_the_row_that_is_as_the_recipe_has_it(tmp_path):
    plan = read_plan(["ablation:alpha", "--recipe", "cifar100-r18", "--out", str(tmp_path)])
    found = {entry.label: entry.published for entry in plan.entries if entry.published}
    assert found == {"vanilla": 76.42, "alpha 2": 81.21}


def test_what_an_ablation_asks_stands_in_the_report(tmp_path):
    arguments = ["ablation:alpha", "--seeds", "1", "--out", str(tmp_path / "runs"), "--read"]
    plant(arguments, lambda label, seed: [50.0] if label in ("vanilla", "alpha 0.5") else None)
    compare([*arguments, "--publish", str(tmp_path / "alpha")], None, io.StringIO())
    for path in (tmp_path / "runs" / "table.md", tmp_path / "runs" / "report.html", tmp_path / "alpha.md"):
        text = path.read_text(encoding="utf-8")
        assert "alpha = 2 is best" in text
        assert "samix:alpha=0.5" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ablation:nonsense"], "unknown ablation 'nonsense'; choose one of modules, without"),
        (["ablation:modules", "samix"], "samix is given twice"),
        (["ablation:clusters", "--recipe", "digits-quick"], "unknown mixup 'samix-c'"),
        (["vanilla", "--recipe", "nonsense"], "unknown recipe 'nonsense'; choose one of digits-quick"),
    ],
)
def test_what_cannot_be_compared_is_named(words, message):
    with pytest.raises(ValueError, match=message):
        read_plan(words)


def test_a_row_may_change_fields_of_the_recipe_but_not_those_of_the_comparison():
    plan = read_plan(["samix:recipe.feature=1,alpha=1", "vanilla", "--epochs", "7"])
    first, second = (entry.recipe for entry in plan.entries)
    assert (first.feature, first.mixup_options["alpha"], second.feature) == (1, 1.0, 2)
    assert plan.overrides == {"epochs": 7}
    for field, message in (
        ("seed=1", "cannot change recipe.seed"),
        ("feature=x", "feature must be"),
        ("lr=-1", "lr must"),
    ):
        with pytest.raises(ValueError, match=message):
            read_plan([f"vanilla:recipe.{field}"])


# A Mixer of another row -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """The comparison of early and late Mixers, run on a few digits."""
    out = tmp_path_factory.mktemp("early") / "runs"
    arguments = ["ablation:early", *TINY, "--seeds", "1", "--out", str(out)]
    assert compare(arguments, Here, io.StringIO()) == 0
    return out, arguments


def test_early_and_late_mixers_are_those_of_their_epochs(early):
    out, _ = early
    found = {p.name: load_file(p / "model.safetensors") for p in sorted((out / "samix-s0").glob("mixer*"))}
    assert list(found) == ["mixer", "mixer-epoch-1", "mixer-epoch-2"]
    key = "mixer.query.weight"
    assert not torch.equal(found["mixer-epoch-1"][key], found["mixer-epoch-2"][key])
    assert not torch.equal(found["mixer-epoch-2"][key], found["mixer"][key])
    for percent, folder in ((10, "mixer-epoch-1"), (25, "mixer-epoch-1"), (50, "mixer-epoch-2"), (100, "mixer")):
        recipe = json.loads((out / f"Mixer-after-{percent}-percent-s0" / "recipe.json").read_text(encoding="utf-8"))
        assert recipe["mixup"] == f"{MIXER}{out / 'samix-s0' / folder}"
        assert recipe["mixup_options"] == {"clean_weight": 1.0}


def test_rows_with_a_mixer_of_another_row_have_figures_like_any(early):
    found = results_of(early[0])
    assert len(found) == len(ABLATIONS["early"].variants)
    assert all(len(f["runs"]) == 1 and f["top1"]["mean"] > 0 for f in found.values())
    assert found["Mixer after 50 percent"]["spec"] == "mixer:clean_weight=1, by the Mixer of samix"


def test_an_ablation_is_not_trained_a_second_time(early):
    out, arguments = early
    before = results_of(out)
    assert compare(arguments, None, io.StringIO()) == 0
    assert results_of(out) == before


def test_where_the_source_was_run_elsewhere_its_mixer_is_taken_from_there(tmp_path):
    flags = ["--recipe", "digits-quick", "--seeds", "1", "--out"]
    plant(["samix", *flags, str(tmp_path / "old")], lambda label, seed: [50.0])
    plan = find_finished(read_plan(["ablation:early", *flags, str(tmp_path / "new"), "--reuse", str(tmp_path / "old")]))
    jobs = {job.label: job for job in plan.jobs}
    assert jobs["samix"].folder == tmp_path / "old" / "samix-s0"
    for percent, name in ((10, "mixer-epoch-3"), (100, "mixer")):
        job = jobs[f"Mixer after {percent} percent"]
        assert job.after == tmp_path / "old" / "samix-s0"
        assert job.recipe.mixup == f"{MIXER}{tmp_path / 'old' / 'samix-s0' / name}"


class Failing(Here):
    """SAMix fails; what mixes by its Mixer must not start."""

    def __init__(self, job, plan):
        assert job.after is None
        if job.label == "samix":
            self.error = "planted"
        else:
            super().__init__(job, plan)


def test_rows_whose_source_failed_fail_too_and_the_others_go_on(tmp_path):
    out = tmp_path / "runs"
    assert compare(["ablation:early", *TINY, "--seeds", "1", "--out", str(out)], Failing, io.StringIO()) == 1
    found = results_of(out)
    assert len(found["vanilla"]["runs"]) == 1
    assert found["samix"]["failed"] == [{"seed": 0, "error": "planted"}]
    assert found["Mixer after 100 percent"]["failed"] == [{"seed": 0, "error": NO_SOURCE}]


# Without labels -------------------------------------------------------------------------------------------------------


def test_runs_without_labels_are_compared_by_their_neighbours(tmp_path):
    out = tmp_path / "runs"
    flags = ["--recipe", "digits-moco", "--limit", "100", "--epochs", "2", "--batch-size", "20", "--size", "8"]
    flags += ["--model-args", SLIM, "--device", "cpu", "--seeds", "1", "--last", "2", "--out", str(out)]
    short = {"method_options": {"preset": "cifar", "queue": 40, "groups": 2}}
    (tmp_path / "short.json").write_text(json.dumps(short), encoding="utf-8")
    flags += ["--config", str(tmp_path / "short.json")]
    words = ["vanilla", "samix", "samix-c:clusters=5,warmup_epochs=1"]
    assert compare([*words, *flags], Here, io.StringIO()) == 0
    found = results_of(out)
    for label, folder in zip(words, ("vanilla", "samix", "samix-c-clusters=5,warmup_epochs=1"), strict=True):
        lines = (out / f"{folder}-s0" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        scores = [json.loads(line)["knn"] for line in lines]
        assert found[label]["top1"]["mean"] == pytest.approx(sum(scores) / 2)
        assert found[label]["nll"] is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Held-out kNN %" in page
    assert "nearest neighbours" in page
    assert "kNN %" in (out / "table.md").read_text(encoding="utf-8")
