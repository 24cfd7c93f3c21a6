"""What `samix compare` finds equals what its runs wrote; it goes on where it was stopped, and trains nothing twice."""

import base64
import csv
import io
import json
import math
import re
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import open_page
from PIL import Image
from process_groups import started
from runs import SLIM, fit, new_run, run_differences, small_recipe

import samix
from samix.batch import Mixed
from samix.cli.compare import compare
from samix.cli.compare_plan import label_of, read_plan, split_spec
from samix.cli.main import main
from samix.compare.charts import Curve, Gain, curve_chart, draw_curves, gain_chart, limits
from samix.compare.finished import with_all_options
from samix.compare.plan import CompareOptions, median_epochs
from samix.compare.previews import STRIPS, preview_again, sweep
from samix.compare.results import compare_with, mean_and_std
from samix.compare.running import only_here
from samix.compare.worker import train
from samix.mixups.base import pair_batch
from samix.recipes import named_recipe
from samix.runtime.console import printable
from samix.train import RunOptions
from samix.viz.figures import figure
from samix.viz.webpage import data_uri, to_picture

FLAGS = ["--model-args", SLIM, "--limit", "100", "--epochs", "3", "--batch-size", "20", "--size", "8", "--last", "2"]
FLAGS += ["--device", "cpu"]


class Here:
    """A run in this process, ended when it begins: spares the seconds that a process of its own takes to start."""

    def __init__(self, job, plan):
        self.error = ""
        options = RunOptions(
            out=str(job.folder.parent),
            run=job.folder.name,
            resume=True,
            device="cpu",
            quiet=True,
            pictures=False,
        )
        try:
            train(job.recipe, options, job.mixers)
        except (ValueError, RuntimeError) as error:
            self.error = str(error)

    def poll(self):
        return 1 if self.error else 0

    def stop(self):
        pass

    def reason(self):
        return self.error


