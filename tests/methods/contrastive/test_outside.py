"""A self-supervised method of another package: trained by the command, saved, resumed and loaded by its name."""

import sys
from pathlib import Path

import pytest
import torch
from runs import SLIM

from samix import SSL_METHODS
from samix.__main__ import main
from samix.hub.load import load_trained
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_named import PRETRAIN_RECIPES
from samix.runtime import registry

MODULE = '''
from dataclasses import dataclass

from torch import nn

from samix.losses.contrastive import mixed_regression_loss, normalized
from samix.methods.contrastive.base import FixedMixupMethod
from samix.methods.contrastive.mixup import check_views
from samix.networks.encoder import Encoder


@dataclass(frozen=True)
class DistanceOptions:
    preset: str = "short"
    dim: int = 8
    mixed_weight: float = 1.0


class Distance(FixedMixupMethod[DistanceOptions]):
    """The distance of two views, nothing else: it collapses, but it is a method."""

    presets = {"short": DistanceOptions(), "wide": DistanceOptions("wide", dim=16)}
    title = "Distance"
    clean_part = "distance"

    def build(self, model):
        self.encoder = Encoder(model, lambda width: nn.Linear(width, self.options.dim))

    def training_step(self, batch):
        view_1, view_2, _ = check_views(batch)
        z1, z2 = (normalized(self.encoder(view)) for view in (view_1, view_2))
        mixed = self.mixed_terms((view_1, view_2), (z2, z1), self.mixed_distance)
        return self.total((z1 - z2).square().sum(1).mean(), mixed, self.options.mixed_weight, z2)

    def mixed_distance(self, z, batch, targets):
        return mixed_regression_loss(normalized(z), targets[batch.index], batch.weights).mean()
'''
NAME = "own_distance:Distance"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with the module in it, as the current one; nothing is allowed yet."""
    (tmp_path / "own_distance.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(registry, "_ALLOWED", set())
    yield tmp_path
    sys.modules.pop("own_distance", None)


def arguments(*more: str) -> list[str]:
    small = [
        "--model-args",
        SLIM,
        "--limit",
        "100",
        "--batch-size",
        "20",
        "--size",
        "8",
        "--out",
        "runs",
        "--run",
        "own",
    ]
    return ["pretrain", "--method", NAME, "--mixup", "cutmix", "--method.dim", "6", *small, *more]


def test_a_method_of_another_package_is_trained_saved_resumed_and_loaded_by_name(outside):
    assert main(arguments("--epochs", "2")) == 0
    state = torch.load("runs/own/last.pt", weights_only=True)
    assert state["recipe"]["method"] == NAME
    rows = Path("runs/own/metrics.jsonl").read_text()
    assert "distance" in rows
    assert "mixed" in rows
    assert main(arguments("--epochs", "3", "--resume")) == 0
    loaded = load_trained(outside / "runs/own/export")
    network, recipe = loaded.network, loaded.recipe
    assert (recipe.method, recipe.mixup) == (NAME, "cutmix")
    trained = torch.load("runs/own/last.pt", weights_only=True)["method"]
    for name, value in network.state_dict().items():
        assert any(key.endswith(name) and torch.equal(value, own) for key, own in trained.items()), name


def test_a_file_that_names_another_package_is_not_believed(outside):
    with pytest.raises(ValueError, match=r"samix does not import code because a file says so.*--allow own_distance"):
        SSL_METHODS.resolve(NAME, trusted=False)
    assert "own_distance" not in sys.modules
    registry.allow(NAME)
    method = build_pretraining(PRETRAIN_RECIPES["digits-moco"].build({"method": NAME, "mixup": "vanilla"}), 100)
    assert method.loss_parts == ("distance", "key_std")
