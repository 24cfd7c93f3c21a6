"""The loop: what a run writes, what stops it, and what does not change its result."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from runs import differences, fit, new_run, rows, small_recipe, vit_recipe
from torch.nn.utils import clip_grad_norm_

import samix.data.replacements
import samix.train.steps
import samix.viz.callbacks
from samix.data import TrainBatches
from samix.methods.base import Method
from samix.runtime.nonfinite import NonFiniteMonitor
from samix.train import Interrupted, NonFiniteLoss, Run, RunOptions
from samix.train.batches import common_options
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


def interrupted_after(step):
    """A train_step that asks the run to stop after so many."""
    plain = Run.train_step

    def train_step(run, batch):
        plain(run, batch)
        run.stopping = run.step + 1 >= step

    return train_step


# What stops a run -----------------------------------------------------------------------------------------------------


def poison(monkeypatch, epoch, step=2):
    """NaN pixels in one image of one batch of that epoch, or of several."""
    clean, steps = TrainBatches.epoch, [step] if isinstance(step, int) else list(step)

    def spoilt(batches, number, start_step=0):
        for step, (images, labels) in enumerate(clean(batches, number, start_step), start_step):
            if number == epoch and step in steps:
                images[3, 1, 2, 2] = float("nan")
            yield images, labels

    monkeypatch.setattr(TrainBatches, "epoch", spoilt)


@pytest.mark.parametrize(
    ("mixup", "parts"), [("vanilla", "mixed, loss"), ("samix", "clean, mixed, generation, mask"), ("mixup", "mixed")]
)
def test_nan_pixels_stop_the_run_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch, mixup, parts):
    with monkeypatch.context() as patch:
        poison(patch, epoch=1)
        with pytest.raises(
            NonFiniteLoss, match=r"not finite at step 8 \(parts: .*its batch is in .*look for NaN pixels.*last.pt"
        ) as error:
            fit(small_recipe(mixup), tmp_path)
    assert all(part in str(error.value) for part in parts.split(", "))
    good = load_checkpoint(tmp_path / "run/last.pt")
    assert good["step"] == 5
    assert all(value.isfinite().all() for value in good["method"].values())
    whole = fit(small_recipe(mixup), tmp_path, "whole")
    resumed = fit(small_recipe(mixup), tmp_path, resume=True)  # with the data mended
    assert differences(*(load_checkpoint(folder / "last.pt") for folder in (whole, resumed))) == []


@pytest.mark.parametrize("mixup", ["vanilla", "samix"])
@pytest.mark.parametrize("limit", [20, 100])
def test_a_learning_rate_that_explodes_stops_the_run(tmp_path, mixup, limit):
    """Also with one step per epoch, where the loss was finite when it was looked at and the weights are not."""
    with pytest.raises(NonFiniteLoss, match=r"lower lr or mixer_lr, clip the gradient"):
        fit(small_recipe(mixup, lr=1e18, limit=limit, epochs=5), tmp_path)
    for path in [path for path in (tmp_path / "run").glob("*.pt") if path.name != "bad-batch.pt"]:
        assert all(
            value.isfinite().all() for value in load_checkpoint(path)["method"].values() if value.is_floating_point()
        )
    for line in (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in metrics.jsonl"))


def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_saved(tmp_path, monkeypatch):
    spoil = Method.after_step

    def after_step(method, progress):
        spoil(method, progress)
        if progress == 1.0:
            method.model.fc.bias.data[3] = float("inf")

    monkeypatch.setattr(Method, "after_step", after_step)
    with pytest.raises(NonFiniteLoss, match=r"1 weights are not finite after step 10 \(first: model.fc.bias\)"):
        fit(small_recipe(), tmp_path)
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 5


def test_without_a_checkpoint_none_is_promised(tmp_path, monkeypatch):
    poison(monkeypatch, epoch=0)
    with pytest.raises(NonFiniteLoss, match="No checkpoint was written yet"):
        fit(small_recipe(), tmp_path)


# What is left out when asked ------------------------------------------------------------------------------------------


def without(monkeypatch, steps):
    """The same run on which those steps, from 1, never take place: what skipping must equal."""
    plain, after = Run.train_step, Method.after_step
    running = []

    def train_step(run, batch):
        running[:] = [run]
        if run.step + 1 not in steps:
            plain(run, batch)

    def after_step(method, progress):
        if running[0].step not in steps:
            after(method, progress)

    monkeypatch.setattr(Run, "train_step", train_step)
    monkeypatch.setattr(Method, "after_step", after_step)


@pytest.mark.parametrize(("mixup", "accumulate"), [("recursivemix", 1), ("vanilla", 2)])
def test_a_skipped_step_is_as_if_it_had_never_been(tmp_path, monkeypatch, capsys, mixup, accumulate):
    """Weights, momentum, BatchNorm and what the mixup remembers; NaN pixels in one image of the eighth step."""
    recipe = small_recipe(mixup, accumulate=accumulate, device_data=False, workers=0)
    with monkeypatch.context() as patch:
        poison(patch, epoch=1, step=2 * accumulate)
        skipping = fit(recipe, tmp_path, "skipping", max_skips=1)
    assert "the loss is not finite at step 8 (parts: loss, mixed" in (error := capsys.readouterr().err)
    assert "the step is skipped (1 of at most 1); its batch is in" in error
    with monkeypatch.context() as patch:
        without(patch, {8})
        expected = fit(recipe, tmp_path, "expected")
    states = [load_checkpoint(folder / "last.pt") for folder in (skipping, expected)]
    assert differences(states[0]["method"], states[1]["method"]) == []
    assert differences(states[0]["optimizer"], states[1]["optimizer"]) == []
    assert differences(states[0]["extra"], states[1]["extra"]) == []
    assert states[0]["skips"] == [8]
    assert [row["skipped"] for row in rows(skipping)] == [0, 1]
    assert rows(skipping)[1]["loss"] == pytest.approx(rows(expected)[1]["loss"], rel=1e-6)
    batch = torch.load(skipping / "bad-batch.pt", weights_only=True)
    assert (batch["step"], batch["epoch"], batch["parts"][0]) == (8, 2, "loss")
    assert len(batch["batches"]) == accumulate
    images, labels = batch["batches"][0]
    assert images[3, 1, 2, 2].isnan()
    assert batch["rows"].shape == (accumulate, 20 // accumulate)
    data = new_run(recipe, tmp_path, "unused").data
    assert torch.equal(data.train.labels[batch["rows"][0]], labels)


def test_a_gradient_that_is_not_finite_is_named_before_it_spoils_the_weights(tmp_path, monkeypatch):
    backward = Run.gradient

    def spoilt(run):
        if run.step == 6 and not run.skips:
            next(p for p in run.method.parameters() if p.grad is not None).grad[0] = float("inf")
        return backward(run)

    monkeypatch.setattr(Run, "gradient", spoilt)
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite at step 7; its batch"):
        fit(small_recipe(), tmp_path, "stops")
    folder = fit(small_recipe(), tmp_path, "skips", max_skips=3)
    assert load_checkpoint(folder / "last.pt")["skips"] == [7]


def test_more_bad_steps_than_may_be_skipped_stop_the_run(tmp_path, monkeypatch):
    poison(monkeypatch, epoch=1, step=(1, 2, 4))
    with pytest.raises(NonFiniteLoss, match=r"at step 10 .* after 2 skipped steps \(--max-skips 2\); its batch is in"):
        fit(small_recipe(), tmp_path, max_skips=2)
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 5


def test_an_epoch_of_nothing_but_bad_steps_stops_the_run(tmp_path, monkeypatch):
    poison(monkeypatch, epoch=1, step=range(5))
    with pytest.raises(NonFiniteLoss, match="every step of epoch 2 was skipped"):
        fit(small_recipe(), tmp_path, max_skips=20)


def test_skipping_costs_a_good_run_nothing_of_its_result(tmp_path):
    a, b = fit(small_recipe("samix"), tmp_path, "a"), fit(small_recipe("samix"), tmp_path, "b", max_skips=9)
    assert differences(*(load_checkpoint(folder / "last.pt") for folder in (a, b))) == []


def test_watching_a_step_asks_the_device_for_no_number(tmp_path, monkeypatch):
    """Only a look does, every 20 steps: a GPU is not waited for."""
    asked = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        plain = getattr(torch.Tensor, name)

        def spy(tensor, plain=plain, name=name):
            asked.append(name)
            return plain(tensor)

        monkeypatch.setattr(torch.Tensor, name, spy)
    for owner, name in ((Run, "gradient"), (NonFiniteMonitor, "note"), (Run, "take_snapshot")):
        method = getattr(owner, name)

        def quiet(self, *arguments, method=method):
            before = len(asked)
            result = method(self, *arguments)
            assert asked[before:] == []
            return result

        monkeypatch.setattr(owner, name, quiet)
    fit(small_recipe("samix", epochs=1), tmp_path, max_skips=2)


# Images that cannot be read -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Sixty images of two classes, of which three are damaged; and five held-out ones of each, one of them damaged."""
    root = tmp_path_factory.mktemp("damaged")
    for split, count in (("train", 30), ("val", 5)):
        for label, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng(number + 100 * label).integers(0, 256, (10, 12, 3), np.uint8)
                Image.fromarray(noise).save(root / split / name / f"{number}.png")
    for name in ("train/a/3.png", "train/b/7.png"):
        (root / name).write_bytes((root / name).read_bytes()[:200])
    (root / "train/b/8.png").write_bytes(b"no image")
    (root / "val/b/2.png").write_bytes(b"")
    return root


