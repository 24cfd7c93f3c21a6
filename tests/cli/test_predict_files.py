"""``samix predict`` and ``samix export`` never replace what they did not write, and say what they could not do."""

import pytest
from PIL import Image
from runs import fit, small_recipe

from samix.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(small_recipe("cutmix", epochs=1), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Image.new("RGB", (8, 8), (90 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_predictions_replace_predictions_and_nothing_else(run, images, capsys):
    assert main(["predict", str(run), "0.png", "--csv", "p.csv"]) == 0
    assert main(["predict", str(run), "0.png", "1.png", "--csv", "p.csv"]) == 0
    lines = (images / "p.csv").read_text(encoding="utf-8").splitlines()
    assert (lines[0], len(lines)) == ("file,class,probability", 3)
    before = (images / "2.png").read_bytes()
    (images / "notes.csv").write_text("file,class\n", encoding="utf-8")
    (images / "link.csv").symlink_to(images / "p.csv")
    for name in ("2.png", "notes.csv", "link.csv"):
        capsys.readouterr()
        assert main(["predict", str(run), "0.png", "--csv", name]) == 1
        assert capsys.readouterr().err == (
            f"samix: --csv {name} exists and holds no predictions; move it, or give another name\n"
        )
    assert (images / "2.png").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/p.csv", "--csv no/p.csv: there is no folder no; make it first"),
        (".", "--csv . is a folder; give a file, or - for the terminal"),
    ],
)
def test_a_place_for_predictions_is_looked_at_before_the_network_is_loaded(images, capsys, name, message):
    assert main(["predict", "no-network", "0.png", "--csv", name]) == 1
    assert capsys.readouterr().err == f"samix: {message}\n"


def test_earlier_predictions_stay_where_an_image_cannot_be_read(run, images, capsys):
    assert main(["predict", str(run), "0.png", "--csv", "p.csv"]) == 0
    before = (images / "p.csv").read_bytes()
    (images / "1.png").write_bytes(b"")
    assert main(["predict", str(run), "0.png", "1.png", "--csv", "p.csv"]) == 1
    assert "1.png cannot be read (it is empty)" in capsys.readouterr().err
    assert (images / "p.csv").read_bytes() == before
    assert sorted(path.name for path in images.iterdir()) == ["0.png", "1.png", "2.png", "p.csv"]


def test_a_command_that_could_read_no_image_fails(run, images, capsys):
    (images / "0.png").write_bytes(b"")
    assert main(["predict", str(run), "0.png", "--on-bad-image", "skip"]) == 1
    assert capsys.readouterr().err == "samix: 1 of 1 files could not be read and were skipped\n"


def test_an_export_goes_into_a_new_folder_only(run, images, capsys):
    (images / "full").mkdir()
    (images / "full" / "a.txt").write_text("mine", encoding="utf-8")
    for place, message in (("0.png", "is a file"), ("full", "is not empty")):
        assert main(["export", str(run), place]) == 1
        assert capsys.readouterr().err == f"samix: {place} {message}; give a new folder\n"


def test_an_evaluation_says_which_data_are_gone(run, images, capsys):
    for name in ("cat", "dog"):
        for split, count in (("train", 6), ("val", 2)):
            (images / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                shade = (9 * number, 200 * (name == "cat"), 0)
                Image.new("RGB", (8, 8), shade).save(images / "data" / split / name / f"{number}.png")
    folder = fit(small_recipe("vanilla", epochs=1, data=str(images / "data"), limit=0, batch_size=4), images / "runs")
    (images / "data").rename(images / "moved")
    assert main(["evaluate", str(folder)]) == 1
    assert capsys.readouterr().err.endswith("data; check the path; give --data\n")
    assert main(["evaluate", str(folder), "--data", "moved/val"]) == 0
    assert main(["train", "--resume", str(folder), "--data", "moved", "--epochs", "2", "--quiet"]) == 0
    told = capsys.readouterr().err
    assert "the data were" in told
    assert "are moved now: the same count of images, the same classes" in told


def test_no_more_classes_are_named_than_there_are(run, images):
    assert main(["predict", str(run), "0.png", "--csv", "p.csv", "--top", "99"]) == 0
    head, row = ((images / "p.csv").read_text(encoding="utf-8")).splitlines()
    assert len(head.split(",")) == len(row.split(",")) == 1 + 2 * 10
    assert head.endswith(",class_10,probability_10")
