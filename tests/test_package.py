"""What `import samix` costs and gives."""

import importlib
import json
import subprocess
import sys

import pytest
from runs import ROOT, python

import samix

HEAVY = ("timm", "torchvision", "matplotlib", "sklearn", "accelerate", "torchmetrics", "tyro", "yaml", "scipy")

COST = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.process_time()
import samix
seconds = time.process_time() - start
import samix.__main__
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules))}))
"""


def test_import_costs_little_beyond_torch():
    """Design: < 0.3 s of CPU, and no heavy package; not even for the command, before it is told what."""
    found = json.loads(python(COST).stdout)
    assert not {name.partition(".")[0] for name in found["modules"]} & set(HEAVY)
    assert found["seconds"] < 0.3


@pytest.mark.parametrize("name", samix.__all__)
def test_public_names_import(name):
    assert getattr(samix, name) is not None
    assert name in dir(samix)


def test_every_public_name_is_of_the_home_that_is_named():
    for home, names in samix._HOMES.items():
        module = importlib.import_module(home)
        assert all(getattr(samix, name) is getattr(module, name) for name in names)


def test_all_names_what_the_documents_promise():
    promised = "AutoMix SAMix AutoMixer SAMixer MixUp CutMix ResizeMix FMix ManifoldMix MixedBatch Supervised NoMixup"
    assert set(promised.split()) <= set(samix.__all__)
    assert len(samix.__all__) == len(set(samix.__all__))


def test_types_know_the_same_names():
    """The imports for type checkers repeat the lazy ones."""
    text = (ROOT / "samix/__init__.py").read_text(encoding="utf-8").partition("if TYPE_CHECKING:")[2]
    lines = [line.split() for line in text.splitlines() if line.strip()]
    told = {(words[1], words[3]) for words in lines}
    assert all(words[3] == words[5] for words in lines)
    assert told == {(home, name) for home, names in samix._HOMES.items() for name in names}


def test_an_unknown_name_lists_the_known():
    with pytest.raises(
        AttributeError, match=r"samix has no 'Samix'; it has AugMix|samix has no 'Samix'; it has .*SAMix"
    ):
        samix.Samix  # noqa: B018  # the error is wanted
    with pytest.raises(ImportError, match="cannot import name 'CutMixUp'"):
        exec("from samix import CutMixUp")


def test_the_version_is_the_package_s_and_is_typed():
    from importlib.metadata import version

    assert version("samix") == samix.__version__
    assert (ROOT / "samix/py.typed").is_file()


@pytest.mark.slow
def test_python_m_samix_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "samix", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"samix {samix.__version__}\n"


def test_no_two_test_files_have_one_name():
    """pytest imports them by name alone, so the second one would be an error wherever all are collected."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert names == sorted(set(names))
