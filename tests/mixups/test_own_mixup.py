"""A mixup from outside the package is registered, and something else is refused; test_own_parts.py trains one."""

import sys

import pytest
import torch

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
