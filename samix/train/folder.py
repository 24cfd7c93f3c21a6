"""The folder of a run: who may write it, what a checkpoint of it must share with the run that continues it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from samix.data import ImageData
from samix.networks.untrusted import LARGEST_NUMBER, check_parameters
from samix.recipes import Recipe
from samix.recipes.build import build_network
from samix.recipes.pretrain_recipe import PretrainRecipe, recipe_of
from samix.runtime.atomic_files import remove_temporaries
from samix.runtime.checks import Values, suggest_folder
from samix.runtime.console import tell
from samix.runtime.distributed import raise_together
from samix.runtime.lock import LOCK, exclusive
from samix.train.checkpoint import LAST, State, kept_files, load_last

OTHER_NAME = "choose another name with --run NAME"
BEFORE_TRAINING = {LOCK, "recipe.json", "metrics.jsonl", "views.png", "bad-images.txt", "log.txt", "cost.json"}
SIZES = ("queue", "dim", "hidden", "clusters", "prototypes")  # options that tensors are made by
NOT_COMPARED = ("workers", "epochs", "data")  # fields of a recipe that a continued run may change, or checked apart


@contextmanager
def claimed(folder: Path, resume: bool, chief: bool, patience: float = 0.0) -> Iterator[bool]:
    """Holds a run's folder, on the first of its processes, and says whether there is a run to continue."""
    with ExitStack() as stack:
        error: Exception | None = None
        if chief:
            try:
                check_folder(folder, resume)
                stack.enter_context(exclusive(folder, "samix train", f"wait for it, or {OTHER_NAME}", patience))
                check_folder(folder, resume)  # again: another process may have finished in between
                remove_temporaries(folder)
            except (ValueError, RuntimeError) as refused:
                error = refused
        raise_together(error)
        yield any(path.is_file() for path in kept_files(folder / LAST))


def check_folder(folder: Path, resume: bool) -> None:
    """Raises ValueError unless a run may write into this folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; {OTHER_NAME}")
    if any(path.is_file() for path in kept_files(folder / LAST)):
        if not resume:
            raise ValueError(f"{folder} already holds a run; continue it with --resume, or {OTHER_NAME}")
        return
    names = {path.name for path in folder.iterdir()}
    foreign = sorted(n for n in names - BEFORE_TRAINING if not n.startswith((".", "bad-batch")))
    if "recipe.json" in names:
        rows = folder / "metrics.jsonl"
        epochs = rows.read_bytes().count(b"\n") if rows.is_file() else 0
        begun = epochs <= 1 and set(foreign) <= {"best.pt"}  # killed before the first last.pt was written
        if (foreign or epochs) and not (resume and begun):
            raise ValueError(f"{folder} holds a run whose last.pt is gone; {OTHER_NAME}, or move the folder")
    elif foreign:
        raise ValueError(f"{folder} is not empty and holds no run (it has {foreign[0]!r}); {OTHER_NAME}")


def describe_data(data: ImageData) -> Values:
    """Returns the description of its data that a checkpoint holds."""
    return {
        "name": data.name,
        "images": len(data.train),
        "classes": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
        "native_size": data.native_size,
    }


def check_same(state: State, recipe: Recipe, data: ImageData, steps_per_epoch: int, path: Path) -> None:
    """Compares a checkpoint with the run that is to continue it. A finished run may get more epochs."""
    # Fields that are newer than the checkpoint were then what their defaults are.
    old, new = (json.loads(json.dumps(r.to_dict())) for r in (recipe_of(state["recipe"]), recipe))
    differing = [
        f"{k} was {old.get(k)!r}, is {new[k]!r}" for k in new if old.get(k) != new[k] and k not in NOT_COMPARED
    ]
    finished = state["step"] >= old["epochs"] * steps_per_epoch
    if new["epochs"] != old["epochs"] and not (finished and new["epochs"] > old["epochs"]):
        how = "a finished run can only get more" if finished else "a run gets more once it is finished"
        differing.append(f"epochs was {old['epochs']}, is {new['epochs']}: {how}")
    now = describe_data(data)
    changed = [f"{k} was {v!r}, is {now.get(k)!r}" for k, v in state["data"].items() if now.get(k) != v]
    if old["data"] != new["data"]:  # may have been moved
        if changed:
            differing.append(f"data was {old['data']!r}, is {new['data']!r}")
        else:
            tell(
                f"samix: the data were {old['data']}, are {new['data']} now: the same count of images, the same classes"
            )
    if differing:
        raise ValueError(f"{path} is of another recipe ({'; '.join(differing)}); resume with the same options")
    if changed:
        raise ValueError(f"{path} was trained on other data ({'; '.join(changed)}); restore it, or start another run")


def recipe_of_run(folder: Path) -> Recipe:
    """Returns the recipe of the newest whole checkpoint in a run's folder, for ``--resume FOLDER``."""
    if not folder.is_dir():
        named = Path("runs") / folder
        hint = f"; did you mean {named}?" if named.is_dir() else suggest_folder(folder)
        raise FileNotFoundError(f"--resume {folder}: no such folder; give the folder of a run, such as runs/NAME{hint}")
    last = load_last(folder)
    recipe = recipe_of(last.state["recipe"])
    check_sizes(recipe, last.state, last.path)
    return recipe


def check_sizes(recipe: Recipe, state: State, path: Path) -> None:
    """Refuses a recipe that needs more memory than its checkpoint's weights are worth, before anything is built.

    Raises:
        ValueError: a network of more parameters than the file has values, or an option that asks for a longer queue or
            more features than any of its tensors has.
    """
    held, recipe = state["method"], dataclasses.replace(recipe, pretrained=False)
    classes = 0 if isinstance(recipe, PretrainRecipe) else len(state["data"]["classes"])
    if recipe.model != "custom":
        check_parameters(lambda: build_network(recipe, classes), held, str(path))
    longest = max((max(tensor.shape, default=0) for tensor in held.values()), default=0)
    groups = (recipe.mixup_options, recipe.method_options if isinstance(recipe, PretrainRecipe) else {})
    for name, value in ((name, value) for group in groups for name, value in group.items()):
        if name in SIZES and isinstance(value, int) and value > max(longest, LARGEST_NUMBER):
            raise ValueError(f"{path} sets {name} to {value}, and none of its tensors is that long; it is damaged")
