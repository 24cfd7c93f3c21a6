"""The examples run as they are written, in a process of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from process_groups import run_script, started

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
def test_example_runs_to_its_end(
    script: str, needs: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs}")
    monkeypatch.chdir(tmp_path)
    process = started(run_script, EXAMPLES / script, "--epochs", "1", log=tmp_path / "process")
    assert process.wait() == 0, process.error
    assert says in process.output
