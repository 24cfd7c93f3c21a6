"""A user's own mixup, method, data set and recipe, named as package.module:Name on the command line."""

import json
import sys

import pytest
import torch
from runs import SMALL_FLAGS

import samix
from samix.cli.main import main

PACKAGE = '''
import dataclasses
from dataclasses import dataclass
from samix import Mixed
from samix.batch import Mixed
from samix.data import DATASETS, DatasetSpec
from samix.methods.automix import AutoMix, AutoMixOptions
from samix.methods.contrastive.simclr import SimCLR
from samix.mixups.base import Augmentation, blend
from samix.recipes import Recipe, named_recipe

@dataclass
class HalfMix(Augmentation):
    """Shows image A on the left.

    Args:
        side: 0 is the left.
    """
    name = "halfmix"
    side: int = 0

    def apply(self, x, partner, lam, guides=None, **extras):
        import torch
        mask = torch.zeros(x.shape[0], 1, *x.shape[2:])
        mask[..., : x.shape[3] // 2] = 1
        return Mixed(blend(x, partner, mask), mask.mean((1, 2, 3)), mask)


class OwnAutoMix(AutoMix):
    presets = {"reference": AutoMixOptions(alpha=1.0)}


class OwnSimCLR(SimCLR):
    pass


scans = DatasetSpec("scans", DATASETS["digits"].reader, mean=(0.5,) * 3, std=(0.5,) * 3, size=8, recipe="digits-quick")


def short(mixup):
    """Two short epochs."""
    return dataclasses.replace(named_recipe("digits-quick", mixup), name="short", epochs=2)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "my_parts").mkdir()
    (tmp_path / "my_parts/__init__.py").write_text("")
    (tmp_path / "my_parts/mix.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("samix.runtime.registry._ALLOWED", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_parts", "my_parts.mix"):
        sys.modules.pop(name, None)


def run(capsys, *words):
    status = main(list(map(str, words)))
    out, error = capsys.readouterr()
    assert status == 0, error
    return out


QUICK = [*SMALL_FLAGS, "--run", "a"]
MIX = "my_parts.mix:HalfMix"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the pipes to compare's workers
def test_an_own_mixup_is_trained_resumed_evaluated_shown_and_compared(package, capsys):
    run(capsys, "train", "--mixup", MIX, "--mixup.side", "0", *QUICK, "--epochs", "1")
    recipe = json.loads((package / "runs/a/recipe.json").read_text())
    assert recipe["mixup"] == MIX
    run(capsys, "train", "--resume", "runs/a", "--mixup", MIX, "--epochs", "2", "--quiet")
    assert len((package / "runs/a/metrics.jsonl").read_text().splitlines()) == 2
    assert "evaluated 359 images" in run(capsys, "evaluate", "runs/a")
    assert samix.load("runs/a")(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    assert "h.png" in run(capsys, "show", MIX, "--out", "h.png", "--size", "8", "--lams", "0.5")
    flags = [flag for flag in SMALL_FLAGS if flag != "--no-pictures"]
    plan = ["compare", "vanilla", f"{MIX}:side=1", *flags, "--seeds", "1", "--epochs", "1", "--out", "c"]
    table = run(capsys, *plan)
    assert "HalfMix:side=1" in table


def test_an_own_mixup_that_only_a_file_names_is_not_imported(package, capsys):
    (package / "c.json").write_text(json.dumps({"mixup": MIX}))
    assert main(["train", "--config", "c.json", *SMALL_FLAGS]) == 1
    assert f"add --allow {MIX} to the command" in capsys.readouterr().err
    assert "my_parts" not in sys.modules
    run(capsys, "train", "--config", "c.json", "--allow", MIX, *QUICK)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--mixup", "my_parts.mix:OwnAutoMix"],
        ["train", "--mixup", "cutmix", "--data", "my_parts.mix:scans"],
        ["train", "--mixup", "cutmix", "--recipe", "my_parts.mix:short"],
    ],
)
def test_own_learned_mixups_data_and_recipes_are_trained(words, package, capsys):
    run(capsys, *words, *QUICK)
    assert (package / "runs/a/export/config.json").is_file()


def test_an_own_method_learns_without_labels(package, capsys):
    small = ["--limit", "60", "--epochs", "1", "--batch-size", "20", "--device", "cpu", "--quiet", "--no-pictures"]
    run(capsys, "pretrain", "--method", "my_parts.mix:OwnSimCLR", "--mixup", MIX, *small, "--run", "a")
    assert (package / "runs/a/summary.json").is_file()
