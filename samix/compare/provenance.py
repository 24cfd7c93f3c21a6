"""Where a figure comes from: the commit of this code, and the hardware."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
PATH = re.compile(r"(?<![\w./~+-])/(?:[^\s/:,'\"]+/)*([^\s/:,'\"]+)")  # an absolute one, with its last part


def commit(folder: Path = PACKAGE) -> str:
    """Returns the commit that is checked out, with ``+ changes`` where files of the folder differ; else empty."""
    tracked = git("ls-files", "--error-unmatch", "__init__.py", folder=folder)
    head = git("rev-parse", "--short=12", "HEAD", folder=folder) if tracked else ""
    if not head:
        return ""
    return head + (" + changes" if git("status", "--porcelain", "--", ".", folder=folder) else "")


def git(*words: str, folder: Path) -> str:
    """Returns the answer of git; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> str:
    """Returns processor, cores and memory of this machine."""
    cores = os.cpu_count() or 1
    parts = [processor(), f"{cores} core{'s' if cores > 1 else ''}"]
    with_memory = hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names)
    if with_memory:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    return ", ".join(parts)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the processor's name."""
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(model[1].split()) if model else platform.processor() or platform.machine()


def without_places(text: str) -> str:
    """Cuts absolute paths to their last part: they mean nothing on another machine."""
    return PATH.sub(r"\1", text)
