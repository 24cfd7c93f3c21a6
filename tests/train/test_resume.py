"""A run that was stopped, killed or cut while saving ends as one that never was: compared bit for bit on the CPU."""

import dataclasses
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from process_groups import started
from runs import (
    PLAIN_COMMAND,
    ROOT,
    SMALL_FLAGS,
    differences,
    fit,
    new_run,
    rows,
    run_differences,
    small_recipe,
    vit_recipe,
)

import samix.runtime.atomic_files
import samix.train.checkpoint
import samix.train.steps
from samix.cli.main import main
from samix.cli.train import parse_train
from samix.methods.base import Method
from samix.recipes.pretrain_named import PRETRAIN_RECIPES
from samix.runtime.atomic_files import CannotWrite
from samix.train import Interrupted, Run
from samix.train.checkpoint import DamagedCheckpoint, load_checkpoint, write_sealed
from samix.train.folder import recipe_of_run

KINDS = [
    ("samix", True, 0),
    ("samix", False, 2),
    ("cutmix", True, 0),
    ("cutmix", False, 0),
    ("manifoldmix", True, 0),
    ("manifoldmix", False, 2),
]


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing is tidied up."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of the unbroken run of each kind, trained once."""
    folders = {}

    def folder(mixup, device_data, workers):
        key = f"{mixup}-{device_data}-{workers}"
        if key not in folders:
            recipe = small_recipe(mixup, device_data=device_data, workers=workers)
            folders[key] = fit(recipe, tmp_path_factory.mktemp("unbroken"))
        return folders[key]

    return folder


def act_after(monkeypatch, step, action):
    """Calls the action inside the optimiser step of that number, counted from 1."""
    count = 0
    train_step = Run.train_step

    def counted(run, batch):
        nonlocal count
        train_step(run, batch)
        count += 1
        if count == step:
            action()

    monkeypatch.setattr(Run, "train_step", counted)


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def sigint():
    os.kill(os.getpid(), signal.SIGINT)


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("mixup", "device_data", "workers", "step"), [*((*kind, 8) for kind in KINDS), ("samix", True, 0, 3)]
)
def test_stopped_in_the_middle_of_an_epoch(mixup, device_data, workers, step, unbroken, tmp_path, monkeypatch):
    recipe = small_recipe(mixup, device_data=device_data, workers=workers)
    with monkeypatch.context() as patch:
        act_after(patch, step, sigterm)
        with pytest.raises(Interrupted, match=f"stopped at step {step}; continue with --resume"):
            fit(recipe, tmp_path)
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["step"] == step
    assert run_differences(unbroken(mixup, device_data, workers), fit(recipe, tmp_path, resume=True)) == []


@pytest.mark.parametrize(("mixup", "device_data", "workers"), [KINDS[1], KINDS[2], KINDS[5]])
def test_stopped_at_the_end_of_an_epoch(mixup, device_data, workers, unbroken, tmp_path, monkeypatch):
    """The epoch is evaluated and logged before the run leaves, not lost, and its losses are not counted twice."""
    recipe = small_recipe(mixup, device_data=device_data, workers=workers)
    with monkeypatch.context() as patch:
        act_after(patch, 5, sigterm)
        with pytest.raises(Interrupted, match="stopped at step 5"):
            fit(recipe, tmp_path)
    assert len(rows(tmp_path / "run")) == 1
    assert run_differences(unbroken(mixup, device_data, workers), fit(recipe, tmp_path, resume=True)) == []


def test_stopped_at_the_last_step_of_all_is_finished(unbroken, tmp_path, monkeypatch):
    act_after(monkeypatch, 10, sigint)
    folder = fit(small_recipe("cutmix", device_data=True, workers=0), tmp_path)
    assert run_differences(unbroken("cutmix", True, 0), folder) == []


@pytest.mark.parametrize(("mixup", "device_data", "workers"), [KINDS[0], KINDS[2], KINDS[5]])
def test_killed_in_the_middle_of_an_epoch(mixup, device_data, workers, unbroken, tmp_path, monkeypatch):
    recipe = small_recipe(mixup, device_data=device_data, workers=workers)
    with monkeypatch.context() as patch:
        act_after(patch, 7, kill)
        with pytest.raises(Killed):
            fit(recipe, tmp_path)
    assert run_differences(unbroken(mixup, device_data, workers), fit(recipe, tmp_path, resume=True)) == []


