"""Training by the command in processes of their own: a slim network, one thread, a copy of the package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
SLIM = '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4}'


def one_thread(**more: str) -> dict[str, str]:
    """The environment of such a process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def copy_package(folder: Path) -> None:
    """Copies the package as it is now, so that whoever edits it meanwhile does not change what runs."""
    shutil.copytree(ROOT / "samix", folder / "samix")
