"""Every mixup and every method trains on two processes, which end with the same weights and the same loss parts.

The two are interpreters of their own: they may agree on no order of a set.
"""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from mixup_kinds import OPTIONS
from process_groups import FreshChild, work_in_two
from runs import SLIM, small_recipe, vit_recipe

from samix.methods.contrastive import SSL_METHODS
from samix.mixups import MIXUPS
from samix.recipes.build import METHODS
from samix.recipes.pretrain_named import PRETRAIN_RECIPES
from samix.train import Run, RunOptions
from samix.train.pretraining import PretrainRun

FAST = ("automix-fast", "samix-fast")
LABELLED = [*MIXUPS, *METHODS, *FAST]
UNLABELLED = [*SSL_METHODS, *(f"moco-{mixup}" for mixup in ("cutmix", "samix", "samix-c", "interintra", "puzzlemix"))]
CLUSTERS = {"clusters": 4, "min_cluster": 2, "warmup_epochs": 0, "centroid_every": 1, "repair_every": 1}
STEPS = {"limit": 40, "batch_size": 20, "epochs": 1, "size": 16}


def labelled_recipe(name):
    """Two steps of a mixup; those that read a vision transformer's attention get a tiny one."""
    kind, _, preset = name.partition("-")
    on_tokens = kind in ("patchcutmix", "tokenmix", "smmix", "transmix", "mixpro", "tla", "maskmix")
    options = {"preset": preset} if preset else {k: v for k, v in OPTIONS.get(kind, {}).items() if k != "switch"}
    return (vit_recipe if on_tokens else small_recipe)(kind, mixup_options=options, **STEPS)


def unlabelled_recipe(name):
    """Two steps of a method without labels."""
    method, _, mixup = name.partition("-")
    named = PRETRAIN_RECIPES["digits-moco"].build({"method": method, "mixup": mixup or "vanilla"})
    clustered = mixup in ("samix-c", "interintra", "puzzlemix")
    small = {"queue": 20, "groups": 1, "hardest": 8, "first": 4, "second": 2}
    known = {f.name for f in dataclasses.fields(next(iter(SSL_METHODS[method].presets.values())))}
    options = {**named.method_options, **{k: v for k, v in small.items() if k in known}}
    return dataclasses.replace(
        named, model_args=SLIM, knn=0, method_options=options, mixup_options=CLUSTERS if clustered else {}, **STEPS
    )


def work(out: Path) -> None:
    """What each process does: every run in turn, and what it ends with."""
    torch.set_num_threads(1)
    rank, results = os.environ["RANK"], {}
    for name in (*LABELLED, *UNLABELLED):
        options = RunOptions(out=str(out), run=f"run-{name}", device="cpu", quiet=True)
        try:
            if name in LABELLED:
                run = Run(labelled_recipe(name), options)
            else:
                run = PretrainRun(unlabelled_recipe(name), options)
            run.fit()
            weights = [value.double().sum().item() for value in run.method.parameters()]
            results[name] = {"weights": weights, "row": run.rows[-1], "parts": list(run.losses.names)}
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        (out / f"rank{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What either process ended with, by name."""
    out = work_in_two(work, tmp_path_factory.mktemp("matrix"), FreshChild)
    return [json.loads((out / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.mark.parametrize("name", [*LABELLED, *UNLABELLED])
def test_it_trains_on_two_processes(name, both):
    first, second = (results[name] for results in both)
    assert "error" not in first, first
    assert "error" not in second, second
    assert first["weights"] == second["weights"]
    assert first["parts"] == second["parts"]
    means = {key: value for key, value in first["row"].items() if key != "images_per_second"}
    assert means == {key: second["row"][key] for key in means}
    assert set(means) - {"epoch", "step", "lr", "skipped", "top1", "top5", "nll", "ece"} >= {"loss"}
