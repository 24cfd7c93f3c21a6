"""samix.fit and samix.pretrain: the user's own networks and datasets; weights to start from; fine-tuning."""

import json

import pytest
import torch
from PIL import Image
from runs import SLIM, fit, small_recipe
from torch import nn
from torch.utils.data import DataLoader

import samix
from samix.cli.recipe_options import read_run
from samix.networks.freeze import freeze_norms
from samix.recipes import TRAINING
from samix.train import Callback

QUIET = {"device": "cpu", "quiet": True, "pictures": False, "epochs": 1}
SAMPLES = [(Image.new("RGB", (16, 16), (9 * i % 255, 100 * (i % 2), 0)), i % 2) for i in range(40)]


def small_net(classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


class Rows(Callback):
    def __init__(self):
        self.rows = []

    def on_epoch_end(self, run, row):
        self.rows.append(dict(row))


def test_a_network_and_a_loader_of_ones_own_are_trained_with_callbacks(tmp_path):
    net, seen = small_net(), Rows()
    before = [p.clone() for p in net.parameters()]
    loader = DataLoader(SAMPLES, batch_size=8)
    result = samix.fit(net, samix.CutMix(alpha=0.5), train=loader, callbacks=[seen], out=str(tmp_path), **QUIET)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert seen.rows == result.history
    recipe = result.summary["recipe"]
    assert (recipe["batch_size"], recipe["size"], recipe["mixup"], recipe["mixup_options"]) == (
        8,
        16,
        "cutmix",
        {"alpha": 0.5},
    )
    assert result.model(torch.zeros(1, 3, 16, 16)).shape == (1, 2)
    assert (result.folder / "export/model.safetensors").is_file()


def test_a_run_is_resumed_from_python_to_the_same_weights(tmp_path):
    given = {"train": "digits", "limit": 100, "size": 8, "batch_size": 20, "model_args": SLIM, **QUIET}
    whole = samix.fit(mixup="mixup", **{**given, "epochs": 2}, out=str(tmp_path / "a"))
    samix.fit(mixup="mixup", **given, out=str(tmp_path / "b"))
    more = samix.fit(mixup="mixup", **{**given, "epochs": 2}, out=str(tmp_path / "b"), resume=True)
    assert len(more.history) == len(whole.history) == 2


def test_features_are_learned_from_a_dataset(tmp_path):
    result = samix.pretrain(
        "resnet18", "simclr", train=SAMPLES, model_args=SLIM, batch_size=8, out=str(tmp_path), **QUIET
    )
    assert "knn" in result.summary


@pytest.mark.parametrize(("wrong", "message"), [({"epoch": 3}, "epochs"), ({"devise": "cpu"}, "device")])
def test_a_misspelt_option_is_refused_with_the_one_meant(wrong, message):
    with pytest.raises(TypeError, match=f"did you mean {message}"):
        samix.fit(train="digits", **wrong)


def test_a_recipe_s_warm_up_shrinks_with_a_shortened_run_but_a_longer_one_is_refused():
    recipe, _ = read_run(TRAINING, ["--recipe", "images", "--epochs", "2"], "samix train")
    assert recipe.warmup_epochs == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"warmup_epochs must be in \[0, 2\], got 3"):
        read_run(TRAINING, ["--recipe", "images", "--epochs", "2", "--warmup-epochs", "3"], "samix train")


def test_init_takes_network_and_weights_of_a_run_and_fine_tunes_users_images(tmp_path, monkeypatch):
    run = fit(small_recipe(), tmp_path, "first")
    folder = tmp_path / "images"
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for n in range(6):
                Image.new("RGB", (16, 16), (200 * number, 20 * n, 0)).save(folder / split / name / f"{n}.png")
    words = ["--data", str(folder), "--init", str(run), "--mixup", "vanilla", "--size", "16", "--epochs", "1"]
    recipe, _ = read_run(TRAINING, words, "samix train")
    assert (recipe.name, recipe.freeze, recipe.probe_head, recipe.init) == ("finetune", "norms", True, str(run))
    assert (recipe.model, recipe.stem) == ("resnet18", "small")
    given = {"model_args": recipe.model_args, "stem": "small", "batch_size": 4, "size": 16}
    result = samix.fit(
        "resnet18", "vanilla", train=str(folder), recipe="finetune", init=str(run), out=str(tmp_path), **given, **QUIET
    )
    assert result.summary["top1"] == 100.0


def test_frozen_norms_keep_their_statistics_through_train_and_in_copies():
    from copy import deepcopy

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    freeze_norms(net)
    for model in (net, deepcopy(net)):
        before = model[1].running_mean.clone()
        model.train()(torch.randn(8, 3, 8, 8))
        assert torch.equal(before, model[1].running_mean)
        assert model[1].weight.requires_grad
        assert set(model.state_dict()) == set(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict())


def test_weights_choose_recipe_and_network_from_python_as_in_the_command(tmp_path):
    """Images of 16 px are enlarged as the recipe says, and the network is that of the weights."""
    run = fit(small_recipe(), tmp_path, "first")
    given = {"init": str(run), "out": str(tmp_path), "batch_size": 8, "size": 16, **QUIET}
    recipe = samix.fit(mixup="cutmix", train=SAMPLES, class_names=["a", "b"], **given).summary["recipe"]
    assert (recipe["name"], recipe["freeze"], recipe["model"], recipe["stem"]) == (
        "finetune",
        "norms",
        "resnet18",
        "small",
    )
    # the network of the weights, with the dropout of the recipe
    assert json.loads(recipe["model_args"]) == {**small_recipe().model_kwargs, "drop_rate": 0.2}


def test_a_recipe_with_weights_refuses_another_network_until_its_weights_are_named():
    with pytest.raises(ValueError, match=r"starts from lite0, .* of tf_efficientnet_lite0, not of resnet18; add --pre"):
        read_run(TRAINING, ["--recipe", "finetune", "--model", "resnet18"], "samix train")
    recipe, _ = read_run(TRAINING, ["--recipe", "finetune", "--model", "resnet18", "--pretrained"], "samix train")
    assert (recipe.init, recipe.pretrained, recipe.model) == ("", True, "resnet18")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"epochs": "x"}, ValueError, "epochs must be int, got 'x'"),
        ({"epochs": 1.5}, ValueError, "epochs must be int, got 1.5"),
        ({"lr": float("nan")}, ValueError, r"lr must be in \(0, inf\), got nan"),
        ({"device_data": "no"}, ValueError, "device_data must be bool, got 'no'"),
        ({"resume": 1}, ValueError, "resume must be bool, got 1"),
        ({"on_bad_image": "ignore"}, ValueError, "on_bad_image must be 'stop', 'skip', got 'ignore'"),
        ({"model": 3}, TypeError, "model must be the name of a timm network or an nn.Module, got int"),
        ({"train": {0: 1}}, TypeError, "dict is not a map-style dataset"),
    ],
)
def test_options_from_python_have_types(wrong, error, message):
    with pytest.raises(error, match=message):
        samix.fit(**{"train": "digits", "quiet": True, **wrong})
