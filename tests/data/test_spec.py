"""A data set from outside the package: registered or imported by name, then trained and evaluated by it."""

import pytest
import torch
from PIL import Image
from runs import SLIM, fit

from samix.compare.plan import median_epochs
from samix.data import DATASETS, DatasetSpec, default_augment, find_dataset, load_data, read_folder
from samix.eval.held_out import Evaluate
from samix.recipes import TRAINING, Recipe
from samix.recipes.pretrain_named import PRETRAINING

MODULE = """
from samix.data import DatasetSpec, read_folder
BIRDS = DatasetSpec("own-birds", lambda location: read_folder(location.folder()), size=8, augment="none")
NOTHING = 3
"""


@pytest.fixture
def birds(tmp_path):
    for label, name in enumerate(("owl", "tit")):
        for k in range(10):
            (tmp_path / "birds" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (200 * label, 10 * k, 40)).save(tmp_path / "birds" / name / f"{k}.png")
    return tmp_path / "birds"


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    return DATASETS


def test_a_registered_data_set_is_trained_and_evaluated_by_name(birds, registry, tmp_path):
    spec = DatasetSpec(
        "birds",
        lambda location: read_folder(location.folder()),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        augment="crop-flip",
        recipe="cifar-slim",
        pretrain_recipe="cifar-slim-moco",
        last_evaluations=3,
    )
    registry.register("birds", spec)
    name = f"birds:{birds}"
    data = load_data(name)
    assert (data.name, data.mean, data.native_size, len(data.train), len(data.val)) == ("birds", (0.5,) * 3, 8, 16, 4)
    assert default_augment(data).kind == "crop-flip"
    assert (TRAINING.usual(name), PRETRAINING.usual(name)) == ("cifar-slim", "cifar-slim-moco")
    recipe = Recipe(data=name, size=8, model_args=SLIM, mixup="cutmix", epochs=2, batch_size=8, workers=0)
    assert median_epochs(recipe) == 3
    folder = fit(recipe, tmp_path)
    metrics = Evaluate(folder / "last.pt", "", "data", 8, "cpu").run()
    assert Evaluate(folder / "last.pt", name, "data", 8, "cpu").run() == metrics


def test_a_data_set_of_a_module_is_imported_only_if_the_user_typed_it(birds, registry, tmp_path, monkeypatch):
    (tmp_path / "planted_birds.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("samix.runtime.registry._ALLOWED", set())
    name = f"planted_birds:BIRDS:{birds}"
    with pytest.raises(ValueError, match=r"a file names planted_birds:BIRDS in datasets, .* samix.allow"):
        load_data(name)
    data = load_data(name, trusted=True)
    assert (data.name, data.native_size, default_augment(data).kind) == ("own-birds", 8, "none")
    assert torch.equal(load_data(name).train.labels, data.train.labels)  # known from now on
    assert find_dataset(f"own-birds:{birds}")[0].name == "own-birds"
    with pytest.raises(ValueError, match=r"planted_birds:NOTHING must be a samix.data.DatasetSpec, got int"):
        load_data("planted_birds:NOTHING", trusted=True)


def test_every_built_in_data_set_names_recipes_that_exist():
    from samix.recipes import RECIPES
    from samix.recipes.pretrain_named import PRETRAIN_RECIPES

    assert {"digits", "cifar10", "folder", "images", "list", "wds"} <= set(DATASETS)
    for spec in DATASETS.values():
        assert spec.recipe in RECIPES
        assert spec.pretrain_recipe in PRETRAIN_RECIPES


def test_what_is_a_path_says_that_it_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*birdz; check the path"):
        load_data(str(tmp_path / "birdz"))
    with pytest.raises(ValueError, match="no such folder, and no data set: 'birdz'"):
        load_data("birdz")
    (tmp_path / "a.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match=r"a.csv is a file; for a list of images give list:"):
        load_data(str(tmp_path / "a.csv"))


def test_the_command_imports_a_data_set_that_was_typed_with_its_folder(birds, registry, tmp_path, monkeypatch):
    from samix.__main__ import main

    (tmp_path / "typed_birds.py").write_text(MODULE.replace("own-birds", "typed-birds"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("samix.runtime.registry._ALLOWED", set())
    flags = ["--model-args", SLIM, "--size", "8", "--epochs", "1", "--batch-size", "8", "--workers", "0", "--quiet"]
    out = ["--device", "cpu", "--out", str(tmp_path), "--run", "run"]
    name = f"typed_birds:BIRDS:{birds}"
    assert not main(["train", "--data", name, "--mixup", "cutmix", "--model", "resnet18", *flags, *out])
    assert (tmp_path / "run" / "last.pt").is_file()
