"""Callbacks: what happens around the steps never ends a run, and what it needs is checked before the first step."""

import dataclasses
import json
import sys

import pytest
import torch
from PIL import Image
from runs import differences, fit, new_run, rows, small_recipe

import samix.viz.callbacks
from samix.compare.run import build_run, default_callbacks
from samix.train import Callback, Run, RunOptions
from samix.train.callbacks import TimeEstimate, Trackers, Warnings, advice, duration
from samix.train.checkpoint import load_checkpoint


class Fails(Callback):
    """Fails in every hook, after noting what was saved."""

    def __init__(self):
        self.saved = []

    def on_fit_start(self, run):
        raise ValueError("no paint")

    def on_sync(self, run):
        raise IndexError

    def on_epoch_end(self, run, row):
        self.saved.append(load_checkpoint(run.folder / "last.pt")["step"])
        raise RuntimeError("no\npaint")

    def on_fit_end(self, run, summary):
        raise OSError("no disk")


def run_with(callbacks, out, recipe=None, **options):
    settings = RunOptions(out=str(out), run="run", device="cpu", quiet=True, **options)
    return Run(recipe or small_recipe("cutmix", limit=500), settings, callbacks)


def test_a_callback_that_fails_is_reported_once_and_ends_nothing(tmp_path, capsys):
    fails = Fails()
    run = run_with([fails], tmp_path)
    run.fit()
    assert fails.saved == [25, 50]  # the checkpoint was written first
    assert capsys.readouterr().err.splitlines() == [
        "samix: Fails failed at the start of the run: no paint; the run goes on without it",
        "samix: Fails failed at the progress of the run: IndexError; the run goes on without it",
        "samix: Fails failed at the end of an epoch: no paint; the run goes on without it",
        "samix: Fails failed at the end of the run: no disk; the run goes on without it",
    ]
    assert (run.folder / "summary.json").is_file()


