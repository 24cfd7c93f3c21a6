"""Images that cannot be read: counted over all processes, and named to the user."""

from __future__ import annotations

from pathlib import Path

from samix.data import ImageData
from samix.data.replacements import name_of, report
from samix.runtime.atomic_files import write_text
from samix.runtime.console import tell
from samix.runtime.distributed import set_of_all


class BadImages:
    """The reports of one run.

    Args:
        data: whose images they are.
        folder: of the run; ``bad-images.txt`` there names those of the last epoch that had some.
        speaks: whether this process is the one that tells.
    """

    def __init__(self, data: ImageData, folder: Path, speaks: bool) -> None:
        self.data, self.folder, self.speaks = data, folder, speaks
        self.held_out: set[int] = set()  # that were named before

    def report_training(self, rows: set[int], epoch: int) -> int:
        """Counts an epoch's images that could not be read, and names them on the terminal and in a file."""
        bad = sorted(set_of_all(rows))
        if bad and self.speaks:
            line = report(self.data.train, bad, f"training images could not be read in epoch {epoch}; others stood in")
            tell(f"samix: {line}")
            names = "".join(f"{name_of(self.data.train, row)}\n" for row in bad)
            write_text(self.folder / "bad-images.txt", names)
        return len(bad)

    def report_held_out(self, rows: set[int]) -> None:
        """Names the held-out images that could not be read, once."""
        bad = set_of_all(rows)
        if bad - self.held_out and self.speaks:
            tell("samix: " + report(self.data.val, sorted(bad), "held-out images could not be read and are left out"))
        self.held_out |= bad
