"""Recipes as plain values: defaults, files, names; and every named one builds."""

import dataclasses
import json
from typing import get_args

import pytest
import torch
from runs import small_recipe
from sampling import sampled

from samix.losses.supervised import LOSSES
from samix.recipes import RECIPES, TRAINING, LossName, Recipe, from_dict, named_recipe, read_recipe_file
from samix.recipes.build import build_method, build_network, resolve_options
from samix.recipes.pretrain_named import PRETRAINING

SMALL = ("digits-quick", "cifar-slim", "cifar-few", "images", "finetune")  # ours, nothing is published of them


def test_a_recipe_survives_json():
    recipe = named_recipe("digits-quick", "samix")
    assert from_dict(json.loads(json.dumps(recipe.to_dict())), Recipe()) == recipe


def test_unknown_fields_are_named_with_the_known():
    with pytest.raises(ValueError, match=r"a recipe has no colour, sise; its fields are data, .*mixup_options"):
        from_dict({"sise": 3, "colour": 1, "epochs": 2}, Recipe())


def test_fields_go_over_a_base():
    assert from_dict({"epochs": 3}, named_recipe("cifar10-r18", "cutmix")).mixup_options == {"alpha": 0.2}


def test_unknown_recipes_list_the_known():
    with pytest.raises(ValueError, match=r"unknown recipe 'cifar'; choose one of digits-quick, .*aircraft-r18"):
        named_recipe("cifar")


# those to which recipes give options of their own
PUBLISHED = (
    "vanilla",
    "mixup",
    "cutmix",
    "manifoldmix",
    "fmix",
    "resizemix",
    "puzzlemix",
    "automix",
    "samix",
    "adautomix",
)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", '{"epochs": 3, "lr": 0.5}'), ("a.yaml", "epochs: 3\nlr: 0.5\n"), ("a.yml", "{epochs: 3, lr: 0.5}")],
)
def test_files_give_fields(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_recipe_file(tmp_path / name) == {"epochs": 3, "lr": 0.5}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "epochs = 3", "takes a .json or .yaml file, got"),
        ("a.json", "[1, 2]", "must hold a mapping of recipe fields, got list"),
        ("a.yaml", "", "must hold a mapping of recipe fields, got NoneType"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe_file(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_recipe_file(tmp_path / "absent.json")


@pytest.mark.parametrize("mixup", PUBLISHED)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole_for_every_mixup(name, mixup):
    """Its options are the mixup's, its name its own, and it becomes JSON."""
    recipe = named_recipe(name, mixup)
    assert (recipe.name, recipe.mixup) == (name, mixup)
    assert set(recipe.mixup_options) <= set(resolve_options(mixup, recipe.mixup_options))
    assert from_dict(json.loads(json.dumps(recipe.to_dict())), Recipe()) == recipe


@pytest.mark.parametrize("name", get_args(LossName))
def test_a_recipe_s_loss_reaches_the_method(name):
    recipe = small_recipe("mixup", loss=name, smoothing=0.1)
    method = build_method(recipe, 10).eval()
    batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 9])
    loss, _ = method(batch)
    method.generators()[0].manual_seed(0)
    loss, _ = method(batch)
    method.generators()[0].manual_seed(0)
    logits, mixed = method.mixup.forward_through(method.model, *batch)
    torch.testing.assert_close(loss, LOSSES[name](logits, mixed, smoothing=0.1))
    other = small_recipe("mixup", loss="bce", bce_threshold=0.2)
    assert build_method(other, 10).loss.keywords == {"smoothing": 0.0, "threshold": 0.2}
    decoupled = small_recipe("mixup", loss="decoupled", decoupled_eta=0.3, decoupled_mode="less")
    assert build_method(decoupled, 10).loss.keywords == {"smoothing": 0.0, "eta": 0.3, "mode": "less"}