def replace_writer(patch, write):
    """All files go through one function: texts and networks, and checkpoints."""
    patch.setattr(samix.runtime.atomic_files, "make_temporary", write)
    patch.setattr(samix.train.checkpoint, "make_temporary", write)


@pytest.mark.parametrize("write", range(1, 9))
def test_killed_while_writing_any_file(write, unbroken, tmp_path, monkeypatch):
    """In the middle of each of the first eight files a run writes: config, logs, best, last, ..."""
    whole, count = samix.runtime.atomic_files.make_temporary, 0

    def cut(path, writer):
        nonlocal count
        count += 1
        if count == write:
            path.with_name(f".{path.name}.{count}.tmp").write_bytes(b"PK\x03\x04 half a file")
            raise Killed
        return whole(path, writer)

    recipe = small_recipe("cutmix", device_data=True, workers=0)
    with monkeypatch.context() as patch:
        replace_writer(patch, cut)
        with pytest.raises(Killed):
            fit(recipe, tmp_path)
    assert run_differences(unbroken("cutmix", True, 0), fit(recipe, tmp_path, resume=True)) == []


@pytest.mark.parametrize("write", [1, 4, 7])
def test_a_disk_that_is_full_at_any_write_ends_the_run_in_one_line(write, unbroken, tmp_path, monkeypatch):
    whole, count = samix.runtime.atomic_files.make_temporary, 0

    def full(path, writer):
        nonlocal count
        count += 1
        if count == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(path, writer)

    recipe = small_recipe("cutmix", device_data=True, workers=0)
    with monkeypatch.context() as patch:
        replace_writer(patch, full)
        with pytest.raises(CannotWrite, match=r"^cannot write .*: No space left .*; free some space\. .*--resume$"):
            fit(recipe, tmp_path)
    assert run_differences(unbroken("cutmix", True, 0), fit(recipe, tmp_path, resume=True)) == []


# Runs with a memory, and checkpoints inside an epoch ------------------------------------------------------------------


def new_stateful(name, out, run, **options):
    """Three epochs of what remembers earlier batches."""
    if name == "recursivemix":
        return new_run(small_recipe(name, epochs=3), out, run, **options)
    small = {f.name: getattr(small_recipe(), f.name) for f in dataclasses.fields(small_recipe())}
    names = ("model_args", "limit", "batch_size", "size")
    clusters = {"clusters": 5, "warmup_epochs": 1, "centroid_every": 2, "repair_every": 3} if name == "samix-c" else {}
    recipe = dataclasses.replace(
        PRETRAIN_RECIPES["digits-moco"].build({"method": "moco", "mixup": name}),
        **{key: small[key] for key in names},
        epochs=3,
        method_options={"preset": "cifar", "queue": 40, "dim": 8, "groups": 2},
        mixup_options={"mask_weight": 1.0, "mask_schedule": "constant", **clusters},
    )
    return new_run(recipe, out, run, **options)


STATEFUL = ("recursivemix", "samix", "samix-c")


@pytest.fixture(scope="module")
def unbroken_stateful(tmp_path_factory):
    folders = {}

    def folder(name):
        if name not in folders:
            run = new_stateful(name, tmp_path_factory.mktemp("stateful"), "whole")
            run.fit()
            folders[name] = run.folder
        return folders[name]

    return folder


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize(("action", "step", "left"), [(sigterm, 8, 8), (kill, 9, 8), (kill, 3, 2)])
def test_what_remembers_earlier_batches_goes_on_inside_an_epoch(
    name, action, step, left, unbroken_stateful, tmp_path, monkeypatch
):
    """Momentum copy, queue, bank, clusters, the batch before: all come back."""
    with monkeypatch.context() as patch:
        act_after(patch, step, action)
        with pytest.raises(Interrupted if action is sigterm else Killed):
            new_stateful(name, tmp_path, "run", save_every=2).fit()
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["step"] == left
    run = new_stateful(name, tmp_path, "run", resume=True)
    run.fit()
    assert run_differences(unbroken_stateful(name), run.folder) == []
    assert "samix-c" != name or bool((run.method.mixup.clusters.state_dict()["labels"] >= 0).any())


