"""What a user gives by mistake to samix.fit, load, predict and export: an error that says what to do."""

import dataclasses
import re

import pytest
import torch
from PIL import Image
from runs import fit, small_recipe
from torch import nn

import samix
from samix.cli.main import main

SAMPLES = [(Image.new("RGB", (16, 16), (9 * i % 255, 0, 0)), i % 2) for i in range(20)]
WITHOUT_LABELS = [Image.new("RGB", (16, 16))] * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(small_recipe(epochs=1), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "new.jpg")
    return tmp_path / "new.jpg"


FIT = {
    "a mixup's class": ({"mixup": samix.CutMix}, TypeError, r"such as samix.CutMix\(alpha=1.0\), got <class"),
    "a learned mixup's class": ({"mixup": samix.SAMix}, TypeError, "the name of a mixup, such as 'samix'"),
    "a misspelt mixup": ({"mixup": "cutmixx"}, ValueError, "did you mean cutmix"),
    "a number for a network": ({"model": 18}, TypeError, "the name of a timm network or an nn.Module"),
    "a network's class": ({"model": nn.Linear}, TypeError, "the name of a timm network or an nn.Module"),
    "a misspelt network": ({"model": "resnett18"}, ValueError, "timm has no network 'resnett18'"),
    "a misspelt recipe": ({"recipe": "finetun"}, ValueError, "did you mean finetune"),
    "a misspelt preset": ({"mixup": "samix", "preset": "fastt"}, ValueError, "did you mean fast"),
    "a misspelt option of the mixup": ({"mixup_options": {"alfa": 1}}, ValueError, "cutmix has no option alfa"),
    "a function for a callback": ({"callbacks": [print]}, TypeError, "derived from samix.train.Callback"),
    "text for a number": ({"epochs": "3"}, ValueError, "epochs must be int"),
    "a folder that is not there": ({"train": "photoz"}, ValueError, "no such folder"),
    "two folders that are not there": ({"train": "photoz", "val": "valz"}, FileNotFoundError, "no such folder: photoz"),
    "val without train": ({"train": None, "val": SAMPLES}, TypeError, "val"),
    "a folder and a dataset": ({"val": "photoz"}, TypeError, "val is a folder and train is not; give both"),
    "an iterator": ({"train": iter(SAMPLES)}, TypeError, r"list\(dataset\)"),
    "no samples": ({"train": []}, ValueError, "holds no samples"),
    "images without labels": ({"train": WITHOUT_LABELS}, (TypeError, ValueError), "label"),
    "fewer names than classes": ({"class_names": ["one"]}, ValueError, r"labels of train must be in 0..0, got 0..1"),
    "weights that are not there": ({"init": "weightz.pth"}, FileNotFoundError, "no file or folder"),
    "a name of no network": ({"init": "resnett18"}, FileNotFoundError, "did you mean resnet18"),
}


@pytest.mark.parametrize("case", FIT)
def test_fit_says_what_is_wrong_before_it_trains(case, tmp_path, monkeypatch):
    changes, kind, message = FIT[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samix.train.Run, "fit", lambda run: pytest.fail("the run began"))
    given = {"model": "resnet18", "mixup": "cutmix", "train": SAMPLES, "device": "cpu", "quiet": True}
    with pytest.raises(kind, match=message):
        samix.fit(**{**given, **changes})
    assert not list(tmp_path.iterdir())


