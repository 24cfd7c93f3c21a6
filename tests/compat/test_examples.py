"""The examples run as they are written, in a process of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("script", "needs", "says"),
    [
        ("cutmix_loop.py", "samix", "epoch 1: loss"),
        ("samix_loop.py", "samix", "held-out accuracy"),
        ("timm_script.py", "timm", "epoch 1: loss"),
        ("lightning_loop.py", "lightning", "WithSAMix: held-out accuracy"),
        ("hf_trainer.py", "transformers", "held-out accuracy"),
        ("pretrain_then_train.py", "samix", "pre-trained: "),
    ],
)
def test_example_runs_to_its_end(script: str, needs: str, says: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs}")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), "--epochs", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
