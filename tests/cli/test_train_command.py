"""Training, evaluating and showing by the command: its options, recipes and files, and what it says of wrong ones."""

import json

import pytest
from command_calls import config, fails, run
from PIL import Image
from runs import SMALL_FLAGS, fit, rows, small_recipe

import samix.cli.main
import samix.cli.train
import samix.train
import samix.train.pretraining
from samix.cli.compare_plan import read_plan
from samix.cli.train import parse_pretrain, parse_train
from samix.recipes import RECIPES, named_recipe
from samix.train import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return fit(small_recipe("samix"), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def photos(tmp_path):
    for number, size in enumerate([(30, 20), (12, 45), (16, 16)]):
        Image.linear_gradient("L").resize(size).rotate(90 * number).save(tmp_path / f"{number}.jpg")
    return sorted(tmp_path.glob("*.jpg"))


# Options of a recipe and a mixup --------------------------------------------------------------------------------------


def test_train_alone_is_samix_on_digits():
    recipe, options = parse_train([])
    assert (recipe.name, recipe.mixup, recipe.data) == ("digits-quick", "samix", "digits")
    assert options == samix.train.RunOptions()


@pytest.mark.parametrize(
    ("data", "train", "pretrain"),
    [
        ("digits", "digits-quick", "digits-moco"),
        ("cifar10", "cifar10-r18", "cifar10-moco"),
        ("cifar100:DIR", "cifar100-r18", "cifar10-moco"),
        ("tiny-imagenet:DIR", "tiny-r18", "tiny-moco"),
        ("imagenet:DIR", "in1k-r50", "in1k-moco"),
        ("cub:DIR", "cub-r18", "images-moco"),
        ("stl10-unlabeled", "images", "stl10-moco"),
        ("folder:DIR", "images", "images-moco"),
        ("wds:a.tar", "images", "images-moco"),
    ],
)
def test_where_no_recipe_is_named_it_is_that_of_the_data(tmp_path, data, train, pretrain):
    file = config(tmp_path, {"data": data})
    for words in (["--data", data], [f"--data={data}"], ["--config", file]):
        recipe, _ = parse_train(words)
        assert (recipe.name, recipe.data) == (train, data)
        recipe, _ = parse_pretrain(words)
        assert (recipe.name, recipe.data) == (pretrain, data)
        plan = read_plan(["vanilla", *words])
        assert (plan.recipe_name, plan.entries[0].recipe.data) == (train, data)
    assert parse_train(["--recipe", "tiny-r18", "--data", data])[0].name == "tiny-r18"


def test_photographs_are_not_trained_as_digits_are():
    """In size, stem, augmentation and network."""
    recipe, _ = parse_train(["--data", "folder:DIR", "--model", "resnet50", "--mixup", "samix"])
    assert (recipe.size, recipe.stem, recipe.augment) == (224, "default", "auto")
    assert (recipe.model, recipe.model_args, recipe.feature) == ("resnet50", "{}", None)
    recipe, _ = parse_pretrain(["--data", "folder:DIR", "--model", "resnet18", "--method", "moco"])
    assert (recipe.size, recipe.stem, recipe.augment, recipe.views) == (224, "default", "resized-crop", "moco-v2")
    assert (recipe.model, recipe.model_args, recipe.feature) == ("resnet18", "{}", None)


def test_a_network_that_is_named_comes_without_the_arguments_of_another(tmp_path):
    slim = named_recipe("digits-quick").model_args
    for recipe in ("digits-quick", "cifar-few"):
        for model in ("--model=resnet50", "--model=resnet18"):
            parsed, _ = parse_train(["--recipe", recipe, model])
            assert (parsed.name, parsed.model_args, parsed.feature) == (recipe, "{}", None)
    assert parse_pretrain(["--model", "resnet50"])[0].model_args == "{}"
    recipe, _ = parse_train(["--model", "resnet50", "--model-args", '{"drop_rate": 0.1}', "--feature", "1"])
    assert (recipe.model, recipe.model_args, recipe.feature) == ("resnet50", '{"drop_rate": 0.1}', 1)
    assert parse_train(["--mixup", "cutmix"])[0].model_args == slim
    # a file: its own arguments go with its network, not with that of the command line
    assert parse_train(["--config", config(tmp_path, {"model": "resnet50"})])[0].model_args == "{}"
    whole = config(tmp_path, {"model": "resnet18", "model_args": slim, "feature": 2}, "whole.json")
    recipe, _ = parse_train(["--config", whole])
    assert (recipe.model_args, recipe.feature) == (slim, 2)
    recipe, _ = parse_train(["--config", whole, "--model", "resnet50"])
    assert (recipe.model_args, recipe.feature) == ("{}", None)


def test_a_row_of_a_comparison_that_names_a_network_has_no_arguments_of_another():
    rows = ["samix", "samix:recipe.model=resnet50", "samix:recipe.model=resnet26,recipe.feature=1"]
    slim, whole, chosen = (entry.recipe for entry in read_plan(rows).entries)
    assert (slim.model_args, slim.feature) == (named_recipe("digits-quick").model_args, 2)
    assert (whole.model, whole.model_args, whole.feature) == ("resnet50", "{}", None)
    assert (chosen.model, chosen.model_args, chosen.feature) == ("resnet26", "{}", 1)
    assert read_plan(["vanilla", "--model", "resnet50"]).entries[0].recipe.model_args == "{}"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("mixup", ["cutmix", "samix"])
def test_a_named_recipe_by_command_is_the_named_recipe(name, mixup):
    from samix.recipes.build import resolve_options

    recipe, _ = parse_train(["--recipe", name, "--mixup", mixup])
    named = named_recipe(name, mixup)
    assert resolve_options(mixup, recipe.mixup_options) == resolve_options(mixup, named.mixup_options)
    assert {**recipe.to_dict(), "mixup_options": 0} == {**named.to_dict(), "mixup_options": 0}


def test_options_of_the_mixup_reach_it():
    recipe, _ = parse_train(["--mixup", "cutmix", "--mixup.alpha", "0.3"])
    assert recipe.mixup_options == {"alpha": 0.3}
    recipe, _ = parse_train(["--mixup", "samix", "--mixup.mask-weight", "0.7", "--mixup.gamma", "None"])
    assert recipe.mixup_options["mask_weight"] == 0.7
    assert recipe.mixup_options.get("gamma", "absent") is None


def test_a_default_of_the_library_can_be_chosen_over_the_recipe_s():
    """digits-quick gives ema_decay 0.95; asking for the library's own 0.999 gives 0.999."""
    from samix.recipes.build import resolve_options

    recipe, _ = parse_train(["--mixup", "samix", "--mixup.ema-decay", "0.999"])
    assert resolve_options("samix", recipe.mixup_options)["ema_decay"] == 0.999


def test_presets_give_their_values():
    from samix.methods.samix import SAMIX_PRESETS
    from samix.recipes.build import resolve_options

    recipe, _ = parse_train(["--recipe", "cifar100-r18", "--mixup", "samix", "--mixup.preset", "paper"])
    options = resolve_options("samix", recipe.mixup_options)
    paper = SAMIX_PRESETS["paper"]
    assert (options["eta"], options["gamma"], options["adjust_prob"]) == (paper.eta, paper.gamma, paper.adjust_prob)
    assert options["lam_scale"] == 0.25  # the recipe's
    recipe, _ = parse_train(["--mixup.preset=paper", "--mixup.eta", "0.25"])
    assert resolve_options("samix", recipe.mixup_options)["eta"] == 0.25


def test_the_last_of_repeated_options_counts():
    recipe, _ = parse_train(["--mixup", "cutmix", "--lr", "1", "--mixup=samix", "--recipe", "tiny-r18", "--lr", "2"])
    assert (recipe.mixup, recipe.name, recipe.lr) == ("samix", "tiny-r18", 2.0)
    assert "ema_decay" in samix.recipes.build.resolve_options(recipe.mixup, recipe.mixup_options)
    recipe, _ = parse_train(["--recipe", "tiny-r18", "--recipe=digits-quick"])
    assert (recipe.name, recipe.size) == ("digits-quick", 16)


def test_precedence_is_recipe_then_file_then_command_line(tmp_path):
    file = config(
        tmp_path, {"name": "tiny-r18", "mixup": "cutmix", "lr": 0.7, "epochs": 9, "mixup_options": {"alpha": 0.4}}
    )
    recipe, _ = parse_train(["--config", file, "--epochs", "11"])
    assert (recipe.name, recipe.mixup, recipe.size) == ("tiny-r18", "cutmix", 64)
    assert (recipe.lr, recipe.epochs, recipe.mixup_options) == (0.7, 11, {"alpha": 0.4})
    recipe, _ = parse_train(["--config", file, "--recipe", "cifar10-r18", "--mixup.alpha", "0.1"])
    assert (recipe.name, recipe.size, recipe.lr, recipe.mixup_options) == ("cifar10-r18", 32, 0.7, {"alpha": 0.1})


def test_another_mixup_on_the_command_line_leaves_the_file_s_options_behind(tmp_path):
    """And takes the recipe's options for that mixup."""
    file = config(tmp_path, {"mixup": "cutmix", "mixup_options": {"alpha": 0.4}, "epochs": 3})
    recipe, _ = parse_train(["--config", file, "--mixup", "samix"])
    assert recipe.mixup == "samix"
    assert recipe.epochs == 3
    named = named_recipe("digits-quick", "samix").mixup_options
    assert samix.recipes.build.resolve_options("samix", recipe.mixup_options) == samix.recipes.build.resolve_options(
        "samix", named
    )


def test_yaml_is_read_with_its_numbers(tmp_path):
    file = config(
        tmp_path,
        "mixup: mixup\nlr: 1e-3\nlr_end: 0\nfeature: null\nmixer_lr: 2\nmixup_options: {alpha: 0.5}\n",
        "a.yaml",
    )
    recipe, _ = parse_train(["--config", file])
    assert (recipe.lr, recipe.lr_end, recipe.feature, recipe.mixer_lr) == (0.001, 0.0, None, 2.0)
    assert isinstance(recipe.lr_end, float)
    assert recipe.mixup_options == {"alpha": 0.5}


def test_the_recipe_file_of_a_run_gives_the_same_run(finished):
    recipe, _ = parse_train(["--config", str(finished / "recipe.json")])
    named = small_recipe("samix")
    assert {**recipe.to_dict(), "mixup_options": 0} == {**named.to_dict(), "mixup_options": 0}
    assert samix.recipes.build.resolve_options("samix", recipe.mixup_options) == samix.recipes.build.resolve_options(
        "samix", named.mixup_options
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "a recipe has no epoch; its fields are data"),
        ({"epochs": "ten"}, "epochs must be int, got 'ten'"),
        ({"epochs": 2.5}, "epochs must be int, got 2.5"),
        ({"epochs": True}, "epochs must be int, got True"),
        ({"lr": "fast"}, "lr must be float, got 'fast'"),
        ({"lr": None}, "lr must be float, got None"),
        ({"stem": "big"}, "stem must be 'default', 'small', 'half', got 'big'"),
        ({"device_data": "yes"}, "device_data must be bool, got 'yes'"),
        ({"mixup": {"alpha": 1}}, "mixup must be str, got {'alpha': 1}"),
        ({"name": 3}, "name must be str, got 3"),
        ({"mixup_options": 5}, "mixup_options must be"),
        ({"mixup": "cutmix", "mixup_options": {"lam_scale": 5}}, "cutmix has no option lam_scale; it has alpha"),
        ({"mixup_options": {"preset": "papr"}}, "unknown preset 'papr' of samix"),
        ({"name": "cifar"}, "unknown recipe 'cifar'"),
        ({"mixup": "cutmx"}, "unknown mixup 'cutmx'"),
        ({"epochs": 0}, "epochs must be a whole number in [1, 2^31), got 0"),
        ({"model_args": {"depth": 2}}, "model_args must be str"),
        ("{", "a.json cannot be read: Expecting property name"),
        ("[]", "must hold a mapping of recipe fields"),
    ],
    ids=str,
)
def test_wrong_files_are_refused(values, message, tmp_path, capsys):
    assert message in fails(capsys, "train", "--config", config(tmp_path, values))