def never(job, plan):
    raise AssertionError(f"{job.label}, seed {job.seed} is trained a second time")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Folder, exit status and arguments of a comparison: two mixups and one with wrong options, two seeds."""
    out = tmp_path_factory.mktemp("compared") / "all"
    arguments = ["vanilla", "cutmix", "mixup:recipe.lr=1e30", "--seeds", "2", "--out", str(out), *FLAGS]
    status = compare(arguments, Here, io.StringIO())
    return out, status, arguments


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def by_hand(folder, name):
    """Top-1 of each seed, from the lines that its run wrote: median of the last two epochs."""
    found = []
    for seed in range(2):
        lines = (folder / f"{name}-s{seed}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        scores = [json.loads(line)["top1"] for line in lines]
        assert len(scores) == 3
        found.append((scores[1] + scores[2]) / 2)
    return found


def test_a_run_starts_from_the_weights_of_init(tmp_path):
    first = fit(small_recipe("vanilla", epochs=1), tmp_path, "first")
    recipe = small_recipe("vanilla", epochs=1, init=str(first), lr=1e-12, weight_decay=0.0)
    train(recipe, RunOptions(out=str(tmp_path), run="second", device="cpu", quiet=True, pictures=False))
    trained, kept = (dict(samix.load(folder).network.named_parameters()) for folder in (first, tmp_path / "second"))
    assert all(torch.allclose(kept[name], weight, atol=1e-6) for name, weight in trained.items())


# Figures --------------------------------------------------------------------------------------------------------------


def test_figures_equal_those_computed_by_hand_from_the_metrics(compared):
    folder, _, _ = compared
    found = results_of(folder)["mixups"]
    vanilla, cutmix = by_hand(folder, "vanilla"), by_hand(folder, "cutmix")
    for name, (a, b) in (("vanilla", vanilla), ("cutmix", cutmix)):
        assert [run["top1"] for run in found[name]["runs"]] == pytest.approx([a, b])
        assert found[name]["top1"]["mean"] == pytest.approx((a + b) / 2)
        assert found[name]["top1"]["std"] == pytest.approx(abs(a - b) / math.sqrt(2))
    first, second = (own - base for own, base in zip(cutmix, vanilla, strict=True))
    gain, half = (first + second) / 2, 12.7062 * abs(first - second) / 2  # the quantile of t with one degree of freedom
    assert found["cutmix"]["gain"] == pytest.approx(
        {"mean": gain, "low": gain - half, "high": gain + half, "n": 2}, rel=1e-4
    )
    assert found["vanilla"]["gain"] is None
    seconds = {
        name: statistics.fmean(
            json.loads((folder / f"{name}-s{seed}" / "summary.json").read_text())["seconds"] for seed in range(2)
        )
        for name in ("vanilla", "cutmix")
    }
    if seconds["vanilla"] > 0:
        assert found["cutmix"]["relative_seconds"] == pytest.approx(seconds["cutmix"] / seconds["vanilla"])


def test_tables_say_what_the_json_says(compared):
    folder, _, _ = compared
    found = results_of(folder)["mixups"]
    lines = list(csv.DictReader((folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [line["mixup"] for line in lines] == list(found)
    assert float(lines[1]["top1"]) == found["cutmix"]["top1"]["mean"]
    assert float(lines[1]["gain_low"]) == found["cutmix"]["gain"]["low"]
    assert (lines[2]["runs"], lines[2]["failed"], lines[2]["top1"]) == ("0", "2", "")
    markdown = (folder / "table.md").read_text(encoding="utf-8")
    top1 = found["cutmix"]["top1"]
    gain = found["cutmix"]["gain"]
    signed = f"{gain['mean']:+.2f} ± {gain['high'] - gain['mean']:.2f}".replace("-", "−")
    assert f"| cutmix | {top1['mean']:.2f} ± {top1['std']:.2f} | {signed} |" in markdown
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"<td>{top1['mean']:.2f} ± {top1['std']:.2f}</td><td>{signed}</td>" in page


def test_a_failed_run_is_told_and_the_others_go_on(compared):
    folder, status, _ = compared
    assert status == 1
    found = results_of(folder)["mixups"]
    assert len(found["mixup:recipe.lr=1e30"]["failed"]) == 2
    assert "not finite" in found["mixup:recipe.lr=1e30"]["failed"][0]["error"]
    assert len(found["cutmix"]["runs"]) == 2
    for name in ("table.md", "report.html"):
        assert "not finite" in (folder / name).read_text(encoding="utf-8")


def test_a_run_that_diverges_is_told(tmp_path):
    out = tmp_path / "all"
    flags = [*FLAGS, "--lr", "1e30", "--seeds", "1", "--out", str(out)]
    assert compare(["vanilla", *flags], Here, io.StringIO()) == 1
    assert "not finite" in results_of(out)["mixups"]["vanilla"]["failed"][0]["error"]
    assert "not finite" in (out / "report.html").read_text(encoding="utf-8")


def test_unknown_options_fail_without_a_run_and_wrong_names_at_once(tmp_path):
    for spec, message in {
        "cutmix:alhpa=1": r"cutmix:alhpa=1: cutmix has no option alhpa; .*did you mean alpha\?",
        "samix:mask_weight=x": "mask_weight must be float, got 'x'",
        "cutmix:alpha=nan": "cutmix:alpha=nan: alpha must be a finite number",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_plan(["vanilla", spec, "--out", str(tmp_path), "--seeds", "1"])
    with pytest.raises(ValueError, match="unknown mixup 'cutmx'"):
        read_plan(["vanilla", "cutmx"])
    with pytest.raises(ValueError, match="given twice"):
        read_plan(["vanilla", "vanilla"])
    with pytest.raises(ValueError, match="name the mixups first"):
        read_plan(["--seeds", "2", "vanilla"])
    with pytest.raises(ValueError, match="--seeds N"):
        read_plan(["vanilla", "--seed=2"])
    with pytest.raises(ValueError, match="samix:alpha=1"):
        read_plan(["vanilla", "--mixup.alpha", "1"])


def test_gain_has_no_error_with_one_seed_and_is_none_without_vanilla():
    one = {"runs": [{"seed": 0, "top1": 50.0}], "seconds": None, "memory": None}
    other = {"runs": [{"seed": 0, "top1": 52.0}], "seconds": mean_and_std([3.0]), "memory": None}
    compare_with(other, one)
    assert other["gain"] == {"mean": 2.0, "low": None, "high": None, "n": 1}
    assert other["relative_seconds"] is None
    compare_with(other, None)
    assert other["gain"] is None
    assert mean_and_std([]) is None


def test_published_values_stand_beside_ours(tmp_path):
    """They are of the mixup as the recipe has it: not of one with options of its own."""
    from samix.compare.results import collect
    from samix.compare.tables import about, cells_of

    flags = ["--recipe", "cifar100-r18", "--out", str(tmp_path), "--seeds", "1", "--epochs", "3"]
    found = collect(read_plan(["vanilla", "samix", "samix:alpha=1", *flags]), {})
    assert [f["published"] for f in found["mixups"].values()] == [76.42, 81.21, None]
    assert dict(cells_of(found))["published"] == ["76.42", "81.21", "–"]
    assert any("not of the changed one" in line for line in about(found))


# Plan -----------------------------------------------------------------------------------------------------------------


def test_all_mixups_have_the_same_recipe_but_for_what_the_recipe_says_of_each(tmp_path):
    flags = ["--recipe", "tiny-r18", "--epochs", "7", "--lr-end", "0.0", "--out", str(tmp_path), "--seeds", "2"]
    plan = read_plan(["vanilla", "samix", *flags])
    vanilla, samix = (entry.recipe for entry in plan.entries)
    assert (vanilla.epochs, samix.epochs, vanilla.lr_end, samix.lr_end) == (7, 7, 0.0, 0.0)
    assert samix.mixup_options == named_recipe("tiny-r18", "samix").mixup_options
    assert plan.overrides == {"epochs": 7, "lr_end": 0.0}
    assert sorted((job.label, job.seed) for job in plan.jobs) == [
        ("samix", 0), ("samix", 1), ("vanilla", 0), ("vanilla", 1),
    ]  # fmt: skip
    assert all(job.recipe.seed == job.seed for job in plan.jobs)


def test_options_of_a_mixup_go_over_those_of_the_recipe(tmp_path):
    plan = read_plan(["samix:lam-scale=0.5,preset=paper,mask_over_batch=true", "--recipe", "tiny-r18"])
    options = plan.entries[0].recipe.mixup_options
    assert options == {"lam_scale": 0.5, "preset": "paper", "mask_over_batch": True}
    assert read_plan(["mixer:a/b:encode_precision=no,share=0.5"]).entries[0].recipe.mixup_options == {
        "encode_precision": "no",
        "share": 0.5,
    }


@pytest.mark.parametrize(
    ("spec", "name", "options", "label"),
    [
        ("samix", "samix", {}, "samix"),
        ("samix:alpha=1,mask-weight=2", "samix", {"alpha": "1", "mask_weight": "2"}, "samix:alpha=1,mask_weight=2"),
        ("mixer:runs/a/mixer", "mixer:runs/a/mixer", {}, "mixer-a"),
        ("mixer:runs/a=b/mixer:alpha=1", "mixer:runs/a=b/mixer", {"alpha": "1"}, "mixer-a=b:alpha=1"),
    ],
)
def test_a_mixup_is_a_name_and_options(spec, name, options, label):
    assert split_spec(spec) == (name, options)
    assert label_of(spec) == label


def test_the_median_is_over_ten_epochs_or_five_on_imagenet():
    assert median_epochs(named_recipe("cifar100-r18")) == 10
    assert median_epochs(named_recipe("in1k-r50")) == 5
    assert median_epochs(small_recipe(data="imagenet:x", epochs=300)) == 10
    assert median_epochs(named_recipe("cub-r18")) == 10


def test_a_seed_gives_all_mixups_the_same_batches(tmp_path):
    runs = [new_run(small_recipe(mixup, seed=1), tmp_path, mixup) for mixup in ("vanilla", "samix")]
    first, second = (list(run.train_batches.epoch(0)) for run in runs)
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"jobs": -1}, {"last": -1}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must be a whole number in \["):
        CompareOptions(**wrong)


# Going on -------------------------------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing_and_says_the_same(compared):
    folder, _, arguments = compared
    before = results_of(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert compare([a for a in arguments if a != "mixup:recipe.lr=1e30"], never, io.StringIO()) == 0
    after = results_of(folder)
    assert after["mixups"] == {k: v for k, v in before["mixups"].items() if k != "mixup:recipe.lr=1e30"}
    compare(arguments, Here, io.StringIO())
    assert results_of(folder) == before
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_finished_runs_of_the_same_recipe_are_read_from_elsewhere(compared, tmp_path):
    folder, _, arguments = compared
    flags = arguments[arguments.index("--seeds") : arguments.index("--out")] + FLAGS
    out = tmp_path / "new"
    assert compare(["vanilla", "cutmix", *flags, "--out", str(out), "--reuse", str(folder)], never, io.StringIO()) == 0
    assert results_of(out)["mixups"]["cutmix"]["top1"] == results_of(folder)["mixups"]["cutmix"]["top1"]
    plain_run = fit(small_recipe("mixup"), tmp_path / "runs", "mine")
    flags = [*FLAGS, "--epochs", "2", "--seeds", "1", "--reuse", str(tmp_path / "runs")]
    assert compare(["mixup", *flags, "--out", str(out / "2")], never, io.StringIO()) == 0
    assert (plain_run / STRIPS[0]).is_file()


def test_an_option_at_its_default_is_no_other_recipe():
    said = small_recipe("samix", mixup_options={"preset": "reference", "alpha": 2.0, "ema_decay": 0.9}).to_dict()
    left = small_recipe("samix", mixup_options={"ema_decay": 0.9}).to_dict()
    other = small_recipe("samix", mixup_options={"ema_decay": 0.9, "preset": "fast"}).to_dict()
    assert with_all_options(said) == with_all_options(left) != with_all_options(other)


def test_a_folder_of_another_recipe_is_refused(compared):
    _, _, arguments = compared
    with pytest.raises(ValueError, match=r"epochs was 3, is 4.*choose another --out"):
        compare([*arguments, "--epochs", "4"], never, io.StringIO())


def test_two_comparisons_do_not_work_in_one_folder(tmp_path):
    with only_here(tmp_path), pytest.raises(ValueError, match="already writes"), only_here(tmp_path):
        pass


def test_a_killed_comparison_goes_on_inside_its_runs(tmp_path):
    """kill -9 of the command: its child saves its state. Then a call continues, to the very result of unbroken runs."""
    out = tmp_path / "all"
    flags = ["--model-args", SLIM, "--limit", "200", "--epochs", "6", "--batch-size", "10", "--size", "8"]
    flags += ["--device", "cpu", "--jobs", "1", "--seeds", "1", "--out", str(out)]
    process = started(main, ["compare", "cutmix", "vanilla", *flags], log=tmp_path / "process")
    wait_for(lambda: (out / "cutmix-s0" / "metrics.jsonl").is_file() and rows_of(out / "cutmix-s0"))
    process.kill()
    process.wait()
    wait_for(lambda: "stopped at step" in (out / "cutmix-s0" / "log.txt").read_text(encoding="utf-8"))
    done = len(rows_of(out / "cutmix-s0"))
    assert 1 <= done < 6
    assert not (out / "cutmix-s0" / "summary.json").exists()
    assert compare(["cutmix", "vanilla", *flags], Here, io.StringIO()) == 0
    changes = {"limit": 200, "epochs": 6, "batch_size": 10}
    assert run_differences(out / "cutmix-s0", fit(small_recipe("cutmix", **changes), tmp_path, "unbroken")) == []


def rows_of(folder):
    return (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def wait_for(found, seconds=90.0):
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_stopped_comparison_says_how_to_go_on(compared, capsys):
    _, _, arguments = compared

    def interrupted(job, plan):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(arguments, interrupted, io.StringIO())
    assert "the same command continues" in capsys.readouterr().err


# Lines, table, page ---------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_table_and_a_file_gets_lines(compared):
    _, _, arguments = compared
    screen, log = Terminal(), io.StringIO()
    compare(arguments, Here, screen)
    compare(arguments, Here, log)
    assert "\x1b[2K" in screen.getvalue()
    assert "seed 0" in screen.getvalue()
    assert "\x1b" not in log.getvalue()
    assert "mixup:recipe.lr=1e30, seed 1: FAILED: " in log.getvalue()
    quiet = Terminal()
    compare([*arguments, "--quiet"], Here, quiet)
    assert "\x1b" not in quiet.getvalue()


def test_the_page_stands_alone(compared):
    folder, _, _ = compared
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page
    assert len(page) < 3_000_000
    assert page.count("<svg") >= 4
    assert page.count("data:image/") == 2 * 2
    assert "prefers-color-scheme:dark" in page
    assert "width=device-width" in page


def test_names_cannot_write_into_the_page():
    name = '<script>"&$x_1$\x1b\u202e'
    curve = Curve(name, 1, [1, 2], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
    for chart in (curve_chart([curve], "a<b", 0), gain_chart([Gain(name, 1, 1.0, None, None)])):
        assert "<script>" not in chart
        assert "&lt;script&gt;" in chart
        assert "$x_1$" in chart
        assert printable(chart) == chart


def test_the_command_is_there(capsys):
    assert main(["compare", "nonsense"]) == 1
    assert "unknown mixup 'nonsense'" in capsys.readouterr().err


# Charts and pictures --------------------------------------------------------------------------------------------------


def test_axes_fit_the_later_part():
    curve = Curve("a", 1, [1, 2, 3, 4], [0.0, 90.0, 91.0, 92.0], [0.0, 89.0, 90.0, 91.0], [0.0, 91.0, 92.0, 93.0])
    low, high = limits([curve], 2)
    assert 88 < low < 89
    assert 93 < high < 94
    assert limits([Curve("flat", 1, [1], [5.0], [5.0], [5.0])], 1)[0] < 5.0


def test_epochs_on_the_axis_are_whole_and_the_last_ones_are_shaded():
    curve = Curve("a", 1, [1, 2, 3], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    ax = figure(5, 3).subplots()
    draw_curves(ax, [curve], last=2)
    assert all(float(place).is_integer() for place in ax.get_xticks())
    assert min(ax.patches[-1].get_x(), 99.0) == 1.5
    ax = figure(5, 3).subplots()
    draw_curves(ax, [curve], last=3)
    assert not ax.patches


def test_a_single_epoch_and_many_mixups_can_be_drawn():
    curves = [Curve(str(n), n, [1], [n], [n], [n]) for n in range(12)]
    chart = curve_chart(curves, "x", 10)
    assert chart.count('class="s"') == 2 * 12
    assert {int(n) for n in re.findall(r'data-s="(\d+)"', chart)} == set(range(12))
    assert "var(--c1)" in chart
    assert not re.search("#[0-9a-f]{6}", chart.replace("#000000", "").replace("#ffffff", ""))


def test_masks_that_do_not_vary_have_no_statistics_and_planted_ones_the_right_ones():
    def batch(lam, mask):
        images, labels, index = torch.zeros(2, 1, 4, 4), torch.arange(2), torch.tensor([1, 0])
        return pair_batch(Mixed(images, torch.full((2,), lam), mask), labels, index)

    flat = {lam: batch(lam, torch.full((2, 1, 4, 4), lam)) for lam in (0.25, 0.5, 0.75)}
    assert sweep(flat) == {}
    columns = torch.arange(4).expand(2, 1, 4, 4)
    halves = {lam: batch(lam, (columns < 4 * lam).float()) for lam in (0.25, 0.5, 0.75)}
    found = sweep(halves)
    assert found["correlation"] == pytest.approx(1.0)
    assert found["error"] == pytest.approx(0.0)
    spreads = [torch.tensor([1.0] * n + [0.0] * (16 - n)).std() for n in (4, 8, 12)]
    assert found["std"] == pytest.approx(float(sum(spreads) / 3))


def test_looking_again_shows_the_same(compared):
    folder = compared[0] / "cutmix-s0"
    names = ("masks.json", *STRIPS)
    before = [(folder / name).read_bytes() for name in names]
    assert json.loads(before[0])["std"] > 0.1
    preview_again(folder, "data")
    assert [(folder / name).read_bytes() for name in names] == before


def test_pictures_become_text_of_their_pixels():
    pixels = torch.rand(3, 5, 7)
    found = data_uri(to_picture(pixels))
    with Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))) as image:
        assert image.size == (7, 5)
        back = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    assert (back - pixels).abs().max() < 0.003
    assert to_picture(torch.rand(1, 40, 20), side=10).size == (5, 10)
    assert to_picture(torch.rand(5, 4, 4)).size == (4, 4)


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (375, 760)])
def test_the_report_works_in_a_browser(compared, scheme, width, height):
    folder, _, _ = compared
    with open_page(folder / "report.html", width, height, scheme) as (tab, said):
        assert said == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, dark[4:-1].split(","))) < 200) == (scheme == "dark")
        tab.keyboard.press("Tab")
        tab.locator(".keys button", has_text="cutmix").click()
        dimmed = tab.locator("svg .s.dim").count()
        assert dimmed > 0
        assert dimmed == tab.locator("svg .s").count() - tab.locator("svg .s[data-s='1']").count()
        tab.locator(".keys button", has_text="cutmix").press("Enter")
        assert tab.locator("svg .s.dim").count() == 0
        assert said == []


def test_runs_csv_has_a_row_for_every_finished_run(compared):
    folder, _, _ = compared
    found = results_of(folder)["mixups"]
    rows = list(csv.DictReader((folder / "runs.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["mixup"], row["seed"]) for row in rows] == [
        ("vanilla", "0"), ("vanilla", "1"), ("cutmix", "0"), ("cutmix", "1"),
    ]  # fmt: skip
    for row in rows:
        run = found[row["mixup"]]["runs"][int(row["seed"])]
        assert float(row["top1"]) == run["top1"]
        assert float(row["nll"]) == run["nll"]
        assert int(row["images_seen"]) == 3 * 100  # epochs, images
        assert float(row["worst_class"]) == min(v for v in summary_of(run)["by_class"].values() if v is not None)
        assert float(row["cpu_seconds"]) > 0
        assert row["command"].startswith("samix compare vanilla cutmix")
    hashes = {row["mixup"]: row["options"] for row in rows}
    assert [row["options"] for row in rows] == [hashes[row["mixup"]] for row in rows]  # of both seeds the same
    assert hashes["vanilla"] != hashes["cutmix"]


def summary_of(run):
    return json.loads((Path(run["folder"]) / "summary.json").read_text(encoding="utf-8"))