def test_load_says_what_is_wrong(run, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for source, kind, message in (
        ("runs/none", Exception, "runs/none"),
        (tmp_path / "empty", FileNotFoundError, "holds no export"),
        (tmp_path / "notes.txt", ValueError, "damaged, or holds more than weights"),
        ("resnett18", FileNotFoundError, "did you mean resnet18"),
    ):
        with pytest.raises(kind, match=message):
            samix.load(source)
    net = samix.load(run)
    for images, message in (
        (torch.rand(3, 16, 16), r"uint8 tensor \(3, H, W\), got torch.float32"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"uint8 tensor \(3, H, W\)"),
        (tmp_path / "notes.txt", "notes.txt"),
    ):
        with pytest.raises(ValueError, match=message):
            net.predict(images)
    with pytest.raises(ValueError, match="top must be"):
        net.predict(Image.new("RGB", (8, 8)), top=0)


def error_of(capsys, *words):
    """The one line of a command that must fail."""
    assert main(list(map(str, words))) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("samix: ")
    assert error.count("\n") == 1
    return error


def test_predict_says_what_is_wrong(run, photo, capsys, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "none").mkdir()
    for words, message in (
        ((run, "new/*.jpg"), "no file, folder or pattern of files 'new/*.jpg'"),
        ((run, tmp_path / "none"), "holds no images"),
        ((run, tmp_path / "bad.jpg"), "bad.jpg"),
        ((run,), "no images were named"),
        ((run, photo, "--top", "0"), "top must be"),
        ((run, photo, "--topp", "2"), "did you mean --top"),
        ((run, photo, "--device", "cuda:99"), "cuda"),
        ((run, photo, "--csv", tmp_path / "gone/a.csv"), "gone/a.csv"),
        ((tmp_path / "none", photo), "holds no export"),
        (("runz/a", photo), "runz/a"),
    ):
        assert message in error_of(capsys, "predict", *words)
    assert main(["predict", str(run), str(tmp_path), "--on-bad-image", "skip", "--csv", "-"]) == 0
    out, error = capsys.readouterr()
    assert [line.partition(",")[0] for line in out.splitlines()] == ["file", str(photo)]
    assert error == "samix: 1 of 2 files could not be read and were skipped\n"


def test_export_says_what_is_wrong(run, photo, capsys, tmp_path):
    for words, message in (
        ((run / "best.pt", photo), "is a file; give a new folder"),
        ((run / "best.pt", tmp_path), "is not empty; give a new folder"),
        ((tmp_path / "gone.pt", tmp_path / "a"), "gone.pt"),
        ((photo, tmp_path / "a"), "new.jpg"),
    ):
        assert message in error_of(capsys, "export", *words)
    assert not (tmp_path / "a").exists()


def test_resumed_options_are_compared_field_by_field(tmp_path):
    folder = fit(small_recipe(epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"layer_decay was 1\.0, is 0\.5"):
        fit(dataclasses.replace(small_recipe(epochs=1), layer_decay=0.5), folder.parent, folder.name, resume=True)


COMMANDS = {
    "a folder without its option": (["train", "photos"], "'photos' is not expected here; did you mean --data photos?"),
    "a misspelt folder": (["train", "--data", "photo"], "did you mean photos?"),
    "a misspelt folder in a folder": (["train", "--data", "photos/sett"], "photos/sett; did you mean photos/set?"),
    "a misspelt run": (["evaluate", "runs/finetun"], "'runs/finetun'; did you mean runs/finetune?"),
    "a misspelt run to start from": (["train", "--data", "photos", "--init", "runs/finetun"], "runs/finetune?"),
    "a run's name": (["train", "--resume", "finetune"], "no such folder; .*; did you mean runs/finetune?"),
    "no source": (["predict"], "^samix: SOURCE is missing: a run's folder, a checkpoint, .* or lite0 \\("),
    "no folder": (["export", "runs/finetune"], "samix: FOLDER is missing: where to write; a new or empty folder \\("),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_names_what_was_probably_meant(case, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos" / "set").mkdir(parents=True)
    (tmp_path / "runs" / "finetune").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    words, message = COMMANDS[case]
    assert main(words) != 0
    assert re.search(message.replace("?", r"\?"), capsys.readouterr().err)


def test_help_is_a_command_too(capsys):
    assert main(["help"]) == 0
    with pytest.raises(SystemExit, match="0"):
        main(["help", "predict"])
    shown = capsys.readouterr().out
    assert "usage: samix predict" in shown
    assert "(default: )" not in shown
