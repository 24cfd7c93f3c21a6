"""The options of ``samix train`` and ``samix pretrain``: a recipe, what it names, and how it is run.

A command line is read in two parts. First the words that decide which options there are, and their defaults: recipe,
file, data, network, mixup, method and presets. Then all others, over the recipe that these give.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes as Group  # a group of options in help, whose name is not part of theirs

from samix.cli.options import UsageError, generator_of, options_type, plain_options, read, read_known
from samix.hub.network_config import CUSTOM
from samix.hub.source import read_source
from samix.recipes.files import read_config
from samix.recipes.pretrain_recipe import PretrainRecipe, ViewFields
from samix.recipes.recipe import (
    AnyRecipe,
    DataFields,
    LossFields,
    NetworkFields,
    OptimiserFields,
    Recipe,
    with_fields,
    with_model,
)
from samix.recipes.task import Task
from samix.runtime.checks import Options, Values
from samix.runtime.registry import allow_typed
from samix.train import RunOptions
from samix.train.folder import recipe_of_run

MixupOptions = TypeVar("MixupOptions")
MethodOptions = TypeVar("MethodOptions")
Arguments = TypeVar("Arguments", bound="RecipeArguments")
COMMON = (
    *("recipe", "config", "mixup", "method", "mixup.preset", "mixup.alpha", "data", "limit", "size", "model", "stem"),
    *("pretrained", "init", "epochs", "batch-size", "lr", "weight-decay", "precision", "seed", "views"),
    *("out", "run", "resume", "device", "quiet", "help", "help-all"),
)


@dataclass(frozen=True)
class Choice:
    """The options that are read first, as they decide which others there are."""

    recipe: str | None = None
    config: str | None = None
    data: str | None = None
    model: str | None = None
    init: str | None = None
    pretrained: bool = False
    mixup: str | None = None
    method: str | None = None
    mixup_preset: Annotated[str | None, tyro.conf.arg(name="mixup.preset")] = None
    method_preset: Annotated[str | None, tyro.conf.arg(name="method.preset")] = None
    resume: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value == "":
                raise UsageError(f"--{name.replace('_', '.')} needs a value; leave it out for the default")
        data = ":".join((self.data or "").split(":")[:2])  # it may go on with :DIR
        allow_typed(self.recipe or "", self.mixup or "", self.method or "", data)
        if len(self.resume or ()) > 1:
            raise UsageError(f"--resume takes one run's folder, got {' '.join(self.resume or ())}")

    @property
    def named(self) -> dict[str, str]:
        """The names that the user gave."""
        names = {name: getattr(self, name) for name in ("recipe", "data", "model", "mixup", "method")}
        return {name: value for name, value in names.items() if value}

    @property
    def presets(self) -> dict[str, str]:
        """The presets that the user named."""
        given = {"mixup": self.mixup_preset, "method": self.method_preset}
        return {name: value for name, value in given.items() if value}


GROUPS: dict[str, type[object]] = {
    "data": DataFields,
    "views": ViewFields,
    "network": NetworkFields,
    "loss": LossFields,
    "optimiser": OptimiserFields,
}


@dataclass(frozen=True)
class RecipeArguments:
    """The options that choose a recipe and change its fields.

    Args:
        recipe: named recipe, see ``samix recipes``, or your own as package.module:Name.
        config: file of recipe fields, .json or .yaml.
    """

    recipe: str
    config: str
    data: Group[DataFields]
    network: Group[NetworkFields]
    loss: Group[LossFields]
    optimiser: Group[OptimiserFields]

    @classmethod
    def at(cls: type[Arguments], recipe: Recipe, choice: Choice, values: Values) -> Arguments:
        """Returns the options at the values of a recipe; ``values`` are those of a subclass."""
        recorded = vars(recipe)
        groups: Values = {
            name: group(**{f.name: recorded[f.name] for f in fields(group)})  # type: ignore[arg-type]
            for name, group in GROUPS.items()
            if name in {f.name for f in fields(cls)}
        }
        return cls(recipe=recipe.name, config=choice.config or "", **groups, **values)

    def changes(self) -> Values:
        """Returns the fields of the recipe, at the values of the command line."""
        groups = [getattr(self, f.name) for f in fields(self) if f.name in GROUPS]
        return {name: value for group in groups for name, value in dataclasses.asdict(group).items()}


@dataclass(frozen=True)
class TrainArguments(RecipeArguments, Generic[MixupOptions]):
    """Trains a network with any mixup. The recipe gives the values of options that you do not give; without --recipe it
    is the recipe of the data set, or ``images`` for your own images. ``samix recipes`` lists them. Without options:
    SAMix on scanned digits, a minute or two.

    Args:
        mixup: name of the mixup; mixer:PATH for a trained Mixer; your own as package.module:Name. Its options are
            --mixup.NAME.
    """  # noqa: D205

    mixup: str
    mixup_options: Annotated[MixupOptions, tyro.conf.arg(name="mixup")]
    run: Group[RunOptions]


@dataclass(frozen=True)
class PretrainArguments(TrainArguments[MixupOptions], Generic[MixupOptions, MethodOptions]):
    """Learns features without labels, with any mixup. The recipe gives the values of options that you do not give;
    without --recipe it is the recipe of the data set, or ``images-moco`` for your own images. ``samix recipes`` lists
    them. Without options: MoCo with SAMix-I on scanned digits.

    Args:
        method: moco, mocov3, simclr, byol, simsiam, swav, barlow, imix, unmix, mixco, bsim, dacl, sdmp, mochi, or your
            own as package.module:Name. Its options are --method.NAME.
    """  # noqa: D205

    method: str
    method_options: Annotated[MethodOptions, tyro.conf.arg(name="method")]
    views: Group[ViewFields]


def read_run(task: Task[AnyRecipe], arguments: Sequence[str], prog: str) -> tuple[AnyRecipe, RunOptions]:
    """Returns the recipe and the run options of a command line; errors are one line."""
    choice, rest = read_known(Choice, arguments, prog)
    for name in ("method", "method_preset"):
        if getattr(choice, name) and "method" not in task.groups:
            raise UsageError(f"{prog} has no --{name.replace('_', '.')}; samix pretrain learns without labels")
    recipe, options = chosen(task, choice)
    names = {name: getattr(recipe, name) for name in task.groups}
    owners = {name: options_type(group.owner(names[name])) for name, group in task.groups.items()}
    values: Values = {"run": options, **names}
    for name, owner in owners.items():
        resolved = task.groups[name].resolve(names[name], getattr(recipe, f"{name}_options"))
        values[f"{name}_options"] = owner(**resolved, **generator_of(owner))
    cls: Any = PretrainArguments if task.recipe is PretrainRecipe else TrainArguments
    given: TrainArguments[object] = read(
        cls[tuple(owners[name] for name in ("mixup", "method") if name in owners)],
        rest,
        prog,
        description=cls.__doc__.partition("Args:")[0],
        default=cls.at(recipe, choice, values),
        common=COMMON,
    )
    changes = given.changes()
    for name, group in task.groups.items():
        plain = plain_options(getattr(given, f"{name}_options"))
        changes[f"{name}_options"] = group.differing(getattr(recipe, name), plain)
    return with_fields(recipe, changes), given.run


def chosen(task: Task[AnyRecipe], choice: Choice) -> tuple[AnyRecipe, RunOptions]:
    """Returns the recipe that the first words give, and the run options with the run to resume."""
    if not choice.resume:
        options = RunOptions(resume=choice.resume is not None)
        values = read_config(choice.config or "", task.recipe)
        return with_weights(task, choice, values), options
    folder = Path(choice.resume[0])
    if folder.suffix == ".pt":
        folder = folder.parent
    recorded = recipe_of_run(folder)
    if not isinstance(recorded, task.recipe) or isinstance(recorded, PretrainRecipe) != (task.recipe is PretrainRecipe):
        command = "pretrain" if isinstance(recorded, PretrainRecipe) else "train"
        raise UsageError(f"{folder} is a run of samix {command}: samix {command} --resume {folder}")
    refuse_other_run(recorded, choice, folder)
    refuse_hub_mixer(recorded, choice.named)
    named = {name: value for name, value in choice.named.items() if name not in ("recipe", "model")}
    recipe = with_fields(recorded, named)
    if choice.model:
        recipe = with_model(recipe, choice.model)
    return recipe, RunOptions(resume=True, out=str(folder.parent), run=folder.name)


def with_weights(task: Task[AnyRecipe], choice: Choice, values: Options) -> AnyRecipe:
    """Returns the recipe of the user's choice, see :meth:`Task.resolve`, with the fields of a file.

    The network is that of the weights unless it is named, and the recipe of the user's own images is ``finetune``.
    """
    names, start, presets = choice.named, Values(), choice.presets
    if choice.init:
        start["init"] = choice.init
        config = read_source(choice.init).config
        if config is not None and config.architecture != CUSTOM and "model" not in {**values, **names}:
            names["model"] = config.architecture
            start |= {"model_args": json.dumps(config.model_args), "stem": config.stem}
    if choice.pretrained:
        start |= {"pretrained": True, "init": ""}
    named_recipe = "recipe" in names or "name" in values
    if start and not named_recipe and task.usual(names.get("data") or values.get("data", "")) == "images":
        names["recipe"] = "finetune"
    recipe = task.resolve(names, values, presets)
    if recipe.init and not start and "init" not in values and choice.model:
        own = task.resolve({k: v for k, v in names.items() if k != "model"}, values, presets).model
        if own != recipe.model:
            raise UsageError(
                f"recipe {recipe.name} starts from {recipe.init}, which are weights of {own}, not of {recipe.model}; "
                "add --pretrained for timm's weights of that network, or --init WEIGHTS"
            )
    if "model_args" in start:
        own_recipe = task.resolve({k: v for k, v in names.items() if k != "model"}, values, presets)
        asked = {k: v for k, v in own_recipe.model_kwargs.items() if k in ("drop_rate", "drop_path_rate")}
        start["model_args"] = json.dumps({**asked, **json.loads(start["model_args"])})
    return with_fields(recipe, start)


def refuse_other_run(recorded: Recipe, choice: Choice, folder: Path) -> None:
    """Raises UsageError where words beside ``--resume RUN`` would begin another run than the recorded one."""
    own: dict[str, object] = {
        "recipe": recorded.name,
        "config": None,
        "init": recorded.init,
        "pretrained": recorded.pretrained,
        "mixup_preset": recorded.mixup_options.get("preset"),
        "method_preset": getattr(recorded, "method_options", {}).get("preset"),
    }
    for name, value in own.items():
        given = getattr(choice, name)
        if given and given != value:
            flag = f"--{name.replace('_', '.')}"
            raise UsageError(
                f"{flag} {given} does not match {folder}, which was begun {f'with {value}' if value else 'without'}; "
                f"leave it out to continue that run, or leave out --resume to begin another one"
            )


def refuse_hub_mixer(recipe: Recipe, named: Mapping[str, str]) -> None:
    """Raises UsageError where a run's Mixer would be fetched from the hub, and the user did not name it."""
    from samix.mixers.pretrained import SHIPPED

    prefix, _, source = recipe.mixup.partition(":")
    if prefix == "mixer" and "mixup" not in named and source not in SHIPPED and not Path(source).exists():
        raise UsageError(
            f"the run mixes by {recipe.mixup}, which is not on this machine and would be fetched from the hub; allow "
            f"it with --mixup {recipe.mixup}"
        )