def damaged_recipe(damaged, **changes):
    return small_recipe("cutmix", data=f"folder:{damaged}", limit=0, augment="crop-flip", **changes)


@pytest.mark.parametrize(("device_data", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_a_damaged_image_stops_a_run_in_one_line_with_its_name(damaged, tmp_path, device_data, workers):
    recipe = damaged_recipe(damaged, device_data=device_data, workers=workers)
    with pytest.raises(
        ValueError,
        match=r"^image .*/(3|7|8|2)\.png cannot be read \(.*\); replace or remove it, or .*--on-bad-image skip$",
    ):
        fit(recipe, tmp_path)


@pytest.mark.parametrize(("device_data", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_damaged_images_are_skipped_counted_and_named(damaged, tmp_path, monkeypatch, capsys, device_data, workers):
    recipe = damaged_recipe(damaged, device_data=device_data, workers=workers)
    whole = fit(recipe, tmp_path, "whole", on_bad_image="skip")
    assert [row["bad_images"] for row in rows(whole)] == [3, 3]
    error = capsys.readouterr().err
    assert "3 of 60 training images could not be read in epoch 1 and were replaced by others: " in error
    assert error.count("1 of 10 held-out images could not be read and are left out: ") == 1
    names = (whole / "bad-images.txt").read_text(encoding="utf-8").splitlines()
    assert names == [str(damaged / name) for name in ("train/a/3.png", "train/b/7.png", "train/b/8.png")]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", interrupted_after(5))  # in the middle of an epoch
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path, "cut", on_bad_image="skip")
    cut = fit(recipe, tmp_path, "cut", resume=True, on_bad_image="skip")
    assert differences(*(load_checkpoint(folder / "last.pt") for folder in (whole, cut))) == []


def test_nothing_but_damaged_images_stops_a_run(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(samix.data.replacements, "TRIES", 1)
    with pytest.raises(
        ValueError, match="1 images in a row cannot be read; check that the disk of the data is mounted"
    ):
        fit(damaged_recipe(damaged, device_data=False, workers=0), tmp_path, on_bad_image="skip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 21, "accumulate": 2}, r"batch_size 21 must be divisible by 2 \(1 processes x accumulate 2\)"),
        (
            {"batch_size": 101},
            r"the batch of 101 is larger than the 100 training images; .*\(--batch-size\) of at most 100",
        ),
        (
            {"batch_size": 100, "accumulate": 50, "limit": 50},
            "the batch of 100 is larger than the 50 training images; give batch_size",
        ),
        ({"limit": 5}, "limit must be at least 10"),
        (
            {"model": "resnet19"},
            "timm has no network 'resnet19'; close names|timm has no network 'resnet19'; timm.list",
        ),
        ({"model_args": "{'a': 1}"}, "model_args must be a JSON object"),
        ({"model_args": '{"wings": 2}'}, "resnet18 does not take model_args"),
        ({"model": "convnext_atto", "model_args": "{}"}, "this stem is for ResNets; ConvNeXt has no conv1"),
        ({"data": "digit"}, "no such folder, and no data set: 'digit'; data sets are digits"),
        ({"augment": "flop"}, "flop"),
        ({"feature": 9, "mixup": "samix"}, "9"),
        ({"mixup": "cutmix", "mixup_options": {"beta": 1}}, "cutmix has no option beta; it has alpha"),
        ({"mixup": "cutmix", "mixup_options": {"alpha": float("nan")}}, "alpha must be a finite number"),
        ({"mixup": "samix", "mixup_options": {"alpha": -1.0}}, r"alpha must be in \(0, inf\)"),
        (
            {"mixup": "samix", "mixup_options": {"mask_schedule": "never"}},
            "mask_schedule must be one of constant, linear, cosine, warmup; got 'never'",
        ),
        (
            {"mixup": "samix", "mixup_options": {"pairing": "friends"}},
            "pairing must be one of randperm, cycle, flip, roll; got 'friends'",
        ),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        fit(small_recipe(**changes), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"epochs must be a whole number in \[1, 2\^31\), got 0"),
        ({"lr": 0.0}, r"lr must be in \(0, inf\)"),
        ({"lr": float("nan")}, r"lr must be in \(0, inf\)"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\)"),
    ],
)
def test_wrong_values_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        small_recipe(**changes)


def test_unknown_or_missing_devices_are_refused(tmp_path):
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda, cuda:N or mps, got 'tpu'"):
        Run(small_recipe(), RunOptions(out=str(tmp_path), device="tpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda: torch finds no CUDA GPU; use --device cpu"):
            Run(small_recipe(), RunOptions(out=str(tmp_path), device="cuda"))


@pytest.mark.parametrize(
    "wrong",
    [{"keep": 0}, {"save_every": -1}, {"save_minutes": float("nan")}, {"max_skips": -2}, {"on_bad_image": "no"}],
)
def test_wrong_run_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be "):
        RunOptions(**wrong)


def test_one_class_is_refused_before_it_is_trained(tmp_path):
    for split in ("train", "val"):
        folder = tmp_path / "data" / split / "only"
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(ValueError, match="folder has one class, 'only'; training needs at least two"):
        new_run(small_recipe(data=f"folder:{tmp_path / 'data'}", limit=0, batch_size=2), tmp_path)
    assert not (tmp_path / "run").exists()


def test_signals_are_as_before_after_a_run(tmp_path):
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    fit(small_recipe(epochs=1), tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_run_in_a_thread_leaves_signals_alone(tmp_path):
    from threading import Thread

    run = new_run(small_recipe(epochs=1), tmp_path)
    thread = Thread(target=run.fit)
    thread.start()
    thread.join()
    assert (run.folder / "summary.json").is_file()


@pytest.mark.parametrize(
    ("size", "told"),
    [(8, "of 10 classes, 359 held out)"), (16, "359 held out)"), (24, "from 8 px; --size 8 --stem small keeps")],
)
def test_a_run_says_where_images_are_enlarged(tmp_path, size, told):
    assert told in new_run(small_recipe("cutmix", size=size), tmp_path).describe()


def test_there_are_no_more_loader_processes_than_cores(monkeypatch):
    monkeypatch.setattr("samix.train.batches.usable_cores", lambda: 3)
    for asked, given in ((2, 2), (16, 3)):
        recipe = small_recipe("cutmix", workers=asked, device_data=False)
        assert common_options(recipe, torch.device("cpu"))["workers"] == given


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


def test_every_part_of_an_accumulated_step_has_draws_of_its_own(tmp_path, monkeypatch):
    seen, seed_draws = [], samix.train.steps.seed_draws
    monkeypatch.setattr(
        samix.train.steps, "seed_draws", lambda method, *key: seen.append(key) or seed_draws(method, *key)
    )
    run = new_run(small_recipe("cutmix", accumulate=2, epochs=2), tmp_path)
    run.fit()
    assert seen == [(0, 0, part) for part in range(2 * run.step)]  # seed, rank, and a number that is never used again
