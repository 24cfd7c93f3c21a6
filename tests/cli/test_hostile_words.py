"""The command line as a hostile user types it: a wrong word gives a line that says what to do, never a traceback."""

import json
import sys

import pytest
import torch
from command_calls import config, fails, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import SMALL_FLAGS

import samix.cli.main
import samix.cli.train
import samix.train
import samix.train.pretraining
from samix.cli.main import COMMANDS, main
from samix.cli.train import parse_train
from samix.mixups import MIXUPS
from samix.mixups.choice import MixUpOrCutMix
from samix.recipes import RECIPES, named_recipe
from samix.recipes.build import NAMES
from samix.train import Run

# Help and names -------------------------------------------------------------------------------------------------------


def test_no_command_and_help_print_the_commands(capsys):
    for arguments in ([], ["-h"], ["--help"]):
        status, out, _ = run(capsys, *arguments)
        assert status == 0
        assert all(f"samix {command}" in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    status, out, error = run(capsys, command, "--help")
    assert status in (0, None)
    assert len(out + error) > 60
    assert "samix" in out + error


def test_help_explains_every_option_of_train(capsys):
    _, short, _ = run(capsys, "train", "--help", "--mixup", "samix")
    assert "--lr FLOAT" in short
    assert "--tensorboard" not in short
    _, out, _ = run(capsys, "train", "--help-all", "--mixup", "samix")
    for name in (
        "--recipe",
        "--config",
        "--mixup.lam-scale",
        "--mixup.preset",
        "--lr",
        "[no-]resume",
        "[no-]tensorboard",
    ):
        assert name in out
    plain = " ".join(out.split())
    assert "learning rate after warm-up" in plain
    assert "Beta(alpha, alpha)" in plain or "--mixup.alpha" in plain


def test_the_version(capsys):
    assert run(capsys, "--version") == (0, f"samix {samix.__version__}\n", "")


def test_unknown_names_list_the_known(capsys):
    assert f"unknown command 'trian'; choose one of {', '.join(COMMANDS)}" in fails(capsys, "trian")
    assert "unknown mixup 'cutmx'; choose one of vanilla, mixup, cutmix" in fails(capsys, "train", "--mixup", "cutmx")
    assert "unknown recipe 'cifar'; choose one of digits-quick" in fails(capsys, "train", "--recipe=cifar")
    assert "unknown preset 'papr' of samix; choose one of reference, paper, fast" in fails(
        capsys, "train", "--mixup.preset", "papr"
    )
    assert "cutmix has no presets" in fails(capsys, "train", "--mixup", "cutmix", "--mixup.preset", "paper")
    assert "--epoch" in fails(capsys, "train", "--epoch", "3")
    assert "--mixup.beta" in fails(capsys, "train", "--mixup", "cutmix", "--mixup.beta", "3")
    assert "lam-scale" in fails(capsys, "train", "--mixup", "cutmix", "--mixup.lam-scale", "3")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--epochs", "ten"],
        ["train", "--epochs", "-1"],
        ["train", "--epochs"],
        ["train", "--mixup"],
        ["train", "--recipe", ""],
        ["train", "--mixup", ""],
        ["train", "--mixup.preset", ""],
        ["train", "--config", ""],
        ["train", "stray"],
        ["train", "--stem", "large"],
        ["train", "--precision", "fp8"],
        ["train", "--mixup.alpha", "nan", *SMALL_FLAGS],
        ["train", "--mixup.alpha", "-1", *SMALL_FLAGS],
        ["train", "--lr", "nan"],
        ["train", "--device", "tpu"],
        ["train", "--model", "resnet-18"],
        ["train", "--model-args", "[]"],
        ["train", "--data", "folder:/nowhere/at/all"],
        ["train", "--data", "cifar10", "--data-root", "/nowhere/at/all"],
        ["train", "--data", ""],
        ["train", "--config"],
        ["train", "--config", "/nowhere/at/all.json"],
        ["train", "--feature", "77", *SMALL_FLAGS],
        ["evaluate"],
        ["evaluate", "/nowhere/at/all.pt"],
        ["evaluate", "."],
        ["evaluate", "a.pt", "b.pt"],
        ["show"],
        ["show", "cutmix", "/nowhere/a.jpg", "/nowhere/b.jpg"],
        ["show", "cutmix", "--lams", "2"],
        ["show", "cutmix", "--lams"],
        ["show", "cutmix", "--lams", "half"],
        ["show", "cutmix", "--size", "-5"],
        ["show", "samix"],
        ["show", "."],
        ["show", ""],
        ["recipes", "cifar"],
        ["recipes", "digits-quick", "cutmx"],
        ["recipes", "digits-quick", "cutmix", "more"],
        ["recipes", "--all"],
        ["--train"],
        [""],
    ],
    ids=" ".join,
)
def test_wrong_words_give_no_traceback(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Run, "fit", lambda run: pytest.fail("training began"))
    fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_debug_gives_the_traceback(tmp_path, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError):
        main(["evaluate", str(tmp_path / "none.pt"), "--debug"])
    monkeypatch.setattr(samix.cli.main, "resolve_name", lambda name: lambda arguments: {}["slip"])
    assert "unexpected KeyError: 'slip'; --debug shows where" in fails(capsys, "recipes")
    with pytest.raises(KeyError):
        main(["--debug", "recipes"])


