"""Two processes with half a batch each do what one does with the whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_groups import free_port, work_in_two
from runs import PLAIN_COMMAND, ROOT, SMALL_FLAGS, fit, new_run, rows, small_recipe, vit_recipe

from samix.methods.automix import AutoMix
from samix.methods.learned import Draw
from samix.mixups.base import sample_lam
from samix.train import Interrupted

BATCH, HALVES = 20, 2


def draw_by_halves(method: AutoMix, batch_size: int, device: torch.device) -> Draw:
    """Pairs within each half of the batch, and a lam for each half: what two processes draw, also on one."""
    half = BATCH // HALVES
    world = int(os.environ.get("WORLD_SIZE", "1"))
    mine = range(HALVES) if world == 1 else [int(os.environ["RANK"])]
    assert batch_size == half * len(mine)
    method.calls = getattr(method, "calls", 0) + 1
    lams, rows_ = [], []
    for place, number in enumerate(mine):
        generator = torch.Generator().manual_seed(1000 * method.calls + number)
        lams.append(sample_lam(2.0, half, generator=generator))
        rows_.append(torch.randperm(half, generator=generator) + place * half)
    return Draw(torch.cat(lams), torch.cat(rows_))


# One step per epoch, so that metrics.jsonl holds the loss of every step; an image's augmentation is its own.
STEPS = {
    "lr": 0.3,
    "limit": BATCH,
    "batch_size": BATCH,
    "epochs": 10,
    "eval_every": 10,
    "device_data": False,
    "workers": 0,
}
SAMIX = {"norm": "layer", "mask_over_batch": False, "ema_decay": 0.9}
EQUAL = {
    "vanilla": vit_recipe("vanilla", **STEPS),
    "samix": vit_recipe("samix", mixup_options=SAMIX, **STEPS),
    "clean": vit_recipe("vanilla", clean_weight=0.5, **STEPS),
}


def work(out: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    draw, AutoMix.draw = AutoMix.draw, draw_by_halves
    for name, recipe in EQUAL.items():
        fit(recipe, out, name)
    AutoMix.draw = draw
    rank = os.environ["RANK"]
    clean = small_recipe("manifoldmix", clean_weight=0.5)
    for name, recipe in (("vanilla", small_recipe("vanilla")), ("samix", small_recipe("samix")), ("clean", clean)):
        run = new_run(recipe, out, f"short-{name}")
        run.fit()
        torch.save(run.method.state_dict(), out / f"short-{name}-rank{rank}.pt")
    stop_and_resume(out, rank)
    torch.distributed.destroy_process_group()


def stop_and_resume(out: Path, rank: str) -> None:
    """One process is asked to stop in the third step; both do, after the fourth."""
    recipe = small_recipe("samix", limit=200)
    run = new_run(recipe, out, "stopped")
    step = run.train_step

    def asked(batch: object) -> None:
        step(batch)
        run.stopping = run.stopping or (rank == "1" and run.step == 2)

    run.train_step = asked
    with pytest.raises(Interrupted, match="stopped at step 4"):
        run.fit()
    for name, options in (("stopped", {"resume": True}), ("unbroken", {})):
        run = new_run(recipe, out, name, **options)
        run.fit()
        torch.save(run.method.state_dict(), out / f"{name}-rank{rank}.pt")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder in which two processes have worked."""
    return work_in_two(work, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(("mixup", "tolerance"), [("vanilla", 1e-5), ("samix", 1e-4), ("clean", 1e-5)])
def test_two_processes_follow_the_loss_curve_of_one(mixup, tolerance, out, tmp_path, monkeypatch):
    """Networks without BatchNorm; for SAMix the draws are those of the halves on either side."""
    monkeypatch.setattr(AutoMix, "draw", draw_by_halves)
    one, two = rows(fit(EQUAL[mixup], tmp_path)), rows(out / mixup)
    assert [row["step"] for row in two] == list(range(1, 11))
    parts = {
        "vanilla": ("loss", "mixed"),
        "samix": ("loss", "clean", "mixed", "generation", "mask", "mask_error"),
        "clean": ("loss", "mixed", "clean"),
    }[mixup]
    for part in parts:
        assert [row[part] for row in two] == pytest.approx([row[part] for row in one], abs=tolerance), part
    own = "mixed" if mixup == "vanilla" else "clean"
    assert max(row[own] for row in one) - min(row[own] for row in one) > 0.01  # the curve is no straight line
    for key in ("top1", "nll"):
        assert two[-1][key] == pytest.approx(one[-1][key], rel=1e-3)


@pytest.mark.parametrize("mixup", ["vanilla", "samix"])
def test_a_short_run_on_two_processes_leaves_whole_files(mixup, out):
    folder = out / f"short-{mixup}"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["processes"] == 2
    assert len(rows(folder)) == 2
    names = {"recipe.json", "metrics.jsonl", "last.pt", "last-1.pt", "best.pt", "summary.json", "export"}
    optional = {"mixer", "last-1.pt", ".lock"} if mixup == "samix" else {"last-1.pt", ".lock"}
    left = {path.name for path in folder.iterdir()}
    assert names <= left <= names | optional  # no temporary is left either


@pytest.mark.parametrize("name", ["short-vanilla", "short-samix", "short-clean", "stopped", "unbroken"])
def test_both_processes_end_with_the_same_weights(name, out):
    """BatchNorm's statistics and the averaged copy among them, and they are those that were saved."""
    first, second = (torch.load(out / f"{name}-rank{rank}.pt", weights_only=True) for rank in (0, 1))
    saved = torch.load(out / name / "last.pt", weights_only=True)["method"]
    assert set(first) == set(second) == set(saved)
    for key in first:
        assert torch.equal(first[key], second[key]), key
        assert torch.equal(first[key], saved[key]), key


def test_a_run_stopped_by_one_of_two_processes_resumes_exactly(out):
    first, second = (torch.load(out / f"{name}-rank0.pt", weights_only=True) for name in ("stopped", "unbroken"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    for a, b in zip(rows(out / "stopped"), rows(out / "unbroken"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.slow
def test_torchrun_starts_the_command(tmp_path):
    """The launcher for several CPU processes: `accelerate launch --cpu --num_processes 2` starts one, as of 1.15."""
    (tmp_path / "command.py").write_text(PLAIN_COMMAND, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    done = subprocess.run(
        [*launch, str(tmp_path / "command.py"), "train", "--out", str(tmp_path / "runs"), *SMALL_FLAGS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/digits-quick-samix-s0/summary.json").read_text(encoding="utf-8"))
    assert summary["processes"] == 2
    assert done.stdout.count("top-1") == 1
