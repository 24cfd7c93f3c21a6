"""``samix analyse``: each analysis on runs of a second; what it writes, repeats, leaves alone and refuses."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from runs import fit, small_recipe, vit_recipe

from samix.analysis import ANALYSES
from samix.analysis.base import Analysis
from samix.analysis.subject import checkpoints, load_subject
from samix.cli.main import main
from samix.hub.load import find_weights

QUICK = {
    "robustness": ["--corruptions", "contrast", "jpeg", "--epsilons", "0", "8", "--pgd-steps", "2"],
    "occlusion": ["--grid", "4", "--shares", "0", "0.5"],
    "localisation": ["--steps", "10"],
    "information": ["--steps", "5", "--rounds", "1", "--lams", "0.5"],
    "landscape": ["--points", "3", "--direction"],
    "cost": ["--repeats", "1"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    found = {mixup: fit(small_recipe(mixup), out, mixup) for mixup in ("samix", "vanilla")}
    return {**found, "vit": fit(vit_recipe("cutmix", epochs=1), out, "vit")}


def analyse(capsys, name, source, out, *options):
    """The line and the JSON of an analysis."""
    given = ["analyse", name, str(source), "--out", str(out), "--images", "30", "--device", "cpu", *options]
    status = main(given)
    told = capsys.readouterr()
    assert status == 0, told.err
    return told.out.strip(), json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))


def refused(capsys, *arguments):
    """What the command says, in one line, and that it fails."""
    assert main(["analyse", *map(str, arguments)]) == 1
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    return told


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


@pytest.mark.parametrize("name", ANALYSES)
def test_each_analysis_prints_a_line_and_writes_picture_and_numbers(runs, tmp_path, capsys, name):
    before = digest(runs["samix"])
    line, numbers = analyse(capsys, name, runs["samix"], tmp_path / "a.png", *QUICK.get(name, []))
    assert digest(runs["samix"]) == before
    assert "\n" not in line
    assert line.startswith(f"{tmp_path / 'a.png'}: ")
    assert (numbers["analysis"], numbers["images"], numbers["options"]["seed"]) == (name, 30, 0)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 250
        assert pixels.std() > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]


OWN_ANALYSIS = """
from dataclasses import dataclass
from typing import ClassVar

from samix.analysis.base import Analysis, Findings
from samix.viz.figures import panels

@dataclass(frozen=True)
class Confidence(Analysis):
    \"\"\"Mean confidence of a classifier.

    Args:
        temperature: divides the logits.
    \"\"\"

    name: ClassVar[str] = "confidence"
    temperature: float = 1.0

    def analyse(self, subject):
        logits = subject.classified().predict(subject.images) / self.temperature
        confidence = logits.softmax(1).amax(1)
        figure, (axes,) = panels(1, subject.title)
        axes.hist(confidence.cpu().numpy())
        return Findings(f"mean {confidence.mean():.3f}", {"mean": float(confidence.mean())}, figure)
