"""The plan of a comparison: the rows, each with its recipe, and a job for each row and seed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samix.compare.ablations import Variant
from samix.compare.tasks import ScoredTask, task_of
from samix.data import find_dataset
from samix.recipes import Recipe
from samix.recipes.build import MIXER
from samix.runtime.checks import Range
from samix.runtime.environment import pick_device
from samix.runtime.typed_options import CountOr0, check_options

SLOW = ("automix", "samix", "adautomix", "score", "samix-c")  # mixups that take longest


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
        equal_time: gives every row so many epochs that its run costs as much as the costliest row's, by counted
            operations.
        read: trains nothing: what is finished in ``out`` is read, also while another comparison works there.
        publish: path without ending, also to write the results to: PATH.md, PATH.json and PATH.png.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: where torchvision's data sets lie.
        download: fetch those that are missing.
        quiet: no table while it runs.
    """

    seeds: Annotated[int, Range(1, 1000)] = 3
    out: str = ""
    jobs: Annotated[int, Range(0, 1000)] = 0
    last: CountOr0 = 0
    reuse: str = ""
    equal_time: bool = False
    read: bool = False
    publish: str = ""
    device: str = "auto"
    data_root: str = "data"
    download: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        pick_device(self.device)  # refuses one that is not there


@dataclass(frozen=True)
class Entry:
    """One row of the comparison."""

    label: str  # name in tables
    mixup: str  # its name, or mixer:PATH
    recipe: Recipe  # with seed 0
    variant: Variant  # as the user or an ablation named it
    published: float | None = None  # score of the recipe for this mixup, where its options are the recipe's


@dataclass(frozen=True, eq=False)  # compared by identity
class Job:
    """One run: a row with a seed, and its folder."""

    label: str  # of the row
    seed: int  # of the run
    recipe: Recipe  # with this seed
    folder: Path  # of the run
    after: Path | None = None  # folder of the run whose Mixer it uses, which must be finished before; None for most
    mixers: tuple[int, ...] = ()  # epochs after which its own Mixer is kept for other rows


@dataclass(frozen=True)
class Plan:
    """A comparison: its rows, the named recipe and the fields that differ from it, and the jobs in starting order."""

    recipe_name: str
    entries: tuple[Entry, ...]
    overrides: dict[str, object]
    options: CompareOptions
    jobs: tuple[Job, ...]
    ablations: tuple[str, ...] = ()

    @property
    def task(self) -> ScoredTask:
        """Training with labels, or without."""
        return task_of(self.recipe_name)

    @property
    def out(self) -> Path:
        """The folder of the comparison."""
        return Path(self.options.out or f"runs/compare-{self.recipe_name}")

    @property
    def last(self) -> int:
        """Evaluations at the end of a run over which the median is taken."""
        return self.options.last or median_epochs(self.entries[0].recipe)


def median_epochs(recipe: Recipe) -> int:
    """Returns the published number: 5 for ImageNet, iNaturalist and Places in up to 100 epochs, else 10."""
    return find_dataset(recipe.data)[0].last_evaluations if recipe.epochs <= 100 else 10


def order_jobs(plan: Plan) -> tuple[Job, ...]:
    """Orders the jobs seed by seed; within a seed the slow mixups come first, so that none runs alone at the end.

    A row that uses another row's Mixer comes after that row, and makes it keep the Mixer.
    """
    folders = {
        (e.label, seed): plan.out / f"{re.sub(r'[^A-Za-z0-9_.=,-]+', '-', e.label)}-s{seed}"
        for seed in range(plan.options.seeds)
        for e in plan.entries
    }
    if len(set(folders.values())) < len(folders):
        raise ValueError("two rows have names that differ only in signs that a folder's name cannot have")
    kept = {e.label: kept_mixers(plan, e.label) for e in plan.entries}
    jobs = []
    for seed in range(plan.options.seeds):
        for entry in sorted(plan.entries, key=lambda e: (bool(e.variant.mixer_of), e.mixup not in SLOW)):
            recipe, after = dataclasses.replace(entry.recipe, seed=seed), None
            if entry.variant.mixer_of:
                after = folders[entry.variant.mixer_of, seed]
                mixer = after / mixer_folder(epoch_of(entry.variant.at, recipe), recipe)
                recipe = dataclasses.replace(recipe, mixup=f"{MIXER}{mixer}")
            jobs.append(Job(entry.label, seed, recipe, folders[entry.label, seed], after, kept[entry.label]))
    return tuple(jobs)


def epoch_of(share: float, recipe: Recipe) -> int:
    """Returns the epoch that ends a share of a run, at least 1."""
    return max(round(share * recipe.epochs), 1)


def mixer_folder(epoch: int, recipe: Recipe) -> str:
    """Names the folder of a run's Mixer after an epoch."""
    return "mixer" if epoch == recipe.epochs else f"mixer-epoch-{epoch}"


def kept_mixers(plan: Plan, label: str) -> tuple[int, ...]:
    """Returns the epochs before the last after which other rows use a row's Mixer."""
    users = [e for e in plan.entries if e.variant.mixer_of == label]
    epochs = {epoch_of(e.variant.at, e.recipe) for e in users if epoch_of(e.variant.at, e.recipe) < e.recipe.epochs}
    return tuple(sorted(epochs))


def move_source(job: Job, moved: Mapping[Path, Path]) -> Job:
    """Takes the Mixer of a job from the folder to which its source has moved."""
    if job.after is None or job.after not in moved:
        return job
    mixer = moved[job.after] / Path(job.recipe.mixup.removeprefix(MIXER)).name
    recipe = dataclasses.replace(job.recipe, mixup=f"{MIXER}{mixer}")
    return dataclasses.replace(job, recipe=recipe, after=moved[job.after])
