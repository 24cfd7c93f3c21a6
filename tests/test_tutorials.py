"""The tutorials run as they are, and their pages are made of the scripts that are there."""

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))
import make_tutorials  # noqa: E402

SCRIPTS = make_tutorials.scripts()


def test_there_are_four():
    assert {script.stem for script in SCRIPTS} == {"photos", "own_loop", "without_labels", "mixer"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_tutorials_run(script, tmp_path):
    """With one epoch in place of each number of epochs: the same code, and nothing here reads its figures."""
    short = tmp_path / script.name
    text, count = re.subn(r"\b(epochs=|epochs, step, history = )\d+", r"\g<1>1", script.read_text(encoding="utf-8"))
    assert count or script.stem == "mixer"  # which trains nothing
    short.write_text(text, encoding="utf-8")
    page = make_tutorials.run(short, tmp_path)
    cells = list(make_tutorials.cells(script))
    shown = sum(cell.kind == make_tutorials.CODE or cell.text.count("```python") for cell in cells)
    assert page.count("```python") == shown
    assert len(list(tmp_path.glob("*.png"))) >= 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_pages_hold_the_code_and_the_text_of_their_scripts(script):
    page = script.with_suffix(".md").read_text(encoding="utf-8")
    assert [cell.line for cell in make_tutorials.cells(script) if cell.text not in page] == []


def test_a_failing_tutorial_says_where(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("# %% [markdown]\n# # Title\n\n# %%\nx = 1\n1 / 0\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError) as error:
        make_tutorials.run(script, tmp_path)
    assert error.traceback[-1].lineno + 1 == 6