def test_losses_that_cannot_be_are_refused():
    with pytest.raises(
        ValueError, match="loss must be one of ce, bce, softmax_bce, decoupled, decoupled_bce; got 'l2'"
    ):
        Recipe(loss="l2")
    with pytest.raises(ValueError, match="bce_threshold is an option of loss bce"):
        Recipe(bce_threshold=0.2)
    with pytest.raises(ValueError, match=r"bce_threshold must be in \[0, 1\), got 1.0"):
        Recipe(loss="bce", bce_threshold=1.0)
    with pytest.raises(ValueError, match=r"decoupled_eta must be in \[0, inf\)"):
        Recipe(decoupled_eta=-1.0)
    with pytest.raises(ValueError, match="samix trains on its own losses, so loss must be ce"):
        build_method(small_recipe("samix", loss="bce"), 10)
    assert set(LOSSES) == set(get_args(LossName))


@pytest.mark.parametrize(("name", "mixup"), sampled(RECIPES, PUBLISHED, each=2))
def test_every_recipe_builds_and_takes_a_step(name, mixup):
    """The large ones with their options, but a small network in place of theirs."""
    recipe = named_recipe(name, mixup)
    if name not in SMALL:
        small = small_recipe()
        recipe = dataclasses.replace(recipe, model="resnet18", model_args=small.model_args, pretrained=False)
    size = 16 if recipe.stem != "default" else 64
    method = build_method(recipe, 10).train()
    loss, parts = method((torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 9])))
    loss.backward()
    method.after_step(0.5)
    assert loss.isfinite()
    assert set(parts) >= ({"clean", "generation"} if mixup in ("automix", "samix") else {"mixed"})


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "finetune"])  # whose network is no ResNet
def test_every_network_of_a_recipe_is_known_and_has_its_stem(name):
    recipe = dataclasses.replace(named_recipe(name), pretrained=False)
    with torch.device("meta"):
        network = build_network(recipe, 10)
    first = network.conv1[0] if isinstance(network.conv1, torch.nn.Sequential) else network.conv1
    assert (first.stride == (1, 1)) == (recipe.stem == "small")
    assert isinstance(network.maxpool, torch.nn.Identity) == (recipe.stem != "default")
    assert network.num_classes == 10


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SMALL])
def test_a_published_recipe_states_its_figures_and_its_cost(name):
    entry = RECIPES[name]
    assert entry.cost.endswith("GPU-hours")
    figures = entry.describe().rpartition("Published top-1: ")[2].removesuffix(".")
    assert dict(part.split() for part in figures.split(", ")) == {k: f"{v:.2f}" for k, v in entry.published.items()}
    assert {"vanilla", "mixup", "cutmix", "automix", "samix"} <= set(entry.published)


def test_a_user_s_recipe_is_a_value_of_its_task(monkeypatch):
    """It keeps its options for every mixup, and its method where none is named."""
    monkeypatch.setattr("samix.runtime.registry._ALLOWED", {"samix.recipes.pretrain_named:in1k_vits"})
    name = "samix.recipes.pretrain_named:in1k_vits"
    recipe = PRETRAINING.resolve({"recipe": name})
    assert (recipe.name, recipe.method, recipe.mixup, recipe.lr) == (name, "mocov3", "vanilla", 2.4e-3)
    with pytest.raises(ValueError, match=r"must be a samix\.recipes\.Recipe, or a function that returns one"):
        TRAINING.resolve({"recipe": name})


def test_every_field_is_documented():
    text = "".join(kind.__doc__ or "" for kind in Recipe.__mro__)
    documented = {line.strip().partition(":")[0] for line in text.splitlines() if ": " in line}
    assert {f.name for f in dataclasses.fields(Recipe)} <= documented


@pytest.mark.parametrize(
    ("recipe", "mixup", "alpha"),
    [
        *(("in1k-r18", mixup, 0.2) for mixup in ("cutmix", "saliencymix", "fmix", "resizemix")),
        *(("in1k-r50", mixup, 1.0) for mixup in ("cutmix", "saliencymix", "fmix", "resizemix")),
        ("cifar10-r18", "saliencymix", 0.2),
        ("cifar100-r18", "saliencymix", 0.2),
    ],
)
def test_alphas_are_those_of_the_published_tables(recipe, mixup, alpha):
    assert resolve_options(mixup, named_recipe(recipe, mixup).mixup_options)["alpha"] == alpha
