"""What Linux tells of processes in /proc: children, memory, processor time."""

from __future__ import annotations

import os
from pathlib import Path


def children(number: int) -> list[int]:
    """Processes that a process has started and that still run."""
    return [
        int(child) for task in Path(f"/proc/{number}/task").glob("*/children") for child in task.read_text().split()
    ]


def memory(number: int) -> dict[str, float]:
    """Memory of a process in MiB, by the kernel's names: ``Rss`` is resident, in ``Pss`` shared pages count in parts.

    Raises:
        OSError: the process has ended.
    """
    lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: float(line.split()[1]) / 1024 for line in lines}


def cpu_seconds(number: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_kibibytes(field: str) -> int:
    """A size of this process in KiB, by its name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