def test_checkpoints_inside_an_epoch_can_be_asked_for_by_time(unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(samix.train.steps, "SYNC_EVERY", 2)
    steps, save = [], Run.save_last
    monkeypatch.setattr(Run, "save_last", lambda run: (steps.append(run.step), save(run)))
    folder = fit(small_recipe("samix", device_data=True, workers=0), tmp_path, save_minutes=1e-9)
    assert steps == [2, 4, 5, 6, 8, 10]
    assert run_differences(unbroken("samix", True, 0), folder) == []


def test_a_closed_terminal_is_as_sigterm_but_not_under_nohup(tmp_path, monkeypatch):
    act_after(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGHUP))
    with pytest.raises(Interrupted, match="stopped at step 3"):
        fit(small_recipe("cutmix"), tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(small_recipe("cutmix"), tmp_path, "nohup")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("damage", ["cut", "one byte", "gone"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(damage, unbroken, tmp_path, monkeypatch, capsys):
    recipe = small_recipe("samix", device_data=True, workers=0)
    with monkeypatch.context() as patch:
        act_after(patch, 8, sigterm)
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path)
    last = tmp_path / "run/last.pt"
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(SPOILT[damage](last.read_bytes()))
    folder = fit(recipe, tmp_path, resume=True)
    error = capsys.readouterr().err
    assert f"samix: {last} is {'missing' if damage == 'gone' else 'damaged'}" in error
    assert f"continuing from {last.with_name('last-1.pt')}, at step 5" in error
    assert error.count("last.pt") == 1
    assert (folder / "last.pt.damaged").is_file() == (damage != "gone")
    assert run_differences(unbroken("samix", True, 0), folder) == []


def test_nothing_but_damaged_checkpoints_is_refused(tmp_path, monkeypatch):
    fit(small_recipe("cutmix"), tmp_path)
    for name in ("last.pt", "last-1.pt"):
        (tmp_path / "run" / name).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"last\.pt is damaged"):
        fit(small_recipe("cutmix"), tmp_path, resume=True)
    with pytest.raises(ValueError, match="already holds a run"):
        fit(small_recipe("cutmix"), tmp_path)


def test_stopped_again_and_again(unbroken, tmp_path, monkeypatch):
    recipe = small_recipe("samix", device_data=True, workers=0)
    for _ in range(4):
        with monkeypatch.context() as patch:
            act_after(patch, 2, sigterm)
            with pytest.raises(Interrupted):
                fit(recipe, tmp_path, resume=True)
    assert run_differences(unbroken("samix", True, 0), fit(recipe, tmp_path, resume=True)) == []


def test_resume_of_a_finished_run_changes_nothing_and_of_none_begins(unbroken, tmp_path):
    recipe = small_recipe("cutmix", device_data=True, workers=0)
    fit(recipe, tmp_path, resume=True)
    assert run_differences(unbroken("cutmix", True, 0), fit(recipe, tmp_path, resume=True)) == []


def test_dropout_accumulation_and_other_optimisers_resume_too(tmp_path, monkeypatch):
    recipe = vit_recipe(
        "samix",
        model_args='{"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2, "drop_path_rate": 0.5}',
        optimizer="lamb",
        accumulate=2,
        clip=1.0,
        precision="no",
        mixup_options={"preset": "paper", "dropout": 0.3},
    )
    whole = fit(recipe, tmp_path, "whole")
    with monkeypatch.context() as patch:
        act_after(patch, 13, sigterm)  # backward passes: the first half of the seventh step
        with pytest.raises(Interrupted, match="step 7"):
            fit(recipe, tmp_path, "cut")
    assert run_differences(whole, fit(recipe, tmp_path, "cut", resume=True)) == []


def test_workers_do_not_change_a_run(unbroken, tmp_path):
    """Except its recipe, which names their number."""
    a = unbroken("cutmix", False, 0)
    b = fit(small_recipe("cutmix", device_data=False, workers=2), tmp_path)
    found = differences(*(torch.load(folder / "last.pt", weights_only=True) for folder in (a, b)))
    assert found == ["/recipe/workers: 0 and 2"]


def test_a_run_goes_on_with_other_workers(unbroken, tmp_path, monkeypatch):
    recipe = small_recipe("cutmix", device_data=False, workers=0)
    with monkeypatch.context() as patch:
        act_after(patch, 7, sigterm)
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path)
    folder = fit(dataclasses.replace(recipe, workers=2), tmp_path, resume=True)
    found = differences(*(torch.load(f / "last.pt", weights_only=True) for f in (unbroken("cutmix", False, 0), folder)))
    assert found == ["/recipe/workers: 0 and 2"]


