"""Kills training at random moments, resumes it, and compares what comes out with an unbroken run, bit for bit.

    python benchmarks/crash.py --kills 50 --seed 0 --out docs/results/crash.json

Every run is the real command in a process of its own, on a hundred scanned digits, on the CPU with one thread. It is
killed again and again by one of:

    SIGKILL     as the kernel does it when memory is short, or a machine that is switched off
    SIGTERM     as a scheduler does it; the run saves and ends with status 130
    Ctrl-C      the same, by SIGINT
    disk full   the file system of the runs is filled up; one line, status 1
    read-only   it is made read-only; one line, status 1
    closed pipe nobody reads what the run prints any more; it goes on
    full pipe   the same, but the pipe stays open and is full; it goes on

After each, the same command is given with --resume; all runs use a copy of the package as it was at the start. Compared
with the unbroken run are last.pt and best.pt (weights, optimiser, queue, bank, counters), metrics.jsonl without its
times, and the exported weights. A kill has survived if the process ended as said above and the run that it was in ended
with no difference. For a full and a read-only disk the runs lie in a small file system in memory, which only root may
make; without it, the length of files is limited, and the folder is made read-only, which stops nobody but root.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from place import Place
from training_command import SLIM, copy_package, one_thread

CODE = """
import sys
import torch
from samix.cli.main import main
torch.set_num_threads(1)
sys.exit(main(sys.argv[1:]))
"""
COMMON = ["--model-args", SLIM, "--limit", "100", "--batch-size", "20", "--size", "8", "--device", "cpu"]
COMMON += ["--save-every", "4", "--no-pictures"]
MOCO = ["pretrain", "--method", "moco", "--method.queue", "40", "--method.dim", "8"]
METHODS = {
    "samix": ["train", "--mixup", "samix", "--epochs", "8"],
    "recursivemix": ["train", "--mixup", "recursivemix", "--epochs", "16"],
    "moco + samix": [*MOCO, "--mixup", "samix", "--epochs", "8"],
    "moco + samix-c": [
        *[*MOCO, "--mixup", "samix-c", "--epochs", "8", "--mixup.clusters", "5"],
        *["--mixup.warmup-epochs", "2", "--mixup.centroid-every", "4", "--mixup.repair-every", "6"],
    ],
}
KINDS = ("SIGKILL", "SIGTERM", "Ctrl-C", "disk full", "read-only", "closed pipe", "full pipe")
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
DISK = ("disk full", "read-only")
TIMES = ("images_per_second", "seconds")  # what may differ between equal runs
F_SETPIPE_SZ = 1031
LIMIT = 600.0  # seconds for a process


@dataclasses.dataclass
class Kill:
    """One kill.

    Args:
        method: name of the method.
        kind: of :data:`KINDS`.
        after: seconds from the start of the loop, or of the process where it hit before the loop.
        early: before the loop.
        ended: how the process ended, in words.
        as_wanted: whether that is how it should end.
        run: number of the run it was in.
        step: of the newest checkpoint that was left; -1 where there was none.
        words: last line that the process wrote to standard error.
    """

    method: str
    kind: str
    after: float
    early: bool
    ended: str = ""
    as_wanted: bool = False
    run: int = 0
    step: int = -1
    words: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# Processes.


def start(method: str, place: Path, run: str, quiet: bool = True) -> subprocess.Popen[bytes]:
    """Starts the command; with ``quiet`` off, it prints its progress into a pipe of one page."""
    command = [sys.executable, "-c", CODE, *METHODS[method], *COMMON, "--out", str(place), "--run", run, "--resume"]
    if quiet:
        sink = (place.parent / "stderr.txt").open("wb")
        with sink:
            return subprocess.Popen(
                [*command, "--quiet"],
                cwd=place.parent / "code",
                env=one_thread(),
                stdout=subprocess.DEVNULL,
                stderr=sink,
            )
    process = subprocess.Popen(
        command, cwd=place.parent / "code", env=one_thread(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    fcntl.fcntl(process.stdout.fileno(), F_SETPIPE_SZ, 4096)
    return process


def wait_for_loop(process: subprocess.Popen[bytes], folder: Path, before: int) -> None:
    """Until the process begins to train, or ends: it then writes its log anew."""
    until = time.monotonic() + LIMIT
    while process.poll() is None and changed(folder) == before and time.monotonic() < until:
        time.sleep(0.002)


def changed(folder: Path) -> int:
    """When the log was written."""
    log = folder / "metrics.jsonl"
    return log.stat().st_mtime_ns if log.is_file() else 0


def end(process: subprocess.Popen[bytes]) -> str:
    """Waits for the end and says how it was."""
    try:
        status = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "stood still"
    finally:
        process.kill()  # where this program itself was told to end
        if process.stdout is not None:
            process.stdout.close()
    return f"signal {-status}" if status < 0 else f"status {status}"


def last_line(path: Path) -> str:
    """The last line of a file; with a count where there are more."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines[-1] if len(lines) == 1 else f"({len(lines)} lines) {lines[-1]}") if lines else ""


