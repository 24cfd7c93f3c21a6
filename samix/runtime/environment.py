"""What a run is run on: versions of the libraries, and the device."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("samix", "torch", "torchvision", "timm", "accelerate", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def check_device(name: str) -> None:
    """Raises ValueError unless this is the name of a device, and of one that is there."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError('device="cuda", but torch finds no GPU; use --device cpu')


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(device: torch.device) -> str:
    """The hardware, for the summary."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
