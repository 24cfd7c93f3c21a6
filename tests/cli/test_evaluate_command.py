"""The command's kinds on digits: from timm, a checkpoint and an export to numbers and one line."""

import dataclasses

import pytest
import torch
from PIL import Image
from runs import fit, small_recipe
from voc_folders import rectangles, write_voc

from samix.cli.evaluate import KINDS, evaluate_representation
from samix.cli.evaluate_frozen import voc_features
from samix.cli.options import read
from samix.data import load_data
from samix.eval.boxes import image_targets, load_boxes
from samix.eval.source import load_source, scaled

SMALL = {"device": "cpu", "size": 8}
TIMM = "timm:resnet10t"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(small_recipe(epochs=1), tmp_path_factory.mktemp("run"))


def test_checkpoint_and_export_are_one_backbone_and_say_how_pixels_are_scaled(run):
    checkpoint, export = load_source(str(run / "last.pt")), load_source(str(run / "export"))
    images = torch.randn(2, 3, 8, 8)
    assert checkpoint.features(images).shape == (2, 16)
    assert torch.allclose(checkpoint.features(images), export.features(images), atol=1e-6)
    assert torch.equal(checkpoint.backbone.eval()(images), checkpoint.features(images))
    assert checkpoint.scale == export.scale
    assert (checkpoint.size, checkpoint.data) == (export.size, export.data) == (8, "digits")
    data = scaled(load_data("digits"), dataclasses.replace(checkpoint, scale=((0.1,) * 3, (0.2,) * 3)))
    assert (data.mean, data.std) == ((0.1,) * 3, (0.2,) * 3)


def test_knn_of_a_checkpoint_on_the_data_it_was_trained_on(run):
    numbers, line = evaluate_representation("knn", str(run / "last.pt"), ks=(1, 20), device="cpu")
    assert list(numbers) == ["k1", "k20"]
    assert 10 < numbers["k20"] <= 100
    assert line == f"kNN top-1 % on digits: k1 {numbers['k1']:.2f}  k20 {numbers['k20']:.2f}"


def test_knn_takes_no_more_neighbours_than_there_are_images_unless_they_are_asked_for(run, tmp_path):
    for split, count in (("train", 30), ("val", 3)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((8, 8), 40.0 + number).save(tmp_path / split / label / f"{number}.png")
    source = str(run / "last.pt")
    assert list(evaluate_representation("knn", source, str(tmp_path), **SMALL)[0]) == ["k10", "k20"]
    with pytest.raises(ValueError, match=r"k must be in 1\.\.60"):
        evaluate_representation("knn", source, str(tmp_path), ks=(61,), **SMALL)


def test_a_linear_probe_of_several_rates(run):
    numbers, line = evaluate_representation("linear", str(run / "export"), epochs=4, lrs=(0.1, 10.0), device="cpu")
    assert numbers["top1"] == max(numbers["top1@0.1"], numbers["top1@10"])
    assert numbers["top1"] > 15
    assert "(moco, features, best of 2 rates on the test images)" in line


def test_the_augmented_form_is_named(run):
    numbers, line = evaluate_representation("linear", str(run / "export"), augmented=True, epochs=1, device="cpu")
    assert set(numbers) == {"top1", "top5", "lr"}
    assert "(moco, augmented)" in line


def test_svms_of_plain_classes(run):
    source = str(run / "export")
    numbers, line = evaluate_representation("svm", source, "digits", costs=(1.0,), stage=1, **SMALL)
    assert numbers["top1"] > 50
    assert line.startswith("SVM top-1 % on digits:")
    numbers, _ = evaluate_representation("fewshot", source, "digits", costs=(1.0,), shots=(1, 4), draws=2, **SMALL)
    assert list(numbers) == ["map@1", "std@1", "map@4", "std@4"]
    assert numbers["map@4"] > 10


def test_fine_tuning_on_a_part(run):
    numbers, line = evaluate_representation(
        "finetune", str(run / "last.pt"), fraction=0.03, epochs=1, device="cpu", protocol="toolbox-1"
    )
    assert {"top1", "backbone_lr", "head_lr"} <= set(numbers)
    assert line.startswith("fine-tuned on 43 images (toolbox-1) on digits:")


def test_pascal_voc_by_svms_and_by_a_detector(run, tmp_path):
    write_voc(tmp_path, {"trainval": rectangles(8, 1), "test": rectangles(4, 2)})
    options = {"device": "cpu", "size": 32}
    source = load_source(str(run / "export"))
    (train, targets), (test, wanted) = voc_features(
        KINDS["svm"]("", f"voc07:{tmp_path}", **options), source, source.features
    )
    assert (train.shape, test.shape) == ((8, 16), (4, 16))
    boxes = load_boxes(f"voc07:{tmp_path}")
    assert torch.equal(targets, image_targets(boxes.train.objects, 20))
    assert wanted.shape == (4, 20)
    with pytest.raises(ValueError, match="has no positive image in the train split"):
        evaluate_representation("svm", str(run / "export"), f"voc07:{tmp_path}", costs=(1.0,), **options)
    with pytest.raises(ValueError, match="detection needs a ResNet"):
        evaluate_representation("detection", "timm:mobilenetv3_small_050", f"voc07:{tmp_path}", iterations=1, **options)
    numbers, line = evaluate_representation(
        "detection",
        str(run / "export"),
        f"voc07:{tmp_path}",
        iterations=1,
        batch_size=1,
        test_side=32,
        precise=1,
        **options,
    )
    assert set(numbers) == {"ap", "ap50", "ap75"}
    assert line.startswith("detection (torchvision), % on voc:")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_from_a_command_line(kind):
    asked = read(KINDS[kind], ["net.pt", "--data", "digits", "--seed", "3"], "samix evaluate")
    assert (asked.source, asked.data, asked.seed) == ("net.pt", "digits", 3)
    assert asked == KINDS[kind]("net.pt", "digits", seed=3)


def test_what_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="unknown kind 'magic'; choose one of knn, linear"):
        evaluate_representation("magic", "x")
    with pytest.raises(ValueError, match="knn has no option shots; it has source, data"):
        evaluate_representation("knn", "x", shots=(1,))
    with pytest.raises(FileNotFoundError, match="nothing at nowhere; give a run's folder"):
        evaluate_representation("knn", "nowhere", device="cpu")
    with pytest.raises(ValueError, match=r"does not say what it was trained on; give --data"):
        evaluate_representation("knn", TIMM, **SMALL)
    with pytest.raises(ValueError, match="only :pretrained may follow"):
        load_source("timm:resnet10t:best")
    with pytest.raises(FileNotFoundError, match=r"neither a run's folder \(last\.pt\) nor an export"):
        load_source(str(tmp_path))
    with pytest.raises(ValueError, match=r"must be a whole number in \[0, 8192\]"):
        evaluate_representation("knn", TIMM, "digits", size=-1)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_source(str(tmp_path))
