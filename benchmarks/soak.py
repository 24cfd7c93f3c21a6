"""Trains for an hour and watches the memory: what is held in the last tenth of the time against the first.

    python benchmarks/soak.py --minutes 60 --out docs/results/soak.json

The run is the real command in a process of its own with one worker process: SAMix on scanned digits, a slim network,
one thread. Its epochs are so many that it takes about the time, and it draws its pictures twelve times. Every two
seconds the memory of the process and of its workers is read from /proc: the proportional set (PSS), in which a page
that several processes share is counted in parts, and the resident set (RSS) of the training process. Counted is from
the sixth picture on: matplotlib's first pictures each take some more memory, later ones none. A run that is not through
at the end of the time is asked to stop, as a scheduler does, and must save. All runs use a copy of the package as it
was at the start. Exit status 1: it grew by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import children, memory
from training_command import SLIM, copy_package, one_thread

FLAGS = ["--model-args", SLIM, "--limit", "200", "--batch-size", "20", "--size", "16", "--device", "cpu"]
FLAGS += ["--no-device-data", "--workers", "1", "--eval-every", "20", "--quiet"]
EVERY = 2.0  # seconds between readings
ALLOWED = 1.02
PICTURES = 6  # until matplotlib takes no more memory


def tree(number: int) -> list[int]:
    """A process and all below it."""
    numbers, found = [number], []
    while numbers:
        found.append(numbers.pop())
        numbers += children(found[-1])
    return found


def held(number: int) -> tuple[float, float]:
    """PSS of a process and all below it, and RSS of the process alone, in MiB."""
    pss, rss = 0.0, 0.0
    for place in tree(number):
        try:
            sizes = memory(place)
        except OSError:  # it has just ended
            continue
        pss += sizes["Pss"]
        rss = sizes["Rss"] if place == number else rss
    return pss, rss


def launch(flags: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Starts the command on the copy of the package, politely."""
    command = [sys.executable, "-m", "samix", "train", *flags, "--out", str(folder / "runs")]
    with (folder / "errors.txt").open("ab") as errors:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=one_thread(PYTHONPATH=str(folder)),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=lambda: os.nice(10),
        )


def seconds_per_epoch(flags: list[str], folder: Path) -> float:
    """By a run of two epochs."""
    with launch([*flags, "--epochs", "2", "--run", "short"], folder) as process:
        if process.wait() != 0:
            raise SystemExit((folder / "errors.txt").read_text()[-2000:])
    rows = [json.loads(line) for line in (folder / "runs/short/metrics.jsonl").read_text().splitlines()]
    return float(statistics.median(200 / row["images_per_second"] for row in rows[1:])) * 1.2  # and evaluation


def watch(process: subprocess.Popen[bytes], picture: Path, seconds: float) -> list[tuple[float, float, float]]:
    """(seconds since the start, PSS, RSS) until the time is over or the run has ended, from the sixth picture on."""
    start, readings = time.monotonic(), []
    drawn: set[int] = set()
    while (now := time.monotonic() - start) < seconds and process.poll() is None:
        if picture.is_file():
            drawn.add(picture.stat().st_mtime_ns)
        if len(drawn) >= PICTURES:
            readings.append((now, *held(process.pid)))
        time.sleep(EVERY)
    return readings


def tenths(values: list[float]) -> list[float]:
    """The median of each tenth of the readings."""
    return [round(statistics.median(values[len(values) * k // 10 : len(values) * (k + 1) // 10]), 2) for k in range(10)]


def main() -> int:
    """Soaks, and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--mixup", default="samix")
    parser.add_argument("--out", type=Path, help="JSON to write")
    asked, more = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        copy_package(folder)
        flags = ["--mixup", asked.mixup, *FLAGS, *more]
        epochs = max(24, round(60 * asked.minutes / seconds_per_epoch(flags, folder)))
        process = launch([*flags, "--epochs", str(epochs), "--run", "long"], folder)
        try:
            readings = watch(process, folder / "runs/long/curves.png", 60 * asked.minutes)
            process.send_signal(signal.SIGTERM)  # does nothing where it has ended
            status = process.wait(timeout=300)
        finally:
            process.kill()
            process.wait()
        if len(readings) < 20:
            raise SystemExit(f"only {len(readings)} readings since the sixth picture; give it more --minutes")
        rows = (folder / "runs/long/metrics.jsonl").read_text().splitlines()
    finally:
        shutil.rmtree(folder)
    pss, rss = tenths([row[1] for row in readings]), tenths([row[2] for row in readings])
    growth = {"pss": pss[-1] / pss[0], "rss": rss[-1] / rss[0]}
    result = {
        "minutes": round(readings[-1][0] / 60, 1),
        "counted_from_s": round(readings[0][0], 1),
        "mixup": asked.mixup,
        "flags": flags,
        "epochs_done": len(rows),
        "steps_done": json.loads(rows[-1])["step"],
        "status": status,  # 130: stopped and saved; 0: it had ended
        "pss_mib_by_tenth": pss,
        "rss_mib_by_tenth": rss,
        "growth": {name: round(value, 4) for name, value in growth.items()},
    }
    print(json.dumps(result, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if max(growth.values()) <= ALLOWED and status in (0, 130) else 1


if __name__ == "__main__":
    sys.exit(main())