def test_resuming_by_the_folder_needs_nothing_else(tmp_path, monkeypatch, capsys):
    """The recipe is the checkpoint's, and more epochs can be asked for."""
    with monkeypatch.context() as patch:
        act_after(patch, 7, sigterm)
        with pytest.raises(Interrupted):
            fit(small_recipe("cutmix", lr=0.05), tmp_path)
    flags = ["--device", "cpu", "--quiet", "--no-pictures"]
    assert main(["train", "--resume", str(tmp_path / "run"), *flags]) == 0, capsys.readouterr().err
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 10
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs", "3", *flags]) == 0
    assert recipe_of_run(tmp_path / "run") == small_recipe("cutmix", lr=0.05, epochs=3)
    assert main(["pretrain", "--resume", str(tmp_path / "run")]) == 2
    assert "is a run of samix train: samix train --resume" in capsys.readouterr().err


def test_words_of_another_run_are_refused_beside_the_folder_to_resume(tmp_path, capsys):
    folder, flags = tmp_path / "run", ["--device", "cpu", "--quiet", "--no-pictures"]
    fit(small_recipe("samix", mixup_options={"preset": "fast"}), tmp_path)
    for flag, value, own in (
        ("--mixup.preset", "paper", "with fast"),
        ("--recipe", "cifar-few", "with digits-quick"),
        ("--init", "lite0", "without"),
        ("--config", "a.yaml", "without"),
    ):
        assert main(["train", "--resume", str(folder), flag, value, *flags]) == 2
        assert f"{flag} {value} does not match {folder}, which was begun {own}; leave it out" in capsys.readouterr().err
    assert main(["train", "--resume", str(folder), "--mixup.preset", "fast", *flags]) == 0


