"""The processes of tests: none outlives what started it."""

import os
import time
from pathlib import Path

import pytest
from process_groups import started


def sleep_with_a_child(folder: Path) -> None:
    child = started(time.sleep, 60, log=folder / "grandchild")
    (folder / "new").write_text(str(child.pid), encoding="utf-8")
    (folder / "new").rename(folder / "pid")
    time.sleep(60)


def wait_until(true) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_ends_with_the_process_that_started_it(tmp_path):
    process = started(sleep_with_a_child, tmp_path, log=tmp_path / "child")
    wait_until((tmp_path / "pid").is_file)
    process.kill()
    wait_until(lambda: is_gone(int((tmp_path / "pid").read_text(encoding="utf-8"))))


def test_a_child_that_takes_too_long_is_killed(tmp_path):
    process = started(time.sleep, 60, log=tmp_path / "child")
    with pytest.raises(AssertionError, match="did not end within"):
        process.wait(0.5)
    process.join()
    assert not process.is_alive()
