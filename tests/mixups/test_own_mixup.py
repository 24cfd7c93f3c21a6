"""A mixup from outside the package, by name: trained, resumed, loaded, shown, analysed and compared."""

import sys

import pytest
import torch
from runs import PLAIN_COMMAND, ROOT, SMALL_FLAGS, python

import samix
from samix.cli.main import main
from samix.mixups import MIXUPS
from samix.recipes.build import build_mixup

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from samix.mixups.base import Augmentation
from samix.batch import Mixed


@dataclass
class HalfMix(Augmentation):
    """The left part of one image beside the right part of the other.

    Args:
        sharp: 0 or 1; 0 blends the two parts.
    """

    name: ClassVar[str] = "halfmix"

    sharp: int = 1

    def apply(self, x, partner, lam, guides=None, **extras):
        """Keeps the first lam of the columns."""
        columns = torch.arange(x.shape[3], device=x.device)
        own = (columns < torch.round(lam * x.shape[3]).view(-1, 1)).float()
        mask = own[:, None, None].expand(-1, 1, x.shape[2], -1)
        return Mixed(torch.where(mask.bool(), x, partner), mask.mean((1, 2, 3)), mask)


NOT_ONE = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module in the folder where the command runs."""
    (tmp_path / "half_mix.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield "half_mix:HalfMix"
    sys.modules.pop("half_mix", None)


def test_it_is_trained_loaded_shown_and_evaluated_by_name(own, tmp_path, capsys):
    train = ["train", "--recipe", "digits-quick", "--mixup", own, *SMALL_FLAGS, "--out", "runs", "--run", "own"]
    assert main([*train, "--mixup.alpha", "0.5"]) == 0
    run = tmp_path / "runs" / "own"
    saved = torch.load(run / "last.pt", weights_only=True)
    assert own in str(saved["recipe"])
    assert main(["evaluate", str(run / "best.pt"), "--device", "cpu"]) == 0
    assert main(["show", own, "--out", str(tmp_path / "own.png"), "--size", "32"]) == 0
    assert (tmp_path / "own.png").stat().st_size > 1000
    assert "own.png" in capsys.readouterr().out
    network = samix.load(str(run))
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_it_is_compared_by_name(own, tmp_path):
    folder = tmp_path / "all"
    words = ["compare", "vanilla", f"{own}:sharp=0", "--recipe", "digits-quick", "--seeds", "1", "--out", folder]
    python(PLAIN_COMMAND, *words, *SMALL_FLAGS[:-2], PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "HalfMix" in (folder / "table.md").read_text(encoding="utf-8")


def test_it_may_be_registered(own):
    import half_mix

    MIXUPS.register("halfmix", half_mix.HalfMix)
    try:
        mixup = build_mixup("halfmix", {"sharp": 0})
        assert mixup.sharp == 0
        images = torch.randn(4, 3, 8, 8)
        batch = mixup(images, torch.arange(4), lam=0.5, index=torch.tensor([1, 0, 3, 2]))
        assert torch.equal(batch.images[0, :, :, :4], images[0, :, :, :4])
        assert torch.equal(batch.images[0, :, :, 4:], images[1, :, :, 4:])
        assert samix.TransMix(base="halfmix").inner.name == "halfmix"  # another mixup wraps it by name
    finally:
        MIXUPS._entries.pop("halfmix")


def test_something_else_is_refused(own, capsys):
    assert main(["show", "half_mix:NOT_ONE"]) == 1
    assert "half_mix:NOT_ONE must be a subclass of samix.Augmentation" in capsys.readouterr().err