def test_a_resumed_recipe_does_not_go_to_the_hub_unasked(tmp_path, capsys):
    folder = fit(small_recipe("cutmix", epochs=1), tmp_path)
    state = torch.load(folder / "last.pt", weights_only=True)
    state["recipe"]["mixup"] = "mixer:owner/name"
    write_sealed(folder / "last.pt", state)
    assert main(["train", "--resume", str(folder)]) == 2
    assert "would be fetched from the hub; allow it with --mixup mixer:owner/name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet152", "model_args": "{}"}, r"names a network of [\d,]+ parameters and holds [\d,]+ values"),
        ({"mixup_options": {"queue": 2**30}}, "sets queue to 1073741824, and none of its tensors is that long"),
    ],
)
def test_a_recipe_that_needs_more_memory_than_its_weights_is_not_resumed(tmp_path, capsys, changes, message):
    folder = fit(small_recipe("cutmix", epochs=1), tmp_path)
    state = torch.load(folder / "last.pt", weights_only=True)
    state["recipe"] |= changes
    write_sealed(folder / "last.pt", state)
    assert main(["train", "--resume", str(folder)]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_finished_run_can_get_more_epochs_and_an_unfinished_one_cannot(tmp_path, monkeypatch):
    recipe = small_recipe("cutmix")
    with monkeypatch.context() as patch:
        act_after(patch, 7, sigterm)
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path)
    longer = dataclasses.replace(recipe, epochs=3)
    with pytest.raises(ValueError, match="epochs was 2, is 3: a run gets more once it is finished"):
        fit(longer, tmp_path, resume=True)
    fit(recipe, tmp_path, resume=True)
    folder = fit(longer, tmp_path, resume=True)
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["recipe"]["epochs"] == 3
    assert recipe_of_run(folder) == longer
    with pytest.raises(ValueError, match="epochs was 3, is 2: a finished run can only get more"):
        fit(recipe, tmp_path, resume=True)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(unbroken, tmp_path):
    """A copy of a finished run's last checkpoint, to be spoilt."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.pt").write_bytes((unbroken("cutmix", True, 0) / "last.pt").read_bytes())
    return folder


def resume(folder, **changes):
    recipe = small_recipe("cutmix", **{"device_data": True, "workers": 0, **changes})
    fit(recipe, folder.parent, folder.name, resume=True)


def test_a_folder_with_a_run_is_refused_without_resume(finished):
    before = (finished / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"already holds a run; continue it with --resume, or .* --run NAME"):
        fit(small_recipe("cutmix"), finished.parent)
    assert (finished / "last.pt").read_bytes() == before
    assert not (finished / "metrics.jsonl").exists()


def test_another_recipe_is_refused_by_its_fields(finished):
    with pytest.raises(ValueError, match=r"of another recipe \(lr was 0.1, is 0.2; seed was 0, is 3\); resume with"):
        resume(finished, lr=0.2, seed=3)
    with pytest.raises(ValueError, match=r"mixup_options was \{\}, is \{'alpha': 0.5\}"):
        resume(finished, mixup_options={"alpha": 0.5})


def test_fields_that_a_checkpoint_lacks_were_what_their_defaults_are(finished, unbroken):
    state = torch.load(finished / "last.pt", weights_only=True)
    for name in ("loss", "bce_threshold", "decoupled_eta", "stem"):
        del state["recipe"][name]
    write_sealed(finished / "last.pt", state)
    with pytest.raises(ValueError, match=r"of another recipe \(stem was 'default', is 'small'\)"):
        resume(finished)
    state["recipe"]["stem"] = "small"
    write_sealed(finished / "last.pt", state)
    resume(finished)
    state["recipe"]["wings"] = 2
    write_sealed(finished / "last.pt", state)
    with pytest.raises(ValueError, match="a recipe has no wings"):
        resume(finished)


def test_other_data_is_refused(finished):
    state = torch.load(finished / "last.pt", weights_only=True)
    state["data"]["images"] = 99
    write_sealed(finished / "last.pt", state)
    with pytest.raises(ValueError, match=r"trained on other data \(images was 99, is 100\)"):
        resume(finished)


SPOILT = {
    "cut": lambda good: good[: len(good) // 2],
    "cut short": lambda good: good[:100],
    "empty": lambda good: b"",
    "text": lambda good: b"hello, this is no checkpoint\n",
    "noise": lambda good: random.Random(0).randbytes(5000),
    "pickle": lambda good: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "one byte": lambda good: good[:3000] + bytes([good[3000] ^ 255]) + good[3001:],
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_checkpoint_gives_one_line(kind, finished, capsys):
    path = finished / "last.pt"
    path.write_bytes(SPOILT[kind](path.read_bytes()))
    for command in (["evaluate", str(path)], ["show", str(path)]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert str(path) in error
        assert "is damaged" in error
        assert error.count("\n") == 1, error


@pytest.mark.parametrize(
    "state", [{"model": {}}, [1, 2], {"format": "new"}, {"format": 2}, torch.zeros(3), {"format": 2, "recipe": {}}]
)
def test_a_foreign_checkpoint_gives_one_line(state, finished, capsys):
    (finished / "last-1.pt").unlink(missing_ok=True)
    torch.save(state, finished / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt has no hash: .* or was not written by samix"):
        resume(finished)
    write_sealed(finished / "last.pt", state)
    with pytest.raises(ValueError, match="not a samix checkpoint"):
        resume(finished)
    assert main(["evaluate", str(finished / "last.pt")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_newer_format_is_refused(finished):
    state = torch.load(finished / "last.pt", weights_only=True)
    (finished / "last.pt").unlink()
    write_sealed(finished / "last.pt", {**state, "format": 99})
    with pytest.raises(ValueError, match="has format 99, this samix reads up to 2; update samix"):
        resume(finished)


def test_an_older_format_is_refused_in_one_line(finished, capsys):
    state = torch.load(finished / "last.pt", weights_only=True)
    write_sealed(finished / "last.pt", {**state, "format": 1})
    with pytest.raises(ValueError, match=r"last.pt is of an older version of samix \(format 1, this one reads 2\)"):
        resume(finished)
    assert main(["evaluate", str(finished / "last.pt")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_of_another_network_are_refused(finished):
    state = torch.load(finished / "last.pt", weights_only=True)
    state["method"]["model.fc.weight"] = torch.zeros(7, 16)
    state["method"]["stray"] = torch.zeros(1)
    write_sealed(finished / "last.pt", state)
    with pytest.raises(
        ValueError, match=r"another network: 1 unknown \(first: stray\), 1 of another shape or type \(first: mo"
    ):
        resume(finished)


def test_nothing_but_weights_is_asked_of_the_method_between_steps(tmp_path):
    """A resumed method knows its progress; there is no other state outside the checkpoint."""
    run = new_run(small_recipe("samix"), tmp_path)
    run.fit()
    again = new_run(small_recipe("samix"), tmp_path, resume=True)
    again.start(there=True)
    assert again.method.progress == run.method.progress == 1.0
    assert again.method.step == run.method.step == 10
    plain = {k for k, v in vars(Method()).items() if not k.startswith("_")}
    assert {k for k in vars(again.method) if not k.startswith("_")} - plain == {
        "options",
        "num_classes",
        "generator",
        "progress",
        "last_seen",  # of the loop, not of the training
        "mixer_seen",  # the same
        "kind",  # of the labels: settled again by the first batch
        "step",
    }


# Real processes -------------------------------------------------------------------------------------------------------


def start(folder, *flags, method="samix"):
    words = ["train", "--mixup", method, *SMALL_FLAGS, "--out", str(folder), "--run", "run", *flags]
    return started(main, words, log=folder / "process")


def wait_for_epoch(is_alive, folder):
    """Until the process has ended an epoch, or itself."""
    last = folder / "run/last.pt"
    before = last.stat().st_mtime_ns if last.is_file() else 0
    deadline = time.monotonic() + 120
    while is_alive() and not (last.is_file() and last.stat().st_mtime_ns != before):
        assert time.monotonic() < deadline
        time.sleep(0.002)


LONG = ["--epochs", "8", "--device-data", "--workers", "0"]


def test_a_process_killed_and_then_terminated_resumes_exactly(tmp_path):
    recipe, _ = parse_train(["--mixup", "samix", *SMALL_FLAGS, *LONG])
    whole = fit(recipe, tmp_path, "whole")
    process = start(tmp_path, *LONG)
    wait_for_epoch(process.is_alive, tmp_path)
    time.sleep(random.random() * 0.5)
    process.kill()
    process.wait()
    process = start(tmp_path, *LONG, "--resume")
    wait_for_epoch(process.is_alive, tmp_path)
    time.sleep(random.random() * 0.2)
    process.terminate()
    status = process.wait()
    assert status in (0, 130), process.error
    if status == 130:
        assert "stopped at step" in process.error
        assert "Traceback" not in process.error
    assert run_differences(whole, fit(recipe, tmp_path, "run", resume=True)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("method", "workers"), [("samix", 2), ("cutmix", 0), ("manifoldmix", 2)])
def test_processes_killed_at_random_moments_resume_exactly(method, workers, tmp_path):
    flags = ["--epochs", "8", "--no-device-data", "--workers", str(workers)]
    recipe, _ = parse_train(["--mixup", method, *SMALL_FLAGS, *flags])
    whole = fit(recipe, tmp_path, "whole")
    for kill_signal in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path / "cut", *flags, "--resume", method=method)
        wait_for_epoch(process.is_alive, tmp_path / "cut")
        time.sleep(random.random() * 0.5)
        process.send(kill_signal)
        process.wait()
    process = start(tmp_path / "cut", *flags, "--resume", method=method)
    assert process.wait() == 0, process.error
    assert run_differences(whole, tmp_path / "cut/run") == []


@pytest.mark.slow
def test_control_c_reaches_the_workers_too_and_the_state_is_saved(tmp_path):
    """A terminal sends SIGINT to the whole group of processes."""
    flags = ["--epochs", "40", "--no-device-data", "--workers", "2"]
    words = ["train", "--mixup", "cutmix", *SMALL_FLAGS, "--out", str(tmp_path), "--run", "run", *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", PLAIN_COMMAND, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_epoch(lambda: process.poll() is None, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130, error
    assert "stopped at step" in error
    assert "Traceback" not in error
