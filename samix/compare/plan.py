"""What is to be run: the mixups compared, each with its recipe, and a job for each mixup and seed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samix.compare.ablations import Variant
from samix.compare.tasks import ScoredTask, task_of
from samix.data import find_dataset
from samix.recipes import Recipe
from samix.recipes.build import MIXER
from samix.runtime.checks import check_number

TRAINED = ("automix", "samix", "adautomix", "samix-c")  # mixups that take longest


@dataclass(frozen=True)
class CompareOptions:
    """How a comparison is run; nothing here changes a run's result.

    Args:
        seeds: runs of each mixup, with seeds 0, 1, ...
        out: folder of the comparison; empty is runs/compare-RECIPE.
        jobs: runs side by side; 0 takes one for each CPU core, or one on a GPU.
        last: epochs at the end over whose evaluations the median is taken; 0 takes 5 for ImageNet, iNaturalist and
            Places in up to 100 epochs, else 10.
        reuse: folder of runs, as ``samix train --out`` leaves them; those of exactly the same recipe are read.
        read: trains nothing: what is finished in ``out`` is read, also while another comparison works there.
        publish: path without ending, also to write the results to: PATH.md, PATH.json and PATH.png.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: where torchvision's data sets lie.
        download: fetch those that are missing.
        quiet: no table while it runs.
    """

    seeds: int = 3
    out: str = ""
    jobs: int = 0
    last: int = 0
    reuse: str = ""
    read: bool = False
    publish: str = ""
    device: str = "auto"
    data_root: str = "data"
    download: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        check_number("seeds", self.seeds, 1, integer=True)
        for name in ("jobs", "last"):
            check_number(name, getattr(self, name), 0, integer=True)


@dataclass(frozen=True)
class Entrant:
    """One of the mixups compared.

    Args:
        label: as tables name it.
        mixup: its name, or mixer:PATH.
        recipe: with seed 0.
        variant: how it was named.
        published: of the recipe for this mixup, where its options are the recipe's.
    """

    label: str
    mixup: str
    recipe: Recipe
    variant: Variant
    published: float | None = None


@dataclass(frozen=True, eq=False)  # known by being the same object
class Job:
    """One run: an entrant with a seed, and where it lies.

    Args:
        label: of its entrant.
        seed: of the run.
        recipe: with this seed.
        folder: of the run.
        after: folder of the run whose Mixer it uses, which must be finished before; None for most.
        mixers: epochs after which its own Mixer is kept, since others use it.
    """

    label: str
    seed: int
    recipe: Recipe
    folder: Path
    after: Path | None = None
    mixers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A comparison: who, under which recipe, how, and the jobs in the order in which they start.

    ``overrides`` are the recipe's fields that differ from the named recipe.
    """

    recipe_name: str
    entrants: tuple[Entrant, ...]
    overrides: dict[str, Any]
    options: CompareOptions
    jobs: tuple[Job, ...]
    ablations: tuple[str, ...] = ()

    @property
    def task(self) -> ScoredTask:
        """With labels, or without."""
        return task_of(self.recipe_name)

    @property
    def out(self) -> Path:
        """The folder of the comparison."""
        return Path(self.options.out or f"runs/compare-{self.recipe_name}")

    @property
    def last(self) -> int:
        """Evaluations at the end of a run over which the median is taken."""
        return self.options.last or median_epochs(self.entrants[0].recipe)


def median_epochs(recipe: Recipe) -> int:
    """The published rule: 5 for ImageNet, iNaturalist and Places in up to 100 epochs, else 10."""
    return find_dataset(recipe.data)[0].last_evaluations if recipe.epochs <= 100 else 10


def order_jobs(plan: Plan) -> tuple[Job, ...]:
    """Seed by seed; within a seed learned mixups first, since they take longest and would otherwise end alone.

    A row that mixes by another's Mixer comes after that one, and asks it to keep the Mixer.

    Raises:
        ValueError: two rows would lie in one folder.
    """
    folders = {(e.label, seed): folder_of(plan, e, seed) for seed in range(plan.options.seeds) for e in plan.entrants}
    if len(set(folders.values())) < len(folders):
        raise ValueError("two rows have names that differ only in signs that a folder's name cannot have")
    kept = {e.label: kept_mixers(plan, e.label) for e in plan.entrants}
    jobs = []
    for seed in range(plan.options.seeds):
        for entrant in sorted(plan.entrants, key=lambda e: (bool(e.variant.mixer_of), e.mixup not in TRAINED)):
            recipe, after = dataclasses.replace(entrant.recipe, seed=seed), None
            if entrant.variant.mixer_of:
                after = folders[entrant.variant.mixer_of, seed]
                place = after / mixer_folder(epoch_of(entrant.variant.at, recipe), recipe)
                recipe = dataclasses.replace(recipe, mixup=f"{MIXER}{place}")
            jobs.append(Job(entrant.label, seed, recipe, folders[entrant.label, seed], after, kept[entrant.label]))
    return tuple(jobs)


def folder_of(plan: Plan, entrant: Entrant, seed: int) -> Path:
    """Where a run lies."""
    return plan.out / f"{re.sub(r'[^A-Za-z0-9_.=,-]+', '-', entrant.label)}-s{seed}"


def epoch_of(share: float, recipe: Recipe) -> int:
    """The epoch that ends a share of a run; the first at least."""
    return max(round(share * recipe.epochs), 1)


def mixer_folder(epoch: int, recipe: Recipe) -> str:
    """The folder, inside a run's, of its Mixer after an epoch."""
    return "mixer" if epoch == recipe.epochs else f"mixer-epoch-{epoch}"


def kept_mixers(plan: Plan, label: str) -> tuple[int, ...]:
    """The epochs before the end after which others want a row's Mixer."""
    users = [(e.variant.at, e.recipe) for e in plan.entrants if e.variant.mixer_of == label]
    return tuple(sorted({epoch_of(at, recipe) for at, recipe in users if epoch_of(at, recipe) < recipe.epochs}))


def move_source(job: Job, moved: Mapping[Path, Path]) -> Job:
    """A job whose source lies elsewhere takes its Mixer from there."""
    if job.after is None or job.after not in moved:
        return job
    place = moved[job.after] / Path(job.recipe.mixup.removeprefix(MIXER)).name
    recipe = dataclasses.replace(job.recipe, mixup=f"{MIXER}{place}")
    return dataclasses.replace(job, recipe=recipe, after=moved[job.after])