def test_an_export_that_fails_is_an_error_after_everything_else(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr("samix.hub.callbacks.export_network", fails)
        with pytest.raises(OSError, match="no disk"):
            fit(small_recipe("samix"), tmp_path)
    folder = tmp_path / "run"
    assert (folder / "mixer/config.json").is_file()
    assert not (folder / "summary.json").exists()
    fit(small_recipe("samix"), tmp_path, resume=True)
    assert (folder / "export/model.safetensors").is_file()
    assert (folder / "summary.json").is_file()


def test_callbacks_change_nothing(tmp_path):
    with_all, without = (
        fit(small_recipe("samix"), tmp_path, "a", pictures=True),
        run_with([], tmp_path, small_recipe("samix")),
    )
    without.fit()
    assert differences(*(load_checkpoint(f / "last.pt") for f in (with_all, without.folder))) == []


def test_pictures_of_unreadable_images_end_no_run(tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise IndexError("index 3 is out of bounds")

    monkeypatch.setattr(samix.viz.callbacks, "preview_pairs", fails)
    folder = fit(small_recipe("cutmix"), tmp_path, pictures=True)
    assert "Pictures failed at the end of an epoch: index 3 is out of bounds" in capsys.readouterr().err
    assert (folder / "export").is_dir()


def test_an_evaluation_that_fails_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise OSError("the disk of the data is gone")

    monkeypatch.setattr("samix.train.trainer.classifier_sums", fails)
    run = new_run(small_recipe("cutmix"), tmp_path)
    summary = run.fit()
    error = capsys.readouterr().err
    assert (
        error.count("the held-out images could not be evaluated: the disk of the data is gone; training goes on") == 1
    )
    assert ["top1" in row for row in rows(run.folder)] == [False, False]
    assert "not evaluated" in run.conclude(summary)
    assert (run.folder / "export/model.safetensors").is_file()


# Before the first step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_tracker_without_its_package_is_refused_before_the_first_step(name, tmp_path, monkeypatch):
    monkeypatch.setattr("samix.train.callbacks.find_spec", lambda package: None)
    run = run_with([Trackers([name])], tmp_path)
    with pytest.raises(ValueError, match=rf"--log {name} needs the package {name}: pip install "):
        run.fit()
    assert run.step == 0


def test_unknown_trackers_are_refused():
    with pytest.raises(ValueError, match=r"log must be one of tensorboard, .*did you mean wandb"):
        RunOptions(log="tensorboard,wandbb")
    assert RunOptions(log="wandb, tensorboard", tensorboard=True).trackers == ("wandb", "tensorboard")


def photos(root, damaged):
    for split, count in (("train", 12), ("val", 4)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (10, 12, 3), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    (root / damaged).write_bytes(b"no image")
    return root


def photo_recipe(root, **changes):
    return small_recipe("cutmix", data=f"folder:{root}", limit=0, device_data=False, workers=0, batch_size=6, **changes)


def test_a_damaged_held_out_image_stops_a_run_before_the_first_step(tmp_path):
    run = new_run(photo_recipe(photos(tmp_path / "data", "val/b/2.png")), tmp_path)
    with pytest.raises(ValueError, match=r"val/b/2.png .*--on-bad-image skip"):
        run.fit()
    assert run.step == 0


def test_a_damaged_previewed_image_is_left_out_of_the_pictures(tmp_path):
    recipe = photo_recipe(photos(tmp_path / "data", "val/a/0.png"), epochs=1)
    folder = fit(recipe, tmp_path, on_bad_image="skip", pictures=True)
    with Image.open(folder / "mixed.png") as picture:
        assert picture.width > 300
    assert (folder / "export").is_dir()


def test_a_folder_that_may_not_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    run = new_run(small_recipe("cutmix"), tmp_path)
    with pytest.raises(ValueError, match=r"run is a file; choose another name with --run NAME"):
        run.fit()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_was_never_a_run_keeps_its_files(tmp_path, resume):
    (tmp_path / "run/export").mkdir(parents=True)
    (tmp_path / "run/export/thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(ValueError, match=r"is not empty and holds no run \(it has 'export'\); choose another name"):
        fit(small_recipe("cutmix"), tmp_path, resume=resume)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["export"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_without_its_last_checkpoints_is_not_overwritten(tmp_path, resume):
    folder = fit(small_recipe("cutmix"), tmp_path)
    before = (folder / "best.pt").read_bytes()
    for path in folder.glob("last*.pt"):
        path.unlink()
    with pytest.raises(ValueError, match=r"holds a run whose last.pt is gone; choose another name"):
        fit(small_recipe("cutmix", seed=3), tmp_path, resume=resume)
    assert (folder / "best.pt").read_bytes() == before


def test_two_runs_of_one_name_do_not_mix(tmp_path):
    errors = []

    class Second(Callback):
        def on_epoch_end(self, run, row):
            try:
                fit(small_recipe("cutmix", seed=1), tmp_path, resume=True)
            except ValueError as error:
                errors.append(str(error))

    run_with([Second()], tmp_path, small_recipe("cutmix")).fit()
    assert len(errors) == 2
    assert all("this process already writes" in error and "choose another name" in error for error in errors)


# What is said ---------------------------------------------------------------------------------------------------------


def test_the_time_left_is_said_once_with_what_would_shorten_it(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr("samix.train.callbacks.time.monotonic", lambda: float(next(clock)))
    run_with([TimeEstimate()], tmp_path, small_recipe("samix", limit=500, epochs=4)).fit()
    lines = [line for line in capsys.readouterr().err.splitlines() if "left for" in line]
    assert len(lines) == 1
    assert lines[0].startswith("samix: about ")
    assert "shorter: --mixup.preset fast, fewer --epochs than 4" in lines[0]


def test_a_cpu_at_224_pixels_from_scratch_is_called_what_it_is(tmp_path):
    run = new_run(small_recipe("samix"), tmp_path)
    run.recipe = dataclasses.replace(run.recipe, size=224)
    assert "a smaller --size than 224" in advice(run)
    assert "from random weights a CPU is too slow to be of use" in advice(run)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (600, "10 min"), (12_000, "3 h 20 min"), (200_000, "2 d 8 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_grey_masks_and_a_lagging_average_are_said_at_the_end(tmp_path, capsys):
    run = run_with([], tmp_path, small_recipe("samix"))
    run.rows = [{"epoch": 1, "mask_std": 0.001, "top1": 13.0, "top1_model": 20.5, "top1_ema_mixed_head": 90.0}]
    Warnings().on_fit_end(run, {})
    first, second = capsys.readouterr().err.splitlines()
    assert "the masks are almost constant (standard deviation 0.001, below 0.02)" in first
    assert "the exported network has 13.00 % top-1, the network that was trained (model) 20.50 %" in second
    run.rows = [{"epoch": 1, "mask_std": 0.3, "top1": 20.0, "top1_model": 20.5}]
    Warnings().on_fit_end(run, {})
    assert capsys.readouterr().err == ""


def test_classes_of_very_different_size_are_said_at_the_start(tmp_path, capsys):
    run = run_with([], tmp_path)
    labels = torch.tensor([0] * 200 + [1] * 3 + list(range(2, 10)) * 20)
    rows_ = torch.zeros(len(labels)).long()
    train = dataclasses.replace(run.data.train.subset(rows_), labels=labels)
    run.data = dataclasses.replace(run.data, train=train)
    Warnings().on_fit_start(run)
    assert "0 has 200 training images, 1 has 3" in capsys.readouterr().err


def test_a_row_goes_to_every_tracker_at_its_step(tmp_path, monkeypatch):
    import accelerate.tracking as tracking

    calls = []

    class Fake:
        def __init__(self, project, **options):
            calls.append((project, options))

        def start(self):
            calls.append("start")

        def store_init_configuration(self, values):
            calls.append(values["mixup"])

        def log(self, values, step):
            calls.append((step, values["loss"]))

        def finish(self):
            calls.append("finish")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr("samix.train.callbacks.find_spec", lambda package: sys)
    run = run_with([Trackers(["wandb"])], tmp_path, small_recipe("cutmix"))
    run.fit()
    (name, options), *rest = calls
    assert (name, options["name"], options["resume"]) == ("samix", "run", "allow")
    losses = [row["loss"] for row in rows(run.folder)]
    assert rest == ["start", "cutmix", (5, losses[0]), (10, losses[1]), "finish"]


def test_the_default_callbacks_follow_the_options():
    names = [type(c).__name__ for c in default_callbacks(RunOptions(log="wandb"))]
    assert names == ["Warnings", "TimeEstimate", "Trackers", "Pictures", "ExportNetwork", "ExportMixer"]
    names = [type(c).__name__ for c in default_callbacks(RunOptions(quiet=True, pictures=False))]
    assert names == ["Warnings", "ExportNetwork", "ExportMixer"]


def test_accuracy_by_class_is_that_of_the_predictions(tmp_path):
    run = build_run(
        small_recipe("vanilla"), RunOptions(out=str(tmp_path), run="run", device="cpu", quiet=True, pictures=False)
    )
    summary = run.fit()
    run.method.eval()
    hits = torch.zeros(10, 2)
    with torch.no_grad():
        for images, labels in run.val_batches.batches():
            right = run.method.model(images).argmax(1) == labels
            hits.index_add_(0, labels, torch.stack([torch.ones(len(labels)), right.float()], 1))
    expected = {str(c): pytest.approx(100 * hit / count) for c, (count, hit) in enumerate(hits.tolist())}
    assert summary["by_class"] == expected
    saved = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    assert saved["by_class"] == expected


@pytest.mark.parametrize(("mixup", "warns"), [("cutmix", False), ("manifoldmix", True), ("samix", True)])
def test_a_frozen_backbone_is_told_to_a_mixup_that_acts_on_it(mixup, warns, tmp_path, capsys):
    fit(small_recipe(mixup, freeze="backbone", epochs=1), tmp_path)
    assert (f"{mixup} acts on the layers below it" in capsys.readouterr().err) == warns