def strike(kill: Kill, place: Place, folder: Path, draw: random.Random) -> None:
    """Starts or continues a run, and kills it."""
    before = changed(folder)
    piped = kill.kind in ("closed pipe", "full pipe")
    process = start(kill.method, place.folder, folder.name, quiet=not piped)
    if not kill.early:
        wait_for_loop(process, folder, before)
    time.sleep(kill.after)
    if kill.kind in SIGNALS:
        process.send_signal(SIGNALS[kill.kind])
    elif kill.kind == "closed pipe":
        assert process.stdout is not None
        process.stdout.close()
    elif kill.kind in DISK:
        place.spoil(kill.kind, process.pid)
    kill.ended = end(process)
    if kill.kind in DISK:
        place.mend(kill.kind)
    kill.words = "" if piped else last_line(place.folder.parent / "stderr.txt")
    kill.as_wanted = wanted(kill)
    last = folder / "last.pt"
    kill.step = int(torch.load(last, weights_only=True)["step"]) if last.is_file() else -1


def wanted(kill: Kill) -> bool:
    """Whether a process ended as it should. One that had finished before it was hit ends with status 0."""
    if kill.ended == "status 0":
        return kill.words == ""
    if kill.kind == "SIGKILL":
        return kill.ended == "signal 9"
    if kill.kind in ("SIGTERM", "Ctrl-C") and kill.early:  # nothing was begun, nothing need be saved
        return kill.ended in ("signal 15", "signal 2", "status 130", "status 1")
    if kill.kind in ("SIGTERM", "Ctrl-C"):
        one_line = kill.words.startswith("samix: stopped")
        # Before and after the loop a signal ends the process as usual.
        return kill.ended in ("signal 15", "signal 2") or (kill.ended == "status 130" and one_line)
    if kill.kind in DISK:
        return kill.ended == "status 1" and kill.words.startswith("samix: ")
    return False


# ---------------------------------------------------------------------------------------------------------------------
# The comparison.


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two nested values differ in any bit; times are left out."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) else [at]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if key not in TIMES]
        missing = [f"{at}/{key}" for key in keys if key not in a or key not in b]
        return missing + [d for k in keys if k in a and k in b for d in differences(a[k], b[k], f"{at}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{at}/{i}")]
    return [] if a == b else [at]


