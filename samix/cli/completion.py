"""``samix completion``: a script that completes commands and options on TAB."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from samix.cli.options import HELP_ALL, read
from samix.runtime.console import say

SCRIPT = """\
# samix: completion of commands, options and files. bash: eval "$(samix completion)" in ~/.bashrc, or the output in a
# file that it sources; zsh: the same after autoload -Uz bashcompinit && bashcompinit.
_samix() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words="{commands}"
  if [ "$COMP_CWORD" -gt 1 ]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _samix samix
"""


@dataclass(frozen=True)
class Completion:
    """Prints a script for bash and zsh that completes commands, options and files: eval "$(samix completion)"."""


def completion(arguments: Sequence[str]) -> int:
    """Runs ``samix completion``."""
    from samix.cli.main import COMMANDS

    read(Completion, arguments, "samix completion")
    cases = []
    for name in COMMANDS:
        page = io.StringIO()
        if name != "completion":  # those that want a word first, as analyse, refuse; they get files
            with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit, ValueError):
                resolve_name(COMMANDS[name])([HELP_ALL])
        cases.append(f'      {name}) words="{" ".join(flags(page.getvalue()))}" ;;')
    say(SCRIPT.format(commands=" ".join(COMMANDS), cases="\n".join(cases)).rstrip())
    return 0


def flags(page: str) -> list[str]:
    """Returns the options that a page of help explains; ``--[no-]name`` are two."""
    shown = dict.fromkeys(re.findall(r"^  (?:-\w(?: \S+)?, )?(--[\w.\[\]-]+)", page, re.MULTILINE))
    both = [re.sub(r"\[no-\]", part, flag) for flag in shown for part in (("", "no-") if "[no-]" in flag else ("",))]
    return [*both, "--help", HELP_ALL]
