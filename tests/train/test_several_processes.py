"""The command on several processes: stopped together, ended together, refused where it cannot work."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from process_groups import group
from runs import SMALL_FLAGS, small_recipe

import samix
from samix.cli.main import main
from samix.runtime.distributed import AsyncFlag, lost_process
from samix.train import Run, RunOptions

LONG = [*SMALL_FLAGS, "--epochs", "2000", "--eval-every", "2000", "--mixup", "samix", "--run", "run"]


def train_and_fail_on_rank_1(words):
    """The command, in which one process cannot go on after three steps."""
    if os.environ["RANK"] == "1":
        train_step = Run.train_step

        def fails(run, batch):
            if run.step == 3:
                raise ValueError("image 7 is damaged")
            train_step(run, batch)

        Run.train_step = fails
    return main(words)


def train(folder, *flags, count=2, function=main):
    """The command on so many processes."""
    return group(function, ["train", *LONG, "--out", str(folder), *flags], folder=folder, count=count)


def wait_for_lines(processes, path: Path, count: int) -> None:
    """Until a log has so many lines."""
    until = time.monotonic() + 120
    while not path.is_file() or len(path.read_text().splitlines()) < count:
        ended = [process.error for process in processes if not process.is_alive()]
        assert not ended, ended
        assert time.monotonic() < until, "the run did not begin"
        time.sleep(0.05)


def ends(processes) -> list[tuple[int, str]]:
    """Status and standard error of each."""
    return [(process.wait(60), process.error) for process in processes]


def stopped_step(error: str) -> int:
    lines = [line for line in error.splitlines() if line.startswith("samix: stopped at step ")]
    assert len(lines) == 1, error
    return int(lines[0].split(";")[0].split()[-1])


def test_sigterm_to_one_of_two_stops_both_at_the_same_step_and_saves(tmp_path):
    folder = tmp_path / "run"
    with train(tmp_path) as processes:
        wait_for_lines(processes, folder / "metrics.jsonl", 2)
        processes[1].send(signal.SIGTERM)
        (first, error), (second, other_error) = ends(processes)
    assert (first, second) == (130, 130), (error, other_error)
    step = stopped_step(error)
    assert stopped_step(other_error) == step
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == step


def test_where_one_of_two_is_killed_the_other_ends_and_says_so(tmp_path):
    folder = tmp_path / "run"
    with train(tmp_path) as processes:
        wait_for_lines(processes, folder / "metrics.jsonl", 2)
        processes[1].kill()
        (status, error), (killed, _) = ends(processes)
    assert (status, killed) == (1, -signal.SIGKILL)
    last = error.strip().splitlines()[-1]
    assert last.startswith("samix: process 0 of 2 lost the connection to another one"), error
    assert "Start all processes again with --resume" in last
    assert "Traceback" not in error
    assert torch.load(folder / "last.pt", weights_only=True)["step"] >= 10  # the checkpoint is whole


def test_where_one_of_two_fails_it_says_why_and_the_other_that_it_is_gone(tmp_path):
    with train(tmp_path, function=train_and_fail_on_rank_1) as processes:
        (first, error), (second, other_error) = ends(processes)
    assert (first, second) == (1, 1)
    assert "samix: image 7 is damaged" in other_error.splitlines()
    assert "lost the connection to another one" in error
    assert "Traceback" not in error + other_error


@pytest.mark.slow
def test_four_processes_train_stop_and_resume(tmp_path):
    folder = tmp_path / "run"
    with train(tmp_path, count=4) as processes:
        wait_for_lines(processes, folder / "metrics.jsonl", 1)
        for process in processes:  # as a scheduler does
            process.send(signal.SIGTERM)
        found = ends(processes)
    assert [status for status, _ in found] == [130] * 4
    steps = {stopped_step(error) for _, error in found}
    assert len(steps) == 1
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    with train(tmp_path, "--resume", count=4) as processes:
        wait_for_lines(processes, folder / "metrics.jsonl", done + 1)
        processes[3].send(signal.SIGINT)
        found = ends(processes)
    assert [status for status, _ in found] == [130] * 4
    assert min(stopped_step(error) for _, error in found) > max(steps)


def fit(out):
    """A user's script."""
    images = torch.arange(40 * 3 * 8 * 8, dtype=torch.uint8).view(40, 3, 8, 8)
    samples = [(image, row % 2) for row, image in enumerate(images)]
    result = samix.fit("test_resnet", "cutmix", train=samples, epochs=1, batch_size=8, out=out, pictures=False)
    weights = sum(float(p.detach().double().sum()) for p in result.model.parameters())
    print(result.summary["processes"], len(result.history), weights, flush=True)


def test_fit_trains_one_network_on_two_processes(tmp_path):
    """What torchrun starts: the same script on every rank; all get the same weights, and the first one prints."""
    with group(fit, str(tmp_path), folder=tmp_path) as both:
        assert [process.wait() for process in both] == [0, 0], [process.error for process in both]
    outputs = [process.output for process in both]
    last = [out.splitlines()[-1].split() for out in outputs]
    assert last[0] == last[1]
    assert last[0][:2] == ["2", "1"]
    assert "top-1" in outputs[0]
    assert "top-1" not in outputs[1]
    assert (tmp_path / "images-cutmix-s0/export/model.safetensors").is_file()


def test_one_process_stops_at_once():
    flag = AsyncFlag()
    assert [flag.any(mine) for mine in (False, True, False)] == [False, True, False]


def test_an_error_of_one_process_alone_is_left_as_it_is():
    assert lost_process(RuntimeError("gloo: Connection closed by peer")) is None


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
    ],
)
def test_weights_in_pieces_are_refused_with_the_reason(variable, name, monkeypatch, tmp_path):
    """These are what `accelerate launch --use_fsdp`, `--use_deepspeed` and `--use_megatron_lm` set."""
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ValueError, match=rf"configured for {name}, .* need whole weights\. Launch plain data"):
        Run(small_recipe(), RunOptions(out=str(tmp_path), device="cpu"))
    assert not list(tmp_path.iterdir())
