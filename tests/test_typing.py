"""What type checkers see of ``import samix``."""

import subprocess
import sys
import typing
from pathlib import Path

import pytest

import samix

ROOT = Path(__file__).parent.parent


def test_mypy_knows_the_public_names_and_no_other(tmp_path):
    probe = tmp_path / "probe.py"
    names = "\n".join(f"samix.{name}" for name in samix.__all__)
    probe.write_text(f"import samix\n{names}\nsamix.Nothing\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--follow-imports=skip", "--cache-dir", str(tmp_path), "--config-file", ""]
    done = subprocess.run([*command, str(ROOT / "samix/__init__.py"), str(probe)], capture_output=True, text=True)
    if "No module named mypy" in done.stderr:
        pytest.skip("mypy is not installed: pip install samix[dev]")
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout
    assert 'has no attribute "Nothing"' in errors[0]


def test_no_public_function_returns_any():
    functions = {name: getattr(samix, name) for name in samix.__all__ if callable(getattr(samix, name))}
    returned = {
        name: typing.get_type_hints(f).get("return") for name, f in functions.items() if not isinstance(f, type)
    }
    assert {name for name, kind in returned.items() if kind in (None, typing.Any)} == set()


def test_no_method_of_a_public_class_returns_any():
    found = []
    for name in samix.__all__:
        kind = getattr(samix, name)
        if not isinstance(kind, type):
            continue
        for method, function in vars(kind).items():
            function = getattr(function, "__func__", getattr(function, "fget", function))
            annotations = getattr(function, "__annotations__", {})
            if not method.startswith("_") and annotations.get("return") in ("Any", typing.Any):
                found.append(f"{name}.{method}")
    assert found == []


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "samix/py.typed").is_file()