def test_options_of_one_mixup_in_a_file_are_refused_for_another(tmp_path, capsys):
    file = config(tmp_path, {"mixup_options": {"lam_scale": 0.5}})
    assert "cutmix has no option lam_scale; it has alpha" in fails(
        capsys, "train", "--config", file, "--mixup", "cutmix"
    )


def test_spoilt_yaml_and_other_endings_are_refused(tmp_path, capsys):
    assert "a.yaml cannot be read" in fails(capsys, "train", "--config", config(tmp_path, "a: [1,\nb: }", "a.yaml"))
    assert "takes a .json or .yaml file, got" in fails(capsys, "train", "--config", config(tmp_path, "", "a.toml"))
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    assert "b.json cannot be read" in fails(capsys, "train", "--config", str(tmp_path / "b.json"))
    assert "takes a .json or .yaml file, got" in fails(capsys, "train", "--config", str(tmp_path))


# Commands at work -----------------------------------------------------------------------------------------------------


def test_train_evaluate_show(tmp_path, capsys, monkeypatch, photos):
    monkeypatch.chdir(tmp_path)
    status, out, error = run(capsys, "train", "--mixup", "cutmix", "--run", "a", *SMALL_FLAGS)
    assert (status, error) == (0, "")
    top1 = f"{rows(tmp_path / 'runs/a')[-1]['top1']:.2f}"
    assert f"top-1 {top1} %" in out
    assert "pictures, checkpoints, export and summary: runs/a" in out
    for place in ("runs/a/last.pt", "runs/a/export"):
        status, out, _ = run(capsys, "evaluate", place, "--device", "cpu")
        assert status == 0
        assert out.startswith("evaluated 359 images of digits")
        assert out.splitlines()[1].split() == ["top-1", "%", "top-5", "%", "NLL", "nats", "ECE", "%"]
        assert top1 in out.splitlines()[2]
    status, out, _ = run(
        capsys, "show", "runs/a/best.pt", *photos, "--out", "b.png", "--size", "16", "--lams", "0.2", "0.8"
    )
    assert status == 0
    assert out.startswith("b.png: spread within a mask")
    with Image.open("b.png") as image:
        image.verify()


