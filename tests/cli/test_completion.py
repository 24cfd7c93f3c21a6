"""The script that completes commands and options, in a real bash."""

import shutil
import subprocess

import pytest

from samix.cli.main import COMMANDS, main

BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_bash_completes_commands_and_their_options(capsys):
    assert main(["completion"]) == 0
    script = capsys.readouterr().out

    def complete(*words):
        line = f'COMP_WORDS=({" ".join(words)} ""); COMP_CWORD={len(words)}; _samix; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run([BASH, "-c", script + line], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("samix") == list(COMMANDS)
    assert {"--data", "--layer-decay", "--mixup.alpha", "--resume", "--no-resume"} <= set(complete("samix", "train"))
    assert "--method" in complete("samix", "pretrain")
    assert "--method" not in complete("samix", "train")
    assert "--csv" in complete("samix", "predict")
    assert not [word for command in COMMANDS for word in complete("samix", command) if not word.startswith("--")]
