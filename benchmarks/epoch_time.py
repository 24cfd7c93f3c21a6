"""Seconds of an epoch of whole training runs, with each mixup, all in turn.

    python benchmarks/epoch_time.py --data folder:DIR --mixups vanilla cutmix samix samix:preset=fast
    python benchmarks/epoch_time.py --data folder:DIR --mixups vanilla mixer:runs/NAME/mixer:clean_weight=1

The runs are those of ``samix compare``, with a few epochs and one thread each; where there are several rounds, all
mixups come in each, by another seed. Of every run the first epoch is left out, and the median of the others is taken by
the clock: on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from training_command import one_thread


def epochs_of(folder: Path, images: int) -> list[float]:
    """Seconds of each epoch of a run but the first."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [images / row["images_per_second"] for row in rows[1:]]


def main() -> None:
    """Trains, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:DIR")
    parser.add_argument("--recipe", default="cifar-few")
    parser.add_argument("--images", type=int, default=1000, help="of an epoch")
    parser.add_argument("--mixups", nargs="+", default=["vanilla", "cutmix", "automix", "samix", "samix:preset=fast"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if "vanilla" not in arguments.mixups:
        parser.error("--mixups must have vanilla, which the ratios refer to")
    with tempfile.TemporaryDirectory(prefix="samix-epochs-") as temporary:
        command = [sys.executable, "-m", "samix", "compare", *arguments.mixups, "--seeds", str(arguments.rounds)]
        command += ["--recipe", arguments.recipe, "--data", arguments.data, "--limit", str(arguments.images)]
        command += ["--epochs", str(arguments.epochs), "--eval-every", str(arguments.epochs), "--jobs", "1"]
        subprocess.run([*command, "--out", temporary], env=one_thread(), check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[float]] = {}
        for folder in sorted(Path(temporary).glob("*-s[0-9]*")):
            name = folder.name.rpartition("-s")[0]
            found.setdefault(name, []).extend(epochs_of(folder, arguments.images))
    base = statistics.median(found["vanilla"])
    print(f"{'mixup':40}{'s an epoch':>11}{'ratio':>7}")
    for name, seconds in found.items():
        print(f"{name:40}{statistics.median(seconds):11.3f}{statistics.median(seconds) / base:7.2f}")


if __name__ == "__main__":
    main()
