"""Calls of the command in the process of the tests."""

import json

from samix.cli.main import main


def run(capsys, *arguments):
    """Exit status, standard output and error of a command; tyro leaves by SystemExit."""
    try:
        status = main(list(map(str, arguments)))
    except SystemExit as stop:
        status = stop.code
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    return status, out, error


def fails(capsys, *arguments):
    """The error of a command that must fail, in one line where it is ours."""
    status, _, error = run(capsys, *arguments)
    assert status not in (0, None)
    assert error.strip()
    if error.startswith("samix:"):
        assert error.count("\n") == 1, error
    return " ".join(error.replace("│", " ").split())


def config(tmp_path, values, name="a.json"):
    path = tmp_path / name
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return str(path)