def test_keyboard_interrupt_is_130(monkeypatch, capsys):
    def stop(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(samix.cli.main, "resolve_name", lambda name: stop)
    assert run(capsys, "recipes") == (130, "", "samix: stopped\n")


# Noise ----------------------------------------------------------------------------------------------------------------

WORDS = [
    "--mixup",
    "--recipe",
    "--config",
    "--epochs",
    "--lr",
    "--mixup.alpha",
    "--mixup.preset",
    "--data",
    "--out",
    "--run",
]
WORDS += [
    "--stem",
    "--device",
    "--lams",
    "--size",
    "--help",
    "--no-resume",
    "--model-args",
    "--limit",
    "-1",
    "0",
    "nan",
    "1e400",
]
WORDS += [
    *NAMES,
    *list(RECIPES)[:3],
    "paper",
    "{}",
    "[",
    "None",
    "true",
    "",
    "-",
    "--",
    "=",
    "a=b",
    "../..",
    "\0",
    "é",
    "folder:",
    "list:",
]
anything = st.one_of(st.sampled_from(WORDS), st.text(max_size=8), st.text(max_size=6).map("--".__add__))


@pytest.fixture
def no_training(monkeypatch, tmp_path):
    """Words that happen to be right start nothing."""

    def no_run(recipe, options):
        raise ValueError("no run in this test")

    monkeypatch.setattr(samix.cli.train, "run_recipe", no_run)
    monkeypatch.chdir(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    command=st.sampled_from([*(c for c in COMMANDS if c != "compare"), "train", "train"]),
    words=st.lists(anything, max_size=5),
)
def test_random_words_never_give_a_traceback(command, words, no_training, capsys):
    status, out, error = run(capsys, command, *words)
    assert status in (0, 1, 2, None)
    assert out or error


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    values=st.dictionaries(
        st.sampled_from([*named_recipe("digits-quick").to_dict(), "other"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=4),
            st.lists(st.integers(), max_size=2),
        ),
        max_size=3,
    )
)
def test_random_files_never_give_a_traceback(values, no_training, capsys, tmp_path):
    status, _, error = run(capsys, "train", "--config", config(tmp_path, values))
    assert status == 1
    assert error.startswith("samix: ")
    assert "unexpected" not in error
    assert error.count("\n") == 1


