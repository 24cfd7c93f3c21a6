"""The command: ``samix train | compare | evaluate | show | recipes``.

``samix train --recipe cifar100-r18 --mixup samix --mixup.alpha 1``: the recipe and the mixup are read first, since
they decide which options there are and their defaults; then every field of the recipe and of the mixup is an option.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from samix.cli.options import Command, parse_run
from samix.recipes import RECIPES, Recipe, named_recipe, usual_recipe
from samix.recipes.option_groups import Part
from samix.runtime.console import SteadyStream, say, tell

USAGE = """samix: learned mixup for image networks

  samix train      train a network with any mixup       samix train --data DIR --mixup samix
  samix pretrain   learn features without labels        samix pretrain --data DIR --method moco --mixup samix
  samix evaluate   accuracy and calibration             samix evaluate runs/NAME/best.pt
  samix predict    name the classes of new images       samix predict runs/NAME new/*.jpg
  samix export     a network out of a checkpoint        samix export runs/NAME/best.pt DIR
  samix compare    mixups under one recipe, with report samix compare vanilla mixup cutmix samix --seeds 3
  samix show       paint what a mixup does              samix show runs/NAME/best.pt a.jpg b.jpg
                   or all of them, as a page            samix show --html page.html a.jpg b.jpg
  samix analyse    the papers' analyses of a network    samix analyse lambda runs/NAME
  samix mixer      share and check trained Mixers       samix mixer check runs/NAME/mixer
  samix recipes    the named recipes

`samix COMMAND --help` lists every option. `samix train` alone trains SAMix on scanned digits in a minute or two.
"""

TRAIN = """Trains a network with any mixup. The recipe gives the values that are not given here; where none is named, it
is that of the data, for your own images `images`; `samix recipes` lists them. Without an option: SAMix on scanned
digits."""

DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. A user's mistake ends in one line, or with --debug in a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in arguments
    arguments = [a for a in arguments if a != DEBUG]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        from samix import __version__

        print(f"samix {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"samix: unknown command {arguments[0]!r}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        status = COMMANDS[arguments[0]](arguments[1:])
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has seen enough
        SteadyStream(sys.stdout).give_up()
        return 1
    except KeyboardInterrupt:
        tell("samix: stopped")
        return 130
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        if debug:
            raise
        tell(f"samix: {one_line(error) or type(error).__name__}")
        return 1
    except Exception as error:  # a slip of ours or of a library: still no traceback unasked
        if debug:
            raise
        tell(f"samix: unexpected {type(error).__name__}: {one_line(error)}; {DEBUG} shows where")
        return 1


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


# ---------------------------------------------------------------------------------------------------------------------


def train(arguments: list[str]) -> int:
    """``samix train``."""
    recipe, options = parse_train(arguments)
    from samix.cli.run import build_run

    return execute(build_run(recipe, options), options.quiet)


def execute(run: Any, quiet: bool) -> int:
    """Fits a run, and prints what it is before and what came of it after."""
    from samix.train import Interrupted

    chief = run.accelerator.is_main_process
    if chief and not quiet:
        say(run.describe())
    try:
        summary = run.fit()
    except Interrupted as stop:
        tell(f"samix: {stop}")
        return 130
    if chief:
        say(run.conclude(summary))
        say(f"pictures, checkpoints, export and summary: {run.folder}")
    return 0


def parse_train(arguments: list[str]) -> tuple[Recipe, Any]:
    """The recipe and run options of ``samix train``.

    Raises:
        ValueError: unknown names or fields.
    """
    from samix.recipes.build import NAMES, mixup_defaults, options_owner

    mixup = Part(
        help=f"one of {', '.join(NAMES)}, or mixer:PATH, a trained one; its options are --mixup.NAME",
        defaults=mixup_defaults,
        owner=options_owner,
    )
    recipes = {name: lambda called, entry=entry: entry.build(called["mixup"]) for name, entry in RECIPES.items()}
    parts, fallback = {"mixup": mixup}, {"mixup": "samix"}
    return parse_run(Command("samix train", TRAIN, recipes, usual_recipe, Recipe, parts, fallback), arguments)


def pretrain(arguments: list[str]) -> int:
    """``samix pretrain``."""
    recipe, options = parse_pretrain(arguments)
    from samix.cli.run import build_run

    return execute(build_run(recipe, options), options.quiet)


def parse_pretrain(arguments: list[str]) -> tuple[Any, Any]:
    """The recipe and run options of ``samix pretrain``.

    Raises:
        ValueError: unknown names or fields.
    """
    from samix.recipes.pretrain_named import PRETRAIN_COMMAND

    return parse_run(PRETRAIN_COMMAND, arguments)


# ---------------------------------------------------------------------------------------------------------------------


def evaluate(arguments: list[str]) -> int:
    """``samix evaluate``."""
    from samix.cli.evaluate import evaluate

    return evaluate(arguments)


def predict(arguments: list[str]) -> int:
    """``samix predict``."""
    from samix.cli.predict import predict

    return predict(arguments)


def export(arguments: list[str]) -> int:
    """``samix export``."""
    from samix.cli.predict import export

    return export(arguments)


def compare(arguments: list[str]) -> int:
    """``samix compare``."""
    from samix.cli.compare import compare

    return compare(arguments)


def show(arguments: list[str]) -> int:
    """``samix show``."""
    from samix.cli.show import show

    return show(arguments)


def analyse(arguments: list[str]) -> int:
    """``samix analyse``."""
    from samix.cli.analyse import analyse

    return analyse(arguments)


def mixer(arguments: list[str]) -> int:
    """``samix mixer export | check | card``."""
    from samix.cli.mixer import mixer as run

    return run(arguments)


def recipes(arguments: list[str]) -> int:
    """``samix recipes``: the named recipes, their published top-1 in percent by mixup, and a rough cost."""
    if arguments and arguments[0] in RECIPES and not {"-h", "--help"} & set(arguments):
        from samix.recipes.build import NAMES

        mixup = arguments[1] if len(arguments) > 1 else "samix"
        if mixup not in NAMES or len(arguments) > 2:
            raise ValueError(f"samix recipes NAME [MIXUP], with one of {', '.join(NAMES)}; got {' '.join(arguments)}")
        print(RECIPES[arguments[0]].build.__doc__ or "")
        print(json.dumps(named_recipe(arguments[0], mixup).to_dict(), indent=1))
        return 0
    if arguments:
        if {"-h", "--help"} & set(arguments):
            print("samix recipes [NAME [MIXUP]]: all named recipes, or one in full")
            return 0
        raise ValueError(f"unknown recipe {arguments[0]!r}; choose one of {', '.join(RECIPES)}")
    columns = ("vanilla", "mixup", "cutmix", "automix", "samix")
    print(f"{'recipe':15}" + "".join(f"{c:>9}" for c in columns) + "   epochs   rough cost")
    for name, entry in RECIPES.items():
        cells = "".join(f"{entry.published[c]:9.2f}" if c in entry.published else f"{'-':>9}" for c in columns)
        print(f"{name:15}{cells}   {entry.build('samix').epochs:6}   {entry.cost}")
    print(
        "\npublished top-1 in percent (OpenMixup's benchmark tables); `samix recipes NAME [MIXUP]` prints one in full"
    )
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "compare": compare,
    "show": show,
    "analyse": analyse,
    "mixer": mixer,
    "recipes": recipes,
}

if __name__ == "__main__":
    sys.exit(main())
