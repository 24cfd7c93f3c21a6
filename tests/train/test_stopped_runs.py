"""What stops a run or is skipped, images that cannot be read, and what is left out when asked."""

import json

import numpy as np
import pytest
import torch
from interrupted_runs import interrupted_after
from PIL import Image
from runs import differences, fit, new_run, rows, small_recipe

import samix.data.replacements
import samix.train.steps
import samix.viz.callbacks
from samix.data import TrainBatches
from samix.methods.base import Method
from samix.runtime.nonfinite import NonFiniteMonitor
from samix.train import Interrupted, NonFiniteLoss, Run, RunOptions
from samix.train.batches import common_options
from samix.train.checkpoint import load_checkpoint

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


def test_every_part_of_an_accumulated_step_has_draws_of_its_own(tmp_path, monkeypatch):
    seen, seed_draws = [], samix.train.steps.seed_draws
    monkeypatch.setattr(
        samix.train.steps, "seed_draws", lambda method, *key: seen.append(key) or seed_draws(method, *key)
    )
    run = new_run(small_recipe("cutmix", accumulate=2, epochs=2), tmp_path)
    run.fit()
    assert seen == [(0, 0, part) for part in range(2 * run.step)]  # seed, rank, and a number that is never used again
