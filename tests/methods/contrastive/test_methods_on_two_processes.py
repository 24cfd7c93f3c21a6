"""Every self-supervised method with every kind of mixup on two processes: declared parts, no hang, no drift."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from process_groups import work_in_two
from torch import nn
from view_networks import trunk

from samix import SSL_METHODS, CutMix, PseudoLabelOptions, RandomChoice, SAMixCOptions, SAMixer, SAMixIOptions
from samix.methods.contrastive.base import ViewMethod
from samix.mixups.handmade import MixUp, NoMixup
from samix.mixups.inter_intra import InterIntraMix
from samix.runtime import distributed

IMAGES, BATCH, STEPS = 32, 8, 4
SMALL = {"dim": 6, "hidden": 8, "queue": 32, "groups": 2, "prototypes": 7, "hardest": 8, "pairs": 4, "with_query": 2}
SMALL |= {"freeze_steps": 1, "queue_from": 0.0, "start": 0.0}
CLUSTERS = {"clusters": 4, "min_cluster": 2, "warmup_epochs": 1, "centroid_every": 1, "repair_every": 1}
MIXUPS = {
    "vanilla": lambda: {"mixup": NoMixup()},
    "cutmix": lambda: {"mixup": CutMix()},
    "choice": lambda: {"mixup": RandomChoice([MixUp(), CutMix()])},  # processes draw differently
    "samix": lambda: {"mixup": SAMixer(12), "mixup_options": SAMixIOptions(), "feature": "body"},
    "samix-c": lambda: {
        **{"mixup": SAMixer(12), "mixup_options": SAMixCOptions(**CLUSTERS), "feature": "body", "images": IMAGES + 1}
    },
    "interintra": lambda: {
        **{"mixup": InterIntraMix(), "mixup_options": PseudoLabelOptions(**CLUSTERS), "images": IMAGES + 1}
    },
}
LEARNED = ("samix", "samix-c", "interintra")


def takes(cls: type[ViewMethod], mixup: str) -> bool:
    if mixup == "vanilla":
        return True
    return not cls.fixed_mixing and (mixup not in LEARNED or cls.trains_mixer)


MATRIX = [(name, mixup) for name, cls in SSL_METHODS.items() for mixup in MIXUPS if takes(cls, mixup)]


def build(name: str, mixup: str) -> ViewMethod:
    torch.manual_seed(0)
    cls = SSL_METHODS[name]
    options = next(iter(cls.presets.values()))
    small = {key: value for key, value in SMALL.items() if hasattr(options, key)}
    generator = torch.Generator().manual_seed(1 + distributed.rank())
    return cls(trunk(norm=True), dataclasses.replace(options, **small), generator=generator, **MIXUPS[mixup]())


def train(method: ViewMethod, rank: int) -> list[list[str]]:
    """A few steps with the gradients of all processes; gives the names of the parts of each step."""
    parallel = nn.parallel.DistributedDataParallel(method, broadcast_buffers=False)
    optimizer = torch.optim.SGD(method.parameter_groups(0.05), 0.05, momentum=0.9)
    names = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(10 * step + rank)
        views = torch.randn(2, BATCH, 3, 16, 16, generator=generator)
        ids = (torch.arange(BATCH) + BATCH * (2 * step + rank)) % IMAGES
        loss, parts = parallel(views[0], views[1], ids)
        assert loss.isfinite()
        assert set(parts) <= set(method.loss_parts), (set(parts), method.loss_parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / STEPS)
        names.append(sorted(parts))
    return names


def work(out: Path) -> None:
    warnings.filterwarnings("error", message=".*find_unused_parameters.*")
    torch.distributed.init_process_group("gloo")
    rank, results = distributed.rank(), {}
    for name, mixup in MATRIX:
        try:
            method = build(name, mixup)
            names = train(method, rank)
            trained = [p.detach().clone() for p in method.parameters()]
            results[f"{name}/{mixup}"] = {"declared": list(method.loss_parts), "names": names, "trained": trained}
        except Exception as error:
            raise RuntimeError(f"{name} with {mixup} fails on process {rank}") from error
    torch.save(results, out / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = work_in_two(work, tmp_path_factory.mktemp("two"))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("name", "mixup"), MATRIX)
def test_processes_agree_on_parts_and_on_parameters(name, mixup, ranks):
    first, second = (rank[f"{name}/{mixup}"] for rank in ranks)
    assert first["declared"] == second["declared"]
    assert len(set(first["declared"])) == len(first["declared"])
    assert first["names"] == second["names"]
    for one, other in zip(first["trained"], second["trained"], strict=True):
        assert torch.equal(one, other)


def test_every_method_and_every_kind_of_mixup_is_in_the_matrix():
    assert {name for name, _ in MATRIX} == set(SSL_METHODS)
    assert {mixup for _, mixup in MATRIX} == set(MIXUPS)
    assert ("moco", "samix-c") in MATRIX
    assert ("barlow", "cutmix") not in MATRIX
