"""Every number among the options of every command: refused by its name and range, or one that can be meant."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from samix.analysis import ANALYSES
from samix.analysis.mixer_check import MixerCheck
from samix.cli.evaluate import KINDS, Evaluate
from samix.cli.main import main
from samix.cli.options import generator_of
from samix.cli.predict import Predict
from samix.compare.plan import CompareOptions
from samix.hub.mixer_distill import MixerDistill
from samix.recipes import Recipe
from samix.recipes.named import TRAINING
from samix.recipes.pretrain_named import PRETRAINING
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.train import RunOptions
from samix.viz.playground import Playground
from samix.viz.show import Show

# Options that may be negative: alpha <= 0 switches mixing off, a negative margin switches it off, ...
NEGATIVE = ("alpha", "mixup_alpha", "cutmix_alpha", "intra_alpha", "lam_margin", "adjust_margin", "lam_scale")
NEGATIVE += ("cos_sign", "stage", "mean")
POSITIONAL = {"source": "x", "path": "x", "images": ("a.jpg",), "folder": "x", "data": "digits"}


def option_sets() -> Iterator[tuple[str, Any]]:
    """The options of all commands, by name."""
    commands: dict[str, type[Any]] = {
        **{"train": RunOptions, "recipe": Recipe, "pretrain": PretrainRecipe, "compare": CompareOptions},
        **{"evaluate": Evaluate, "predict": Predict, "show": Show, "mixer check": MixerCheck, "page": Playground},
        "mixer distill": MixerDistill,
        **{f"evaluate {name}": kind for name, kind in KINDS.items()},
        **{f"analyse {name}": kind for name, kind in ANALYSES.items()},
    }
    for name, kind in commands.items():
        hints = get_type_hints(kind, include_extras=False)
        words = {k: v for k, v in POSITIONAL.items() if k in hints and hints[k] is not int}
        yield name, kind(**words)
    for task in (TRAINING, PRETRAINING):
        for field, group in task.groups.items():
            for name in group.names():
                owner = group.owner(name)
                yield f"{task.recipe.__name__} {field} {name}", owner(**generator_of(owner))


def numbers(options: Any) -> Iterator[tuple[str, bool, bool]]:
    """The options that are numbers: their names, whether they are whole, and whether they are tuples."""
    for name, hint in get_type_hints(type(options)).items():
        fields = {f.name: f for f in dataclasses.fields(options)}
        text = str(hint)
        if name in fields and fields[name].init and not fields[name].kw_only and "Literal" not in text:
            if hint is int or hint is float or "int" in text.split("[")[-1] or "float" in text:
                yield name, "float" not in text, typing.get_origin(hint) is tuple or "tuple[" in text


SETS = dict(option_sets())
CASES = {owner: found for owner, options in SETS.items() if (found := list(numbers(options)))}


@pytest.mark.parametrize("owner", CASES)
def test_a_number_is_refused_by_its_name_or_can_be_meant(owner: str) -> None:
    for name, whole, several in CASES[owner]:
        values = (-1, 0, 1.5, 2**63) if whole else (math.nan, math.inf, -math.inf, -1.0, 0.0, 1.5)
        refusals = {value: refusal(SETS[owner], name, (value,) if several else value) for value in values}
        accepted = [value for value, message in refusals.items() if message is None]
        assert all(name in message for message in refusals.values() if message is not None), name
        assert not {1.5, 2**63} & set(accepted) if whole else all(map(math.isfinite, accepted)), name
        assert -1 not in accepted or name in NEGATIVE, name


def refusal(options: Any, name: str, value: Any) -> str | None:
    """What is said about a value; None where it is accepted."""
    try:
        changed(options, name, value)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def changed(options: Any, name: str, value: Any) -> Any:
    """The options with another value."""
    if type(options).__name__ in ("DeiTMix", "RSBMix"):  # whose fields are not all arguments
        return type(options)(**{**options.options(), name: value}, **generator_of(type(options)))
    return dataclasses.replace(options, **{name: value})


def test_the_numbers_of_all_commands_are_tried() -> None:
    assert sum(map(len, CASES.values())) > 350
    assert {"train", "evaluate knn", "evaluate detection", "predict", "show", "analyse tsne", "mixer check"} <= set(
        CASES
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--mixer-lr", "x"], "--mixer-lr must be a number, or None, got 'x'"),
        (["train", "--feature", "1.5"], "--feature must be a whole number, or None, got '1.5'"),
        (["train", "--size", "nan"], "--size must be a whole number, got 'nan'"),
        (["evaluate", "knn", "SOURCE", "--ks", "1", "x"], "--ks takes numbers, got '1', 'x'"),
        (["evaluate", "linear", "SOURCE", "--lrs", "inf"], "lrs must be in (0, inf), got inf"),
        (["analyse", "masks", "SOURCE", "--lams", "1.5"], "lams must be in [0, 1], got 1.5"),
        (["show", "cutmix", "--lams"], "lams must be one or more numbers"),
        (["compare", "vanilla", "--device", "gpu"], "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        (["compare", "vanilla", "--optimizer", "adamm"], "vanilla: optimizer must be one of adabelief"),
        (["compare", "vanilla", "cutmix:recipe.augment=flip"], "cutmix:recipe.augment=flip: augment must be one of"),
    ],
)
def test_a_command_says_what_cannot_be_meant(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (1, 2)
    assert capsys.readouterr().err.startswith(f"samix: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--augment", "flip"], "augment must be one of auto, none"),
        (["--optimizer", ""], "optimizer must be one of adabelief"),
        (["--model", "resnet19"], "timm has no network 'resnet19'"),
        (["--model-args", "[1]"], "model_args must be a JSON object"),
    ],
)
@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_names_are_checked_before_data_are_read(
    command: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        pytest.fail("data were read")

    monkeypatch.setattr("samix.train.batches.load_data", read)
    assert main([command, *words]) == 1
    assert capsys.readouterr().err.startswith(f"samix: {message}")