def test_arguments_are_those_of_the_process_by_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["samix", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("samix ")
    assert torch.is_grad_enabled()


def test_mixer_export_check_and_card(tmp_path, capsys):
    arguments = ["--epochs", "1", "--limit", "100", "--quiet", "--device", "cpu", "--out", str(tmp_path)]
    assert run(capsys, "train", "--mixup", "samix", "--run", "a", *arguments)[0] == 0
    left = {p.name for p in (tmp_path / "a" / "mixer").iterdir()}
    assert left == {"config.json", "model.safetensors", "README.md", "masks.png"}
    code, out, _ = run(
        capsys, "mixer", "export", str(tmp_path / "a" / "last.pt"), str(tmp_path / "m"), "--licence", "mit"
    )
    assert code == 0
    assert "samix, resnet18 stage 2" in out
    code, out, _ = run(capsys, "mixer", "check", str(tmp_path / "m"), "--size", "16")
    assert code == 1  # five steps form no masks
    assert "correlation of its mean with lambda" in out
    assert "verdict: masks are grey" in out
    assert run(capsys, "mixer", "check", "default", "--size", "32")[0] == 0
    code, out, _ = run(capsys, "mixer", "card", str(tmp_path / "m"), "--licence", "apache-2.0")
    assert code == 0
    assert "license: apache-2.0" in out
    assert "apache-2.0" in (tmp_path / "m" / "config.json").read_text(encoding="utf-8")
    code, _, _ = run(capsys, "train", "--mixup", f"mixer:{tmp_path / 'm'}", "--mixup.clean-weight", "1", *arguments)
    assert code == 0
    assert (tmp_path / "digits-quick-mixer-m-s0" / "summary.json").is_file()
    assert "give a folder" in fails(capsys, "train", "--mixup", "mixer:nowhere", *arguments)
    assert "must be one of train, distill, export, check, card, push" in fails(capsys, "mixer", "burn")
    assert "trained with cutmix, which trains no Mixer" in fails(
        capsys, "mixer", "export", str(trained(tmp_path, capsys, arguments)), str(tmp_path / "x")
    )


def trained(tmp_path, capsys, arguments):
    """A checkpoint of a mixup without a Mixer."""
    run(capsys, "train", "--mixup", "cutmix", "--run", "c", *arguments)
    return tmp_path / "c" / "last.pt"


def test_pretraining_and_judging_what_came_of_it(tmp_path, capsys):
    arguments = ["--epochs", "1", "--limit", "150", "--batch-size", "16", "--quiet", "--device", "cpu"]
    arguments += ["--method.queue", "64", "--out", str(tmp_path)]
    code, out, _ = run(capsys, "pretrain", "--mixup", "cutmix", "--run", "a", *arguments)
    assert code == 0
    assert "kNN" in out
    assert {"last.pt", "export", "curves.png", "summary.json"} <= {p.name for p in (tmp_path / "a").iterdir()}
    for source in ("last.pt", "export"):
        code, out, _ = run(capsys, "evaluate", "knn", str(tmp_path / "a" / source), "--device", "cpu")
        assert code == 0
        assert "kNN top-1" in out
    assert "unknown ssl method" in fails(capsys, "pretrain", "--method", "mocoo")
    assert "needs method moco, got byol" in fails(
        capsys, "pretrain", "--method", "byol", "--mixup", "samix", "--device", "cpu"
    )
    assert "a queue of 640 keys over 150 training images" in fails(
        capsys, "pretrain", "--mixup", "cutmix", "--limit", "150", "--device", "cpu", "--out", str(tmp_path)
    )


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        ("in1k-r50", {"eta": 0.1, "mask_schedule": "linear", "ema_decay_end": 1.0, "dropout": 0.0}),
        ("cub-r18", {"eta": 0.5, "mask_schedule": "linear", "ema_decay_end": 1.0, "dropout": 0.0, "pairing": "cycle"}),
        ("digits-quick", {"eta": 0.5, "ema_decay": 0.95}),
    ],
)
def test_a_preset_that_the_user_names_wins_over_the_recipe(recipe, values):
    from samix.recipes.build import resolve_options

    parsed, _ = parse_train(["--recipe", recipe, "--mixup.preset", "paper"])
    options = resolve_options("samix", parsed.mixup_options)
    assert {name: options[name] for name in values} == values
    assert options["preset"] == "paper"


def test_a_small_stem_stays_with_resnets():
    assert parse_train(["--model", "resnet50"])[0].stem == "small"
    assert parse_train(["--model", "convnext_tiny"])[0].stem == "default"
    assert parse_train(["--model", "resnet50", "--stem", "half"])[0].stem == "half"


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", '{"lr": 1, "epochs": 3, "lr": 2}'), ("a.yaml", "lr: 1\nepochs: 3\nlr: 2\n")]
)
def test_a_file_with_a_key_twice_is_refused(name, text, tmp_path, capsys):
    assert "the key 'lr' appears twice; keep one" in fails(capsys, "train", "--config", config(tmp_path, text, name))


def test_the_example_of_a_config_file_is_read():
    recipe, _ = parse_train(["--config", "examples/recipe.yaml"])
    assert (recipe.name, recipe.epochs, recipe.mixup_options["alpha"]) == ("digits-quick", 10, 1.0)


def test_doctor_names_versions_and_devices(capsys):
    status, out, _ = run(capsys, "doctor")
    assert status in (0, 1)
    assert "devices      cpu" in out
    assert "torch" in out


def test_words_are_suggested_for_misspelt_ones(capsys):
    assert "did you mean train?" in fails(capsys, "trian")
    assert "did you mean --epochs?" in fails(capsys, "train", "--epoch", "3")
    assert "did you mean --mixup.alpha?" in fails(capsys, "train", "--mixup", "cutmix", "--mixup.alhpa", "1")
    assert "did you mean cutmix?" in fails(capsys, "train", "--mixup", "cutmxi")
    assert "did you mean cifar10-r18?" in fails(capsys, "train", "--recipe", "cifar10r18")


@pytest.mark.parametrize("name", [name for name, cls in MIXUPS.items() if issubclass(cls, MixUpOrCutMix)])
def test_a_choice_between_mixups_has_the_options_of_its_parts_alone(name, tmp_path, capsys):
    words = ["train", *SMALL_FLAGS, "--epochs", "1", "--mixup", name, "--out", str(tmp_path), "--run", "run"]
    assert main([*words, "--mixup.alpha", "3"]) == 2
    assert "unknown option --mixup.alpha" in capsys.readouterr().err
    assert main([*words, "--mixup.mixup-alpha", "0.3"]) == 0
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["mixup_options"] == {"mixup_alpha": 0.3}
