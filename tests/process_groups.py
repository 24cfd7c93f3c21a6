"""Processes of tests: forked from a server that has imported torch and samix once, so that each starts at once.

A child is a process like any other: it has a session of its own, its standard streams go to files, it can be killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path

import torch

multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["pytest", "torch", "torchmetrics", "samix.compare.run", "samix.cli.train", "samix.cli.compare"]
)


def end_with_the_parent() -> None:
    """Kills this process as soon as the one that started it is gone, so that killed tests leave nothing behind."""
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


class _Child:
    """Runs a function with one thread; what it returns is the status, as of a command.

    Args:
        function: by name, as it is pickled.
        arguments: of the function.
        log: path without suffix; standard output goes to ``.out``, standard error to ``.err``.
        environment: variables of the process.
    """

    def __init__(self, function: Callable[..., int | None], *arguments: object, log: Path, **environment: str) -> None:
        super().__init__()
        self.function, self.arguments, self.environment = function, arguments, environment
        self.files = [log.with_suffix(".out"), log.with_suffix(".err")]
        log.parent.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        os.setsid()
        os.environ.update(self.environment)
        for number, path in enumerate(self.files, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        torch.set_num_threads(1)
        threading.Thread(target=end_with_the_parent, daemon=True).start()
        sys.exit(self.function(*self.arguments))

    def wait(self, seconds: float = 300.0) -> int:
        """The status, once the process has ended."""
        self.join(seconds)
        if self.exitcode is None:
            self.kill()
            raise AssertionError(f"the process did not end within {seconds} seconds: {self.error}")
        return self.exitcode

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            os.kill(self.pid, number)

    @property
    def output(self) -> str:
        return self.files[0].read_text(encoding="utf-8")

    @property
    def error(self) -> str:
        return self.files[1].read_text(encoding="utf-8")


class Child(_Child, ForkServerProcess):
    """A child of the server."""


class FreshChild(_Child, SpawnProcess):
    """A new interpreter, which hashes in an order of its own; it takes seconds to start."""


def started(function: Callable[..., int | None], *arguments: object, log: Path, **environment: str) -> Child:
    """A child of the server that runs."""
    child = Child(function, *arguments, log=log, **environment)
    child.start()
    return child


def run_script(path: Path, *arguments: str) -> None:
    """Runs a script in this process, as the interpreter does."""
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@contextlib.contextmanager
def group(
    function: Callable[..., int | None], *arguments: object, folder: Path, count: int = 2, kind: type[_Child] = Child
) -> Iterator[list[_Child]]:
    """Starts one process for each rank, joined over gloo, each with the same function. None is left behind."""
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"} for rank in range(count)]
    children = [kind(function, *arguments, log=folder / f"process{own['RANK']}", **shared, **own) for own in ranks]
    for child in children:
        child.start()
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.join()


def work_in_two(work: Callable[[Path], None], folder: Path, kind: type[_Child] = Child) -> Path:
    """Has each of two processes work in a folder; returns the folder."""
    with group(work, folder, folder=folder, kind=kind) as both:
        assert [child.wait() for child in both] == [0, 0], [child.error for child in both]
    return folder
