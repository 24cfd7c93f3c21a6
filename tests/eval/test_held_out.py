"""What a run left behind: `samix evaluate` on it, loading it, and what is refused."""

import json
import shutil

import pytest
import torch
from PIL import Image
from runs import fit, rows, small_recipe

from samix.eval.held_out import Evaluate
from samix.hub.checkpoints import load_method
from samix.hub.load import load_trained


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return {mixup: fit(small_recipe(mixup), out, mixup) for mixup in ("samix", "cutmix")}


def evaluate(path, data="", batch_size=64):
    return Evaluate(path, data, "data", batch_size, "cpu").run().metrics


@pytest.mark.parametrize(("mixup", "first"), [("samix", "ema"), ("cutmix", "network")])
def test_checkpoint_and_export_score_as_the_run_said(runs, mixup, first):
    said = rows(runs[mixup])[-1]
    last, export = evaluate(runs[mixup] / "last.pt"), evaluate(runs[mixup] / "export")
    for key in ("top1", "top5", "nll", "ece"):
        assert last[first][key] == pytest.approx(said[key], rel=1e-4)
        assert export["export"][key] == pytest.approx(said[key], rel=1e-4)
    assert next(iter(last)) == first
    assert evaluate(runs[mixup] / "last.pt", batch_size=7)[first] == pytest.approx(last[first], rel=1e-4)


def test_best_scores_as_the_best_epoch(runs):
    found = evaluate(runs["samix"] / "best.pt")
    assert found["ema"]["top1"] == pytest.approx(max(row["top1"] for row in rows(runs["samix"])), abs=1e-3)
    assert list(found) == ["ema", "ema_mixed_head", "model", "model_mixed_head"]


def digit_folder(root, names="0123456789"):
    """The held-out digits as files: another data set with the same classes, and with ImageNet's mean by default."""
    from samix.data import load_data

    digits = load_data("digits")
    for number, name in enumerate(names):
        for row in (digits.val.labels == number).nonzero().flatten().tolist():
            for split in ("train", "val"):
                (root / split / name).mkdir(parents=True, exist_ok=True)
                pixels = digits.val.image(row).permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(root / split / name / f"{row}.png")
    return f"folder:{root}"


def test_other_data_is_scaled_as_in_training(runs, tmp_path):
    """The same pixels from files score the same, though files have another mean and deviation by default."""
    data = digit_folder(tmp_path)
    for path in ("last.pt", "export"):
        own, other = evaluate(runs["cutmix"] / path), evaluate(runs["cutmix"] / path, data)
        for name in own:
            assert other[name] == pytest.approx(own[name], rel=1e-3)


def test_data_with_other_classes_is_refused(runs, tmp_path):
    data = digit_folder(tmp_path, "abcdefghij")
    with pytest.raises(ValueError, match=r"has the classes a, b, c, .* which the network was not trained on"):
        evaluate(runs["cutmix"] / "last.pt", data)


def test_a_runs_folder_stands_for_its_last_checkpoint(runs):
    assert evaluate(runs["cutmix"]) == evaluate(runs["cutmix"] / "last.pt")


def test_wrong_paths_and_devices_are_refused(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        evaluate(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=r"holds no export"):
        evaluate(tmp_path)
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda"):
        Evaluate(runs["samix"] / "last.pt", "", "data", 10, "gpu").run()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch finds no CUDA GPU"):
            Evaluate(runs["samix"] / "last.pt", "", "data", 10, "cuda").run()
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        evaluate(runs["samix"] / "last.pt", batch_size=0)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"architecture": "resnet18"}'),
        ("config.json", b"\xff\xfe"),
        ("model.safetensors", b"nothing"),
        ("model.safetensors", b""),
    ],
)
def test_a_spoilt_export_is_refused_in_one_line(runs, tmp_path, file, content):
    folder = tmp_path / "export"
    shutil.copytree(runs["cutmix"] / "export", folder)
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|names no architecture|another network") as error:
        evaluate(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_an_export_with_weights_of_another_network_is_refused(runs, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(runs["cutmix"] / "export", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["samix"]["network"]["model_args"]["channels"] = [8, 8, 16, 32]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="it was changed after it was written"):
        evaluate(folder)
    del config["samix"]["network_sha256"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="of another network"):
        evaluate(folder)


def test_loading_gives_the_trained_weights(runs):
    method, recipe, data = load_method(runs["samix"] / "last.pt")
    loaded = load_trained(runs["samix"] / "export")
    network = loaded.network
    images = torch.randn(2, 3, recipe.size, recipe.size)
    assert recipe == loaded.recipe
    assert data["classes"] == list(loaded.config.class_names)
    assert not method.training
    assert not network.training
    with torch.no_grad():
        torch.testing.assert_close(network(images), method.predict(images)["ema"])


def test_a_folder_of_classes_is_evaluated_whole_and_matched_by_name(runs, tmp_path):
    digit_folder(tmp_path, "0123456789")
    whole = Evaluate(runs["cutmix"], f"{tmp_path / 'val'}", device="cpu").run()
    assert whole.images == len(list((tmp_path / "val").rglob("*.png")))
    assert whole.metrics["network"] == pytest.approx(evaluate(runs["cutmix"])["network"], rel=1e-3)
    for name in "012345":
        shutil.rmtree(tmp_path / "val" / name)
    some = Evaluate(runs["cutmix"], f"folder:{tmp_path / 'val'}", device="cpu").run()
    assert some.images == len(list((tmp_path / "val").rglob("*.png")))
    assert "no image of 6 of the network's 10 classes" in some.data


def test_an_image_that_cannot_be_read_stops_or_is_counted(runs, tmp_path):
    digit_folder(tmp_path, "0123456789")
    (tmp_path / "val/0/bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.png"):
        Evaluate(runs["cutmix"], str(tmp_path / "val"), device="cpu").run()
    found = Evaluate(runs["cutmix"], str(tmp_path / "val"), device="cpu", on_bad_image="skip").run()
    assert found.unreadable == 1
    assert found.images == len(list((tmp_path / "val").rglob("*.png"))) - 1