def test_train_says_what_it_does_and_shows_progress(tmp_path, capsys):
    flags = [flag for flag in SMALL_FLAGS if flag != "--quiet"]
    status, out, error = run(capsys, "train", "--mixup", "samix", "--out", tmp_path, *flags)
    assert status == 0
    assert out.startswith(
        "samix on digits (100 images of 10 classes, 359 held out): recipe digits-quick, resnet18 at 8 px, 2 epochs of "
        "5 steps, on cpu"
    )
    assert "10/10" in error
    assert "img_s" in error
    assert "already holds a run" in fails(capsys, "train", "--mixup", "samix", "--out", tmp_path, *flags)
    assert run(capsys, "train", "--mixup", "samix", "--out", tmp_path, "--resume", *flags)[0] == 0
    assert "lr was 0.1, is 0.3" in fails(
        capsys, "train", "--mixup", "samix", "--out", tmp_path, "--resume", "--lr", "0.3", *flags
    )


def test_an_interrupted_command_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    step = Run.train_step

    def stop(run, batch):
        step(run, batch)
        run.stopping = True

    monkeypatch.setattr(Run, "train_step", stop)
    status, _, error = run(capsys, "train", "--out", tmp_path, *SMALL_FLAGS)
    assert status == 130
    assert error.startswith("samix: stopped at step 1; continue with --resume")


def test_evaluate_on_other_classes_is_refused(finished, tmp_path, capsys):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    error = fails(capsys, "evaluate", finished / "last.pt", "--data", f"folder:{tmp_path}")
    assert "has the classes cat, dog, which the network was not trained on" in error


def test_show_takes_one_image_for_a_mistake(finished, photos, capsys):
    assert "needs at least two images to mix, got one" in fails(capsys, "show", finished / "last.pt", photos[0])


def test_show_into_a_folder_that_is_not_there(photos, tmp_path, capsys):
    out = tmp_path / "gone" / "a.png"
    assert str(out) in fails(capsys, "show", "cutmix", *photos, "--out", out, "--size", "8", "--lams", "0.5")


def test_recipes_are_listed_and_printed(capsys):
    status, out, _ = run(capsys, "recipes")
    assert status == 0
    assert all(name in out for name in RECIPES)
    assert "96.67" in out
    for name in RECIPES:
        status, out, _ = run(capsys, "recipes", name, "automix")
        assert status == 0
        assert json.loads(out[out.index("{\n") :]) == json.loads(json.dumps(named_recipe(name, "automix").to_dict()))
    assert "[NAME [MIXUP]]" in run(capsys, "recipes", "digits-quick", "--help")[1]
