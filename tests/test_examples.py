"""The examples run as they are written, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("script", "says"), [("cutmix_loop.py", "epoch 1: loss"), ("samix_loop.py", "held-out accuracy")]
)
def test_example_runs_to_its_end(script: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), "--epochs", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
