"""Versions of the libraries, and the device."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that decide a result."""
    names = ("samix", "torch", "torchvision", "timm", "accelerate", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def pick_device(name: str) -> torch.device:
    """Returns the device of this name; ``auto`` takes a CUDA or Apple GPU where torch finds one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    backend, _, index = name.partition(":")
    if backend not in ("cpu", "cuda", "mps") or (index and not (backend == "cuda" and index.isdecimal())):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    if backend == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name}: torch finds no CUDA GPU; use --device cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: torch finds {torch.cuda.device_count()} GPUs, cuda:0 and up")
    if backend == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps: torch finds no Apple GPU; use --device cpu")
    return torch.device(name)


def usable_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(device: torch.device) -> str:
    """Returns the hardware, for the summary."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
