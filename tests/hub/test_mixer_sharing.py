"""Sharing a Mixer: distilled, exported to ONNX, described by measured figures, and pushed."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import samix
from samix.cli.main import main
from samix.compare.mixer_card import gain_figures
from samix.mixers.folder import MixerConfig, MixerWithEncoder
from samix.mixers.pretrained import SHIPPED

RESULTS = {"quality": {"m": {"kept": 0.6, "kept_error": 0.01}, "cutmix": {"kept": 0.5, "kept_error": 0.01}}}


def small_mixer(folder, kind="score", licence="mit", **mixer):
    """A Mixer with new weights on a small encoder."""
    torch.manual_seed(0)
    about = {"trained_on": "noise", **({"licence": licence} if licence else {})}
    config = MixerConfig(
        kind=kind, mixer=mixer, dim=32, architecture="test_resnet", model_args={}, stem="default", stage=1, size=64,
        mean=(0.5,) * 3, std=(0.5,) * 3, about=about,
    )  # fmt: skip
    network = MixerWithEncoder(config)
    for parameter in network.mixer.parameters():
        if parameter.dim() == 4:
            parameter.data.mul_(2.0)  # else its masks are grey
    network.save_pretrained(folder)
    return network


def command(capsys, *words):
    """Exit status and what was printed."""
    status = main(["mixer", *map(str, words)])
    streams = capsys.readouterr()
    return status, streams.out + streams.err


@pytest.mark.parametrize("kind", ["score", "samix"])
def test_onnx_gives_the_masks_of_pytorch_for_any_batch_and_size(tmp_path, capsys, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = small_mixer(tmp_path / "m", kind)
    assert command(capsys, "export", tmp_path / "m", tmp_path / "o", "--onnx")[0] == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "o" / "model.onnx"))
    mix = samix.Mixer(network=network, lam_margin=-1.0)
    spread = 0.0
    for count, height, width in ((1, 32, 32), (4, 64, 64), (2, 97, 65), (3, 30, 128)):
        image_a, image_b, lam = (
            torch.randn(count, 3, height, width),
            torch.randn(count, 3, height, width),
            torch.rand(count),
        )
        wanted = mix.predict_mask(mix.encode(image_a), mix.encode(image_b), lam, (height, width)).numpy()
        given = {"image_a": image_a.numpy(), "image_b": image_b.numpy(), "lam": lam.numpy()}
        spread = max(spread, wanted.std())
        np.testing.assert_allclose(session.run(None, given)[0], wanted, atol=1e-5)
    assert spread > 0.05


def test_an_onnx_graph_of_one_size_takes_any_batch_and_no_other_size(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = small_mixer(tmp_path / "m", "score")
    assert command(capsys, "export", tmp_path / "m", tmp_path / "o", "--onnx", "--onnx-size", 48)[0] == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "o" / "model.onnx"))
    mix = samix.Mixer(network=network, lam_margin=-1.0)
    for count in (1, 5):
        image_a, image_b, lam = torch.randn(count, 3, 48, 48), torch.randn(count, 3, 48, 48), torch.rand(count)
        wanted = mix.predict_mask(mix.encode(image_a), mix.encode(image_b), lam, (48, 48)).numpy()
        given = {"image_a": image_a.numpy(), "image_b": image_b.numpy(), "lam": lam.numpy()}
        np.testing.assert_allclose(session.run(None, given)[0], wanted, atol=1e-5)
    small = np.zeros((1, 3, 32, 32), np.float32)
    with pytest.raises(Exception, match="Got: 32 Expected: 48"):
        session.run(None, {"image_a": small, "image_b": small, "lam": np.ones(1, np.float32)})


def test_distill_writes_a_mixer_that_says_how_often_it_agrees_with_its_teacher(tmp_path, capsys):
    small_mixer(tmp_path / "m", "samix")
    words = ("--data", "digits", "--limit", 64, "--size", 16, "--steps", 3, "--batch-size", 16, "--maps", 2)
    status, text = command(capsys, "distill", tmp_path / "m", tmp_path / "s", *words, "--device", "cpu")
    assert status == 0
    assert "of cells at lambda 0.5" in text
    student = MixerWithEncoder.read(tmp_path / "s")
    assert (student.config.kind, student.config.mixer["maps"]) == ("score", 2)
    assert student.config.about["licence"] == "mit"
    assert "digits, 64 images" in student.config.about["trained_on"]
    assert "not empty" in command(capsys, "distill", tmp_path / "m", tmp_path, *words)[1]


def test_the_card_holds_figures_from_files_and_the_hub_reads_them(tmp_path, capsys):
    network = small_mixer(tmp_path / "m")
    (tmp_path / "masks.json").write_text(json.dumps(RESULTS))
    figures = ("--masks", tmp_path / "masks.json", "--gains", gains(tmp_path), "--licence", "apache-2.0")
    status, text = command(capsys, "card", tmp_path / "m", *figures)
    assert status == 0
    assert "| share of the object kept at lambda 0.5 | 0.6 | ± 0.010" in text
    assert "cutmix +2.00 [-10.71, +14.71]" in text  # differences 1 and 3: 2 ± 12.706 * 1
    assert network.config.sha256 in text
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.license == "apache-2.0"
    assert [result.metric_value for result in card.data.eval_results] == [0.6, 46.0]
    entries = yaml.safe_load((tmp_path / "m" / ".eval_results" / "samix.yaml").read_text())
    assert [(entry["dataset"]["task_id"], entry["value"]) for entry in entries] == [
        ("object_kept", 0.6),
        ("image_classification", 46.0),
    ]
    again = MixerWithEncoder.read(tmp_path / "m")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in network.state_dict().items())
    assert "has no Mixer 'other'" in command(capsys, "card", tmp_path / "m", *figures, "--method", "other")[1]


def gains(folder):
    """A result of two seeds, and a run of CutMix on another machine, which is no pair of the first."""
    rows = [("m", 0, 45.0, "one"), ("m", 1, 47.0, "one"), ("cutmix", 0, 44.0, "one"), ("cutmix", 1, 44.0, "one")]
    rows.append(("cutmix", 0, 10.0, "two"))
    with (folder / "worth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "method", "seed", "top1", "machine", "options"])
        writer.writerows(["M", *row, '{"limit": 2500}'] for row in rows)
    return folder / "worth.csv"


def test_one_seed_gives_no_interval(tmp_path):
    path = gains(tmp_path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ",1," not in line))
    (figure,) = gain_figures(path, "m")
    assert figure.error == "one run, no error known"
    assert figure.data == "CIFAR-10, 2,500 training images"
    assert "cutmix +1.00 (one seed)" in figure.others


def test_a_dry_run_says_what_would_be_uploaded_and_asks_nobody(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("samix.hub.mixer_push.HfApi", None)
    small_mixer(tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("private")
    status, text = command(capsys, "push", tmp_path / "m", "someone/mixer", "--dry-run")
    assert status == 0
    assert {line.split()[0] for line in text.splitlines() if line.startswith("  ")} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert "nothing was uploaded to someone/mixer" in text


def test_push_sends_the_files_of_a_mixer_and_no_others(tmp_path, capsys, monkeypatch):
    sent = {}

    class Api:
        def create_repo(self, repo, **options):
            sent["repo"] = (repo, options["private"])

        def upload_folder(self, **options):
            sent["patterns"] = options["allow_patterns"]

    monkeypatch.setattr("samix.hub.mixer_push.HfApi", Api)
    small_mixer(tmp_path / "m")
    assert command(capsys, "push", tmp_path / "m", "someone/mixer", "--private")[0] == 0
    assert sent["repo"] == ("someone/mixer", True)
    assert "*" not in sent["patterns"]


def test_a_mixer_without_licence_and_a_wrong_name_are_not_pushed(tmp_path, capsys):
    small_mixer(tmp_path / "m", licence="")
    assert "no card with a licence" in command(capsys, "push", tmp_path / "m", "someone/mixer", "--dry-run")[1]
    for name in ("mixer", "a/b/c", "someone/-mixer-"):
        assert "not a name on the hub" in command(capsys, "push", SHIPPED["slim"], name, "--dry-run")[1]
