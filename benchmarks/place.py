"""A folder for runs, as it is when the disk is full or read-only."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path


class Place:
    """A folder for runs that can be filled up or made read-only.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
        can = shutil.which("mount") is not None
        self.mounted = can and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def refusal(self, kind: str) -> str:
        """Why this kind cannot be tried here; empty if it can."""
        if kind == "read-only" and not self.mounted and os.geteuid() == 0:
            return "a read-only folder stops nobody who is root, and no file system may be mounted here"
        return ""

    def spoil(self, kind: str, number: int) -> None:
        """Fills the disk, or makes it read-only, for the process of that number."""
        if kind == "disk full" and self.mounted:
            with (self.folder / "filler").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 12))
                except OSError:
                    return
        if kind == "disk full":
            resource.prlimit(number, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        elif self.mounted:
            self._remount("ro")
        else:
            self._chmod(0o555)

    def mend(self, kind: str) -> None:
        """Makes all as it was."""
        if kind == "disk full":
            (self.folder / "filler").unlink(missing_ok=True)
        elif self.mounted:
            self._remount("rw")
        else:
            self._chmod(0o755)

    def _chmod(self, mode: int) -> None:
        for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
            folder.chmod(mode)

    def _remount(self, how: str) -> None:
        for _ in range(2000):  # refused while a file is open for writing
            command = ["mount", "-o", f"remount,{how}", str(self.folder)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
        raise RuntimeError(f"{self.folder} cannot be remounted {how}")

    def close(self) -> None:
        """Takes the file system away."""
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=False)