"""


def test_an_analysis_of_another_package_runs_by_name(runs, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_analyses.py").write_text(OWN_ANALYSIS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    line, numbers = analyse(
        capsys, "own_analyses:Confidence", runs["samix"], tmp_path / "own.png", "--temperature", "1e9"
    )
    assert line.endswith("mean 0.100")  # ten digits, all alike at this temperature
    assert numbers["analysis"] == "confidence"
    assert numbers["options"]["temperature"] == 1e9
    assert numbers["mean"] == pytest.approx(0.1, abs=1e-4)
    assert (tmp_path / "own.png").is_file()


@pytest.mark.parametrize("name", ["lambda", "robustness", "information", "landscape"])  # those that draw
def test_the_same_seed_gives_the_same_numbers(runs, tmp_path, capsys, name):
    options = QUICK.get(name, [])
    source = runs["vit"]  # by CutMix, which draws boxes
    first, second = (analyse(capsys, name, source, tmp_path / "a.png", *options)[1] for _ in range(2))
    assert first == second


def test_calibration_agrees_with_evaluate(runs, tmp_path, capsys):
    found = analyse(capsys, "calibration", runs["samix"], tmp_path / "a.png", "--images", "0")[1]
    said = json.loads((runs["samix"] / "summary.json").read_text(encoding="utf-8"))
    assert found["result"]["ece"] == pytest.approx(said["ece"], rel=1e-3)


def test_an_export_is_the_run(runs, tmp_path, capsys):
    run, export = (
        analyse(capsys, "calibration", source, tmp_path / "a.png")[1]["result"]
        for source in (runs["samix"], runs["samix"] / "export")
    )
    assert all(run[key] == pytest.approx(export[key], rel=1e-4) for key in run)
    assert "give the run's checkpoint instead of its export" in refused(capsys, "lambda", runs["samix"] / "export")
    line, _ = analyse(capsys, "lambda", runs["samix"] / "export", tmp_path / "a.png", "--mixup", "resizemix")
    assert "mixed by resizemix" in line
    line, _ = analyse(capsys, "lambda", runs["vanilla"], tmp_path / "a.png")
    assert "mixed by mixup" in line  # vanilla leaves images as they are


def test_mixups_that_look_at_the_network_are_given_it(runs, tmp_path, capsys):
    line, _ = analyse(capsys, "lambda", runs["vit"], tmp_path / "a.png", "--mixup", "puzzlemix", "--lams", "0.5")
    assert "mixed by puzzlemix" in line


def test_a_vit_is_occluded_by_its_patches_and_localised_at_its_size(runs, tmp_path, capsys):
    _, numbers = analyse(capsys, "occlusion", runs["vit"], tmp_path / "a.png", *QUICK["occlusion"])
    assert (numbers["salience"], numbers["grid"]) == ("attention", [2, 2])
    line, numbers = analyse(capsys, "localisation", runs["vit"], tmp_path / "a.png", *QUICK["localisation"])
    assert "objects planted on a canvas" in line
    assert len(numbers["result"]["max_box_acc"]) == 3
    analyse(capsys, "cam", runs["vit"], tmp_path / "a.png")


def test_two_networks_are_joined_by_a_line(runs, tmp_path, capsys):
    same = analyse(
        capsys, "landscape", runs["vanilla"], tmp_path / "a.png", "--points", "3", "--other", str(runs["vanilla"])
    )[1]["to_the_other_network"]
    assert same["barrier"] == pytest.approx(0.0, abs=1e-6)
    assert "weights of different networks" in refused(
        capsys, "landscape", runs["vanilla"], "--other", runs["vit"], "--out", tmp_path / "b.png"
    )


def test_masks_of_all_checkpoints_and_of_several_runs(runs, tmp_path, capsys):
    _, numbers = analyse(capsys, "masks", runs["samix"], tmp_path / "a.png")
    assert {one["name"] for one in numbers["checkpoints"]} >= {"best", "last"}
    assert [one["epoch"] for one in numbers["checkpoints"]][-1] == 2
    logged = [json.loads(row) for row in (runs["samix"] / "metrics.jsonl").read_text().splitlines()]
    assert numbers["history"]["error"] == [row["mask_error"] for row in logged]
    _, numbers = analyse(capsys, "masks", runs["samix"] / "last.pt", tmp_path / "a.png", str(runs["vit"] / "last.pt"))
    assert [one["name"] for one in numbers["checkpoints"]] == ["samix/last", "vit/last"]


def test_images_are_of_all_classes_alike_and_repeat_themselves(runs):
    a, b, c = (
        load_subject(Analysis(runs["vanilla"], images=40, batch_size=16, seed=seed, device="cpu")) for seed in (0, 0, 1)
    )
    assert torch.equal(a.images, b.images)
    assert not torch.equal(a.images, c.images)
    assert a.labels.bincount().tolist() == [4] * 10


def test_a_network_of_some_classes_is_tried_on_data_with_more(runs, tmp_path):
    """Classes are matched by name, whatever their number in the data."""
    for split in ("train", "val"):
        for name in ("zebra", "7", "2"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "a.png")
    folder = f"folder:{tmp_path}"
    with pytest.raises(ValueError, match="has no images of 8 of the network's 10 classes, such as '0'"):
        load_subject(Analysis(runs["vanilla"], data=folder, images=0, batch_size=16, device="cpu"))
    for name in "01345689":
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "a.png")
    subject = load_subject(Analysis(runs["vanilla"], data=folder, images=0, batch_size=16, device="cpu"))
    assert len(subject.images) == 10
    assert [subject.files()[n].parent.name for n in range(10)] == [str(int(label)) for label in subject.labels]


def test_what_cannot_be_analysed_is_told_in_one_line(runs, tmp_path, capsys):
    out = ("--out", tmp_path / "a.png")
    assert "unknown analysis 'tea'; choose one of lambda, calibration" in refused(capsys, "tea", runs["samix"])
    assert "nothing at" in refused(capsys, "cam", tmp_path / "none", *out)
    assert "neither a run's folder (last.pt) nor an export" in refused(capsys, "cam", tmp_path, *out)
    assert "--out must end in .png" in refused(capsys, "cam", runs["samix"], "--out", tmp_path / "a.jpg")
    assert "--corruptions must be among gaussian_noise" in refused(
        capsys, "robustness", runs["samix"], "--corruptions", "rain", *out
    )
    assert "'samix' cannot be used here" in refused(capsys, "lambda", runs["vanilla"], "--mixup", "samix", *out)
    assert not (tmp_path / "a.png").exists()
    assert main(["analyse"]) == 0
    assert all(name in capsys.readouterr().out for name in ["tsne"])


def test_checkpoints_of_a_folder_are_in_order_of_training(runs, tmp_path):
    assert find_weights(runs["samix"]) == runs["samix"] / "last.pt"
    assert find_weights(runs["samix"] / "export") == runs["samix"] / "export"
    shutil.copy(runs["samix"] / "best.pt", tmp_path / "zz.pt")
    shutil.copy(runs["samix"] / "last.pt", tmp_path / "aa.pt")
    epochs = [torch.load(path, weights_only=True)["rows"][-1]["epoch"] for path in checkpoints(tmp_path)]
    assert epochs == sorted(epochs)
