"""The loop: what a run writes, and what does not change its result."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from interrupted_runs import interrupted_after
from PIL import Image
from runs import differences, fit, new_run, rows, small_recipe, vit_recipe
from torch.nn.utils import clip_grad_norm_

import samix.data.replacements
import samix.train.steps
import samix.viz.callbacks
from samix.train import Interrupted, Run, RunOptions
from samix.train.checkpoint import load_checkpoint


def pixels(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return torch.from_numpy(np.array(image.convert("L"))).float()


# What a run leaves ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return fit(small_recipe("samix"), tmp_path_factory.mktemp("runs"), tensorboard=True, pictures=True)


def test_a_run_leaves_these_files(finished):
    names = {"recipe.json", "metrics.jsonl", "curves.png", "mixed.png", "last.pt", "best.pt", "summary.json"}
    names |= {"last-1.pt"}
    assert {p.name for p in finished.iterdir()} == {*names, "export", "mixer", "tensorboard", ".lock"}
    assert all(path.stat().st_size > 0 for path in finished.rglob("*"))


def test_recipe_json_is_the_recipe(finished):
    values = json.loads((finished / "recipe.json").read_text(encoding="utf-8"))
    assert values == json.loads(json.dumps(small_recipe("samix").to_dict()))


def test_metrics_have_a_line_per_epoch(finished):
    found = rows(finished)
    assert [(row["epoch"], row["step"]) for row in found] == [(1, 5), (2, 10)]
    keys = {
        "lr",
        "skipped",
        "loss",
        "clean",
        "mixed",
        "generation",
        "mask",
        "mask_std",
        "mask_error",
        "top1",
        "top5",
        "nll",
        "ece",
    }
    keys |= {"top1_ema_mixed_head", "top1_model", "top1_model_mixed_head"}
    assert all(set(row) == {"epoch", "step", *keys} for row in found)
    weight = small_recipe("samix").mixup_options.get("mask_weight", 0.1)
    for row in found:
        parts = row["clean"] + row["mixed"] + row["generation"] + weight * row["mask"]
        assert row["loss"] == pytest.approx(parts, rel=1e-5)


def test_the_summary_has_all_keys_with_their_types(finished):
    summary = json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    numbers = {"top1", "top5", "nll", "ece", "top1_best", "top1_median_last_10", "seconds", "images_per_second"}
    numbers |= {"top1_ema_mixed_head", "top1_model", "top1_model_mixed_head"}
    assert set(summary) == {*numbers, "by_class", "epochs", "recipe", "versions", "device", "processes"}
    assert list(summary["by_class"]) == [str(n) for n in range(10)]
    assert all(isinstance(summary[key], float) for key in numbers)
    last = rows(finished)[-1]
    assert {key: summary[key] for key in ("top1", "top5", "nll", "ece")} == {
        key: last[key] for key in ("top1", "top5", "nll", "ece")
    }
    assert summary["top1_best"] == max(row["top1"] for row in rows(finished))
    assert summary["recipe"]["name"] == "digits-quick"
    assert summary["versions"]["samix"]
    assert summary["processes"] == 1
    assert summary["device"].startswith("CPU")


@pytest.mark.parametrize("name", ["curves.png", "mixed.png"])
def test_pictures_are_valid_and_not_blank(finished, name):
    grey = pixels(finished / name)
    assert grey.std() > 5
    assert len(grey.unique()) > 10


def test_best_and_last_hold_all_that_is_needed(finished):
    last, best = (load_checkpoint(finished / name) for name in ("last.pt", "best.pt"))
    assert last["step"] == 10
    assert best["best"] == last["best"] == max(row["top1"] for row in rows(finished))
    assert best["rows"][-1]["top1"] == best["best"]
    assert last["data"]["classes"] == [str(n) for n in range(10)]


def test_tensorboard_has_every_row(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(finished / "tensorboard"))
    log.Reload()
    assert [(event.step, event.value) for event in log.Scalars("loss")] == [
        (row["step"], pytest.approx(row["loss"])) for row in rows(finished)
    ]


def test_the_folder_is_named_after_recipe_mixup_and_seed(tmp_path):
    run = Run(small_recipe("cutmix", seed=7, epochs=1), RunOptions(out=str(tmp_path / "a b"), device="cpu", quiet=True))
    assert run.folder == tmp_path / "a b" / "digits-quick-cutmix-s7"
    run.fit()
    assert (run.folder / "summary.json").is_file()


def test_evaluations_may_be_rare_but_the_last_epoch_has_one(tmp_path):
    found = rows(fit(small_recipe(epochs=3, eval_every=2), tmp_path))
    assert ["top1" in row for row in found] == [False, True, True]


def test_pictures_of_a_run_with_rare_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(samix.viz.callbacks, "PREVIEW_LAMS", (0.5,))
    folder = fit(small_recipe("manifoldmix", epochs=2, eval_every=2), tmp_path, pictures=True)
    assert pixels(folder / "curves.png").std() > 5
    assert pixels(folder / "mixed.png").std() > 5


# What does not change a result ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    recipe = small_recipe("samix", epochs=1)
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = fit(dataclasses.replace(recipe, seed=seed), tmp_path, name)
        states.append(load_checkpoint(folder / "last.pt"))
        torch.rand(3)  # what is drawn outside does not matter
    assert differences(states[0], states[1]) == []
    assert not torch.equal(
        states[0]["method"]["model.mixed_head.fc/weight"], states[2]["method"]["model.mixed_head.fc/weight"]
    )


def test_pictures_and_progress_bar_change_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samix.viz.callbacks, "PREVIEW_LAMS", (0.5,))
    recipe = small_recipe("samix", epochs=2)
    with_pictures = new_run(recipe, tmp_path, "a", pictures=True, quiet=False)
    with_pictures.fit()
    assert "img_s" in capsys.readouterr().err
    folders = [with_pictures.folder, fit(recipe, tmp_path, "b")]
    assert differences(*(load_checkpoint(folder / "last.pt") for folder in folders)) == []


def losses_and_weights(recipe, tmp_path, name, steps):
    run = new_run(recipe, tmp_path, name)
    run.fit()
    assert run.step == steps
    return [row["loss"] for row in rows(run.folder)], load_checkpoint(run.folder / "last.pt")["method"]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_two_half_batches_equal_one_batch(tmp_path, clip):
    """On a network without BatchNorm, without mixing: accumulation is only another order of the sum."""
    recipe = vit_recipe(epochs=2, clip=clip, device_data=False, workers=0)  # so each image has draws of its own
    whole, weights = losses_and_weights(recipe, tmp_path, "whole", 10)
    halves, half_weights = losses_and_weights(dataclasses.replace(recipe, accumulate=2), tmp_path, "halves", 10)
    assert halves == pytest.approx(whole, rel=1e-5)
    for name in weights:
        torch.testing.assert_close(half_weights[name], weights[name], rtol=1e-4, atol=1e-6)


def plain_loop(recipe, run):
    """The same training by a bare loop: SGD with momentum, cosine, clipping; the losses of all steps."""
    method = copy.deepcopy(run.method)
    optimizer = samix.train.steps.build_optimizer(method, recipe)
    total, step, losses = recipe.epochs * run.steps_per_epoch, 0, []
    for epoch in range(recipe.epochs):
        method.train()
        for images, labels in run.train_batches.epoch(epoch):
            samix.train.steps.set_learning_rates(optimizer, recipe, step, run.steps_per_epoch)
            samix.train.steps.seed_draws(method, recipe.seed, 0, step)
            loss, _ = method((images, labels))
            loss.backward()
            if recipe.clip:
                clip_grad_norm_(method.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            method.after_step(step / total)
            losses.append(loss.item())
    return losses, method


@pytest.mark.parametrize(("mixup", "clip"), [("samix", 0.0), ("cutmix", 0.3), ("automix", 0.0)])
def test_the_engine_is_the_bare_loop(tmp_path, mixup, clip):
    recipe = small_recipe(mixup, clip=clip, channels_last=False)
    run = new_run(recipe, tmp_path)
    losses, method = plain_loop(recipe, run)
    run.fit()
    assert differences(method.state_dict(), run.method.state_dict()) == []
    assert rows(run.folder)[0]["loss"] == pytest.approx(sum(losses[:5]) / 5, rel=1e-5)
    assert rows(run.folder)[1]["loss"] == pytest.approx(sum(losses[5:]) / 5, rel=1e-5)


def test_clipping_bounds_the_gradient(tmp_path, monkeypatch):
    norms = []
    step = torch.optim.SGD.step

    def spy(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in gradients]).norm().item())
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    fit(vit_recipe(epochs=1), tmp_path, "free")
    free, norms[:] = list(norms), []
    fit(vit_recipe(epochs=1, clip=0.01, accumulate=2), tmp_path, "clipped")
    assert min(free) > 0.02
    assert len(norms) == 5
    assert norms == pytest.approx([0.01] * 5, rel=1e-3)


def test_a_network_learns(tmp_path):
    found = rows(fit(small_recipe("vanilla", limit=0, epochs=4, batch_size=50, eval_every=4), tmp_path))
    assert found[-1]["loss"] < 0.8 * found[0]["loss"]
    assert found[-1]["top1"] > 50


@pytest.fixture
def other_precision():
    """Accelerate keeps one precision for a process; this forgets it before and after."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("mixup", ["cutmix", "samix"])
def test_bf16_trains_float32_weights_and_resumes_exactly(tmp_path, monkeypatch, other_precision, mixup):
    recipe = small_recipe(mixup, precision="bf16")
    whole = fit(recipe, tmp_path, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", interrupted_after(7))
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path, "cut")
    states = [load_checkpoint(folder / "last.pt") for folder in (whole, fit(recipe, tmp_path, "cut", resume=True))]
    assert differences(*states) == []
    weights = {k: v for k, v in states[0]["method"].items() if not k.endswith("_extra_state")}  # which holds progress
    assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float32}
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows(whole))


def test_draws_differ_by_seed_rank_step_and_generator():
    class Two:
        def __init__(self):
            self.made = [torch.Generator(), torch.Generator()]

        def generators(self):
            return self.made

    def drawn(*key):
        method = Two()
        samix.train.steps.seed_draws(method, *key)
        return [float(torch.rand(1))] + [float(torch.rand(1, generator=g)) for g in method.made]

    draws = [value for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)) for value in drawn(*key)]
    assert len(set(draws)) == len(draws)
    assert drawn(3, 1, 2) == drawn(3, 1, 2)
