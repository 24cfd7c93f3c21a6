"""The command ``samix``: finds the command that is meant, runs it, and turns errors into one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name

from samix.runtime.checks import suggest
from samix.runtime.console import steady_stdout, tell
from samix.runtime.registry import allow

USAGE = """samix: learned mixup for image networks

  samix train      train a network with any mixup        samix train --data DIR --mixup samix
  samix pretrain   learn features without labels         samix pretrain --data DIR --method moco
  samix evaluate   accuracy and calibration, or features samix evaluate runs/NAME
  samix predict    name the classes of new images        samix predict runs/NAME new/*.jpg
  samix export     write a checkpoint's network          samix export runs/NAME/best.pt DIR
  samix compare    compare mixups, with a report         samix compare vanilla cutmix samix --seeds 3
  samix show       pictures of a mixup's masks           samix show runs/NAME a.jpg b.jpg
                   or all mixups, as a page              samix show --html page.html a.jpg b.jpg
  samix analyse    the papers' analyses of a network     samix analyse lambda runs/NAME
  samix mixer      train, distil, check, share Mixers    samix mixer check runs/NAME/mixer
  samix recipes    list the named recipes                samix recipes cifar100-r18 samix
  samix doctor     versions, devices, known problems     samix doctor
  samix completion completion on TAB in bash and zsh     eval "$(samix completion)"

`samix COMMAND --help` shows the common options, `--help-all` all of them. `samix train` alone trains SAMix on scanned
digits in a minute or two. With any command: `--debug` shows where an error comes from; `--allow package.module:Name`
lets a file name code of your own.
"""

Command = Callable[[Sequence[str]], int]
COMMANDS: dict[str, str] = {  # where each is; imported when it is called
    "train": "samix.cli.train:train",
    "pretrain": "samix.cli.train:pretrain",
    "evaluate": "samix.cli.evaluate:evaluate",
    "predict": "samix.cli.predict:predict",
    "export": "samix.cli.predict:export",
    "compare": "samix.cli.compare:compare",
    "show": "samix.cli.show:show",
    "analyse": "samix.cli.analyse:analyse",
    "mixer": "samix.cli.mixer:mixer",
    "recipes": "samix.cli.recipes:recipes",
    "doctor": "samix.cli.doctor:doctor",
    "completion": "samix.cli.completion:completion",
}
DEBUG, ALLOW = "--debug", "--allow"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    words = [word for word in words if word != DEBUG]
    with steady_stdout():
        status = run_command(words, debug)
        if status and "torch.distributed" in sys.modules:
            from samix.runtime.distributed import exit_from_group

            exit_from_group(status)
    return status


def run_command(words: Sequence[str], debug: bool) -> int:
    """Runs a command; standard output may be closed at any time."""
    if words and words[0] == "help":
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        from samix import __version__

        print(f"samix {__version__}")
        return 0
    if words[0] not in COMMANDS:
        tell(f"samix: unknown command {words[0]!r}; choose one of {', '.join(COMMANDS)}{suggest(words[0], COMMANDS)}")
        return 2
    try:
        command: Command = resolve_name(COMMANDS[words[0]])
        return command(without_allowed(words[1:]))
    except KeyboardInterrupt:
        tell("samix: stopped")
        return 130
    except Exception as error:
        if debug:
            raise
        return explain(error)


def explain(error: Exception) -> int:
    """Prints an error in one line, and returns the exit status."""
    from samix.cli.options import UsageError

    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError):  # of torch, so a network was built
        from samix.networks.inference import channel_misfit

        text = channel_misfit(error, 3) or text
    if isinstance(error, ValueError | TypeError | OSError | RuntimeError):
        tell(f"samix: {text or type(error).__name__}")
        return 2 if isinstance(error, UsageError) else 1
    tell(f"samix: unexpected {type(error).__name__}: {text}; {DEBUG} shows where")  # a bug, ours or a library's
    return 1


def without_allowed(words: Sequence[str]) -> list[str]:
    """Returns the words without ``--allow NAME``, after allowing these names."""
    rest, values = [], iter(words)
    for word in values:
        flag, equals, value = word.partition("=")
        if flag == ALLOW:
            allow(value if equals else next(values, ""))
        else:
            rest.append(word)
    return rest
