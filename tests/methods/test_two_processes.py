"""A bare loop of two processes: DistributedDataParallel around a learned mixup, without a flag."""

import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from process_groups import work_in_two
from tiny_networks import tiny_cnn
from torch.nn.parallel import DistributedDataParallel

import samix

CASES = {
    "samix-fast": (samix.SAMix, "fast"),
    "automix-fast": (samix.AutoMix, "fast"),
    "samix-paper": (samix.SAMix, "paper"),
    "adautomix": (samix.AdAutoMix, "reference"),
}


def work(out: Path) -> None:
    """Trains each method for four steps on images of this rank, and saves its parameters."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    for name, (cls, preset) in CASES.items():
        torch.manual_seed(0)
        method = cls(tiny_cnn(), 5, preset, generator=torch.Generator().manual_seed(rank))
        wrapped = DistributedDataParallel(method)
        optimizer = torch.optim.AdamW(method.parameter_groups(lr=0.01))
        start = torch.cat([p.detach().flatten() for p in method.parameters() if p.requires_grad])
        for step in range(4):
            torch.manual_seed(10 * step + rank)
            loss, _ = wrapped(torch.randn(4, 3, 32, 32), torch.arange(4))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step((step + 1) / 4)
        trained = torch.cat([p.detach().flatten() for p in method.parameters() if p.requires_grad])
        averaged = torch.cat([p.flatten() for p in method.ema_model.parameters()])
        torch.save((start, trained, averaged), out / f"{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return work_in_two(work, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("name", CASES)
def test_both_processes_end_with_the_same_weights_and_averages(folder, name):
    (start, trained, averaged), (_, other, other_averaged) = (
        torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)
    )
    assert torch.equal(trained, other)
    assert torch.equal(averaged, other_averaged)
    assert not torch.equal(trained, start)
