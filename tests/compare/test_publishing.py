"""What `samix compare --publish` writes says what the runs found, and nothing of the machine's folders."""

import io
import json
import re
import subprocess

import numpy as np
import pytest
from PIL import Image
from planted_runs import plant

from samix.cli.compare import compare
from samix.cli.compare_plan import read_plan
from samix.compare.provenance import commit, machine, processor, without_places
from samix.compare.publish import publish
from samix.compare.running import only_here

SCORES = {"vanilla": (70.0, 74.0), "samix": (80.0, 81.0), "mixup": (75.0,)}


def never(job, plan):
    raise AssertionError(f"{job.label}, seed {job.seed} is trained")


def scores_of(label, seed):
    """Ten epochs whose median is planted; the last seed of mixup is missing."""
    found = SCORES[label]
    return [found[seed] - 30.0] * 4 + [found[seed]] * 6 + [found[seed] + 1.0] * 4 if seed < len(found) else None


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    out = tmp_path_factory.mktemp("planted") / "runs"
    found = ["vanilla", "samix", "mixup", "--recipe", "cifar100-r18", "--seeds", "2", "--out", str(out)]
    plant(found, scores_of, memory=100.0, of="process", machine="a machine, 2 cores", commit="abc123")
    return found


@pytest.fixture(scope="module")
def page(arguments, tmp_path_factory):
    """Folder and text of a page published from planted runs."""
    folder = tmp_path_factory.mktemp("published") / "results"
    assert compare([*arguments, "--read", "--publish", str(folder / "planted.md")], never, io.StringIO()) == 0
    return folder, (folder / "planted.md").read_text(encoding="utf-8")


