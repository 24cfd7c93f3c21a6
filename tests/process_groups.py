"""Groups of processes on this machine, joined over gloo: the same command once for each rank."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from runs import ROOT


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def start_group(command: list[str], count: int = 2) -> list[subprocess.Popen[str]]:
    """Starts a command once for each rank, on the CPU with one thread."""
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    machine = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **group, **machine, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def work_in_two(script: str, folder: Path) -> Path:
    """Runs a test file by itself, with a folder, as each of two processes; gives the folder back. None is left."""
    processes = start_group([sys.executable, script, str(folder)])
    try:
        for process in processes:
            _, error = process.communicate(timeout=300)
            assert process.returncode == 0, error
    finally:
        for process in processes:
            process.kill()
    return folder