def run_differences(a: Path, b: Path) -> list[str]:
    """Where two finished runs differ."""
    found = []
    for name in ("last.pt", "best.pt"):
        found += differences(*(torch.load(folder / name, weights_only=True) for folder in (a, b)), name)
    logs = [(folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for folder in (a, b)]
    found += differences(*([json.loads(line) for line in log] for log in logs), "metrics.jsonl")
    weights = [(folder / "export/model.safetensors").read_bytes() for folder in (a, b)]
    return found + ["export"] * (weights[0] != weights[1])


# ---------------------------------------------------------------------------------------------------------------------


def unbroken(method: str, place: Place) -> tuple[Path, float, float]:
    """The unbroken run of a method, the seconds until its loop, and those of its loop."""
    folder, started = place.folder / f"whole-{slug(method)}", time.monotonic()
    process = start(method, place.folder, folder.name)
    wait_for_loop(process, folder, 0)
    before = time.monotonic() - started
    ended = end(process)
    if ended != "status 0":
        raise RuntimeError(f"{method} does not run at all: {last_line(place.folder.parent / 'stderr.txt')}")
    return folder, before, time.monotonic() - started - before


def slug(method: str) -> str:
    """A method's name for a folder."""
    return method.replace(" ", "")


def try_method(method: str, kinds: list[str], place: Place, draw: random.Random) -> tuple[list[Kill], list[str]]:
    """Kills runs of a method, finishes each, and compares: all kills, and all differences."""
    whole, before, loop = unbroken(method, place)
    print(f"{method}: unbroken, {before:.1f} s before the loop and {loop:.1f} s in it", flush=True)
    kills: list[Kill] = []
    found: list[str] = []
    number = 0
    for kind in [*kinds, ""]:
        folder = place.folder / f"cut-{slug(method)}-{number}"
        if kind:
            early = kind in SIGNALS and draw.random() < 0.1
            after = draw.uniform(0, before if early else loop / 2)
            kills.append(kill := Kill(method, kind, round(after, 3), early, run=number))
            strike(kill, place, folder, draw)
            print(f"  {kind:12} {kill.ended:10} step {kill.step:4}  {kill.words[:90]}", flush=True)
        elif folder.is_dir():
            print(f"  the last process: {end(start(method, place.folder, folder.name))}", flush=True)
        if (folder / "summary.json").is_file():
            found += (differ := [f"{folder.name}: {d}" for d in run_differences(whole, folder)])
            print(f"  run {number} is whole: {len(differ)} differences {differ[:3]}", flush=True)
            shutil.rmtree(folder)
            number += 1
        elif not kind and folder.is_dir():
            found.append(f"{folder.name}: did not end")
    shutil.rmtree(whole)
    return kills, found


def too_late(kill: Kill) -> bool:
    """Whether the process had finished before it was hit."""
    return kill.ended == "status 0" and (kill.kind in SIGNALS or kill.kind in DISK)


def survived(kill: Kill, found: list[str]) -> bool:
    """Whether a kill did no harm."""
    name = f"cut-{slug(kill.method)}-{kill.run}:"
    return kill.as_wanted and not any(difference.startswith(name) for difference in found)


def table(kills: list[Kill], found: list[str]) -> str:
    """Kills survived of kills tried, by method and kind; those that came too late are left out."""
    kills = [kill for kill in kills if not too_late(kill)]
    kinds = [kind for kind in KINDS if any(kill.kind == kind for kill in kills)]
    lines = ["| | " + " | ".join(kinds) + " | all | differences |", "|---|" + "---|" * (len(kinds) + 2)]
    for method in [*dict.fromkeys(kill.method for kill in kills), "all"]:
        mine = [kill for kill in kills if method in (kill.method, "all")]
        cells = []
        for kind in [*kinds, "all"]:
            some = [kill for kill in mine if kind in (kill.kind, "all")]
            cells.append(f"{sum(survived(kill, found) for kill in some)} / {len(some)}")
        differ = sum(d.startswith(f"cut-{slug(method)}-") for d in found) if method != "all" else len(found)
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {differ} |")
    return "\n".join(lines)


def main() -> None:
    """Tries all, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="over all methods, those too late to count included")
    parser.add_argument("--seed", type=int, default=0, help="of the kinds and moments")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of them, parted by commas")
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of them, parted by commas")
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    arguments = parser.parse_args()
    draw, started = random.Random(arguments.seed), time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the file system away before it ends
    methods = [method.strip() for method in arguments.methods.split(",")]
    kills: list[Kill] = []
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="samix-crash-") as temporary:
        folder = Path(temporary) / "runs"
        folder.mkdir()
        copy_package(Path(temporary) / "code")
        place = Place(folder)
        try:
            refused = {kind: place.refusal(kind) for kind in KINDS if place.refusal(kind)}
            for kind, why in refused.items():
                print(f"{kind} is not tried: {why}")
            # Signals, which leave a run to go on with, three times as often as what ends it or does not.
            chosen = [kind for kind in arguments.kinds.split(",") if kind not in refused]
            pool = [kind for kind in chosen for _ in range(3 if kind in SIGNALS else 1)]
            kinds: list[str] = []
            while len(kinds) < arguments.kills:
                draw.shuffle(pool)
                kinds += pool
            for number, method in enumerate(methods):
                mine = kinds[: arguments.kills][number :: len(methods)]
                more, differ = try_method(method, mine, place, draw)
                kills, found = kills + more, found + differ
        finally:
            place.close()
    print(table(kills, found))
    hits = [kill for kill in kills if not too_late(kill)]
    counts = collections.Counter(survived(kill, found) for kill in hits)
    late = len(kills) - len(hits)
    print(f"kills tried {len(hits)}, survived {counts[True]}, differences {len(found)}; {late} came too late to count")
    print("\n".join(found[:20]))
    if arguments.out is not None:
        content = {
            "kills": len(hits),
            "too_late": late,
            "survived": counts[True],
            "differences": found,
            "not_tried": refused,
            "seconds": round(time.monotonic() - started),
            "torch": torch.__version__,
            "seed": arguments.seed,
            "each": [{**dataclasses.asdict(kill), "survived": survived(kill, found)} for kill in kills],
        }
        arguments.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