def rows_of(text):
    """The table of a page: a dictionary by head for each line."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}


def test_what_was_expected_stands_beside_what_was_measured(page):
    rows = rows_of(page[1])
    assert rows["vanilla"]["expected top-1 %"] == "76.42"
    assert rows["vanilla"]["measured top-1 %"] == "72.00 ± 2.83"
    assert rows["vanilla"]["expected gain"] == rows["vanilla"]["measured gain"] == "–"
    assert rows["samix"]["expected gain"] == "+4.79"  # 81.21 - 76.42
    assert rows["samix"]["measured gain"] == "+8.50 ± 19.06"  # differences 10 and 7: 12.706 * 1.5
    assert rows["samix"]["last epoch"] == "81.50"
    assert rows["mixup"]["runs"] == "1, 1 to come"


def test_the_page_says_where_it_comes_from(page):
    text = page[1]
    assert "`samix compare vanilla samix mixup --recipe cifar100-r18 --seeds 2 --out runs --publish planted.md`" in text
    assert "a machine, 2 cores" in text
    assert "Commit: abc123." in text
    assert "![planted](planted.png)" in text
    assert "Expected: published for recipe cifar100-r18" in text


def test_nothing_of_the_machines_folders_is_published(page, tmp_path_factory):
    folder, text = page
    for written in (text, (folder / "planted.json").read_text(encoding="utf-8")):
        assert str(tmp_path_factory.getbasetemp()) not in written
        assert not re.search(r'[":` ]/\w', written)


def test_the_json_has_the_figures_of_every_run(page):
    found = json.loads((page[0] / "planted.json").read_text(encoding="utf-8"))
    assert found["mixups"]["samix"]["top1"]["mean"] == pytest.approx(80.5)
    assert [run["top1"] for run in found["mixups"]["vanilla"]["runs"]] == [70.0, 74.0]
    assert found["mixups"]["vanilla"]["runs"][0]["curves"]["top1"] == scores_of("vanilla", 0)
    assert found["mixups"]["vanilla"]["runs"][0]["folder"] == "vanilla-s0"
    assert found["commits"] == ["abc123"]
    assert found["hardware"] == ["a machine, 2 cores"]


def test_the_picture_shows_every_mixup_in_a_colour_of_its_own(page):
    from matplotlib.colors import to_rgb

    from samix.viz.figures import COLOURS

    with Image.open(page[0] / "planted.png") as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert pixels.shape[1] > 900
    for ink in COLOURS[1:3]:
        wanted = np.round(np.array(to_rgb(ink)) * 255)
        assert (np.abs(pixels - wanted).max(axis=2) <= 2).sum() > 100


def test_where_nothing_is_published_the_page_says_so(tmp_path):
    arguments = ["vanilla", "mixup", "--recipe", "cifar-slim", "--seeds", "1", "--out", str(tmp_path / "runs")]
    plant(arguments, scores_of)
    compare([*arguments, "--read", "--publish", str(tmp_path / "p")], never, io.StringIO())
    text = (tmp_path / "p.md").read_text(encoding="utf-8")
    assert "Nothing is published for this recipe" in text
    assert rows_of(text)["mixup"]["expected top-1 %"] == "–"
    assert "where this was written" in text  # the runs did not note their machine


# Reading --------------------------------------------------------------------------------------------------------------


def test_reading_does_not_disturb_a_comparison_at_work(arguments):
    out = io.StringIO()
    with only_here(read_plan(arguments).out):
        assert compare([*arguments, "--read"], never, out) == 0
    assert "80.50" in out.getvalue()


def test_reading_where_nothing_is_finished_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="--read trains nothing"):
        compare(["vanilla", "--read", "--out", str(tmp_path)], never, io.StringIO())
    with pytest.raises(ValueError, match="no run is finished"):
        publish(tmp_path / "x", {"mixups": {"vanilla": {"runs": []}}}, [])


def test_runs_from_before_a_recipe_had_a_field_are_read(tmp_path):
    arguments = ["vanilla", "--seeds", "1", "--recipe", "cifar-slim", "--out", str(tmp_path / "runs")]
    (job,) = plant(arguments, scores_of).jobs
    for name in ("recipe.json", "summary.json"):
        content = json.loads((job.folder / name).read_text(encoding="utf-8"))
        del content.get("recipe", content)["decoupled_eta"]
        (job.folder / name).write_text(json.dumps(content), encoding="utf-8")
    assert compare([*arguments, "--read"], never, io.StringIO()) == 0
    elsewhere = [*arguments[:-1], str(tmp_path / "new"), "--reuse", str(tmp_path / "runs"), "--read"]
    out = io.StringIO()
    compare_without_pictures(elsewhere, out)
    assert "70.00" in out.getvalue()


def compare_without_pictures(arguments, out):
    """Planted runs have no checkpoint to paint from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samix.cli.compare.preview_again", lambda folder, root: None)
        assert compare(arguments, never, out) == 0


# Where a figure comes from --------------------------------------------------------------------------------------------


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_the_commit_is_that_which_is_checked_out_and_changes_are_told(tmp_path):
    assert commit(tmp_path) == ""
    git(tmp_path, "init", "-q")
    (tmp_path / "__init__.py").write_text("", encoding="utf-8")
    assert commit(tmp_path) == ""  # nothing of it is in git
    git(tmp_path, "add", "__init__.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = tmp_path / ".git" / "refs" / "heads"
    full = next(head.iterdir()).read_text(encoding="utf-8").strip()
    assert commit(tmp_path) == full[:12]
    (tmp_path / "__init__.py").write_text("1\n", encoding="utf-8")
    assert commit(tmp_path) == full[:12] + " + changes"


def test_the_machine_is_named_by_its_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some  CPU @ 2 GHz\n", encoding="utf-8")
    assert processor(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert "core" in machine()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("--data folder:/tmp/data --out /a/b/c", "--data folder:data --out c"),
        ("mixer:/x/runs/samix-s0/mixer:alpha=1", "mixer:mixer:alpha=1"),
        ("runs/compare-a/b and images/s, +/- 1", "runs/compare-a/b and images/s, +/- 1"),
        ("https://example.org/a", "https://example.org/a"),
        ("'/a b'", "'a b'"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text, wanted):
    assert without_places(text) == wanted
