"""Starts, watches and stops the runs of a comparison, and shows their state meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO, Protocol

from samix.compare.plan import CompareOptions, Job, Plan
from samix.compare.tasks import task_of
from samix.runtime.environment import usable_cores
from samix.runtime.lock import exclusive
from samix.runtime.registry import allowed
from samix.train.interruption import on_stop_signal

LOG = "log.txt"  # of a run's process, in its folder
POLL = 0.2  # seconds between looks at the runs
NO_SOURCE = "the run whose Mixer it mixes by has failed"


class Handle(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Returns the exit status, or None while it runs."""

    def stop(self) -> None:
        """Asks it to save its state and end."""

    def reason(self) -> str:
        """Says why it failed."""


Start = Callable[[Job, Plan], Handle]


class WorkerProcess:
    """A run in a process of its own."""

    def __init__(self, job: Job, plan: Plan) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        self.log = job.folder / LOG
        options = plan.options
        message = {
            "recipe": job.recipe.to_dict(),
            "mixers": job.mixers,
            "allow": sorted(allowed()),
            "options": {
                "out": str(job.folder.parent),
                "run": job.folder.name,
                "resume": True,
                "quiet": True,
                **{name: getattr(options, name) for name in ("device", "data_root", "download")},
            },
        }
        threads = str(max(usable_cores() // side_by_side(options), 1))
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "samix.compare.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)},
                start_new_session=True,  # Ctrl-C reaches it through us
                text=True,
            )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once: its log says why
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()  # and stays open: its end tells the worker that we are gone

    def poll(self) -> int | None:
        """Returns the exit status, or None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Asks it to save its state and end."""
        if self.process.poll() is None:
            self.process.terminate()

    def reason(self) -> str:
        """Returns the last line that it wrote."""
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        status = self.process.returncode
        return lines[-1].strip() if lines else f"its process ended with status {status}; {self.log} is empty"


def run_jobs(
    plan: Plan, ended: Callable[[Job, str], None], start: Start = WorkerProcess, out: IO[str] | None = None
) -> None:
    """Runs all jobs that are not finished, some side by side.

    Args:
        plan: the comparison.
        ended: called with each job as it ends, and its error; empty where there is none.
        start: starts a job.
        out: where the table goes; None is standard output.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the runs in progress have saved their state.
    """
    waiting = [job for job in plan.jobs if not is_finished(job.folder)]
    active: dict[Job, Handle] = {}
    board = Board(plan, out or sys.stdout)

    def end(job: Job, error: str) -> None:
        board.end(job, error)
        ended(job, error)

    with on_stop_signal(interrupt):
        try:
            while waiting or active:
                while len(active) < side_by_side(plan.options) and (job := next_ready(waiting)):
                    waiting.remove(job)
                    board.begin(job)
                    active[job] = start(job, plan)
                for job in [] if active else waiting:  # the run they wait for has failed
                    board.begin(job)
                    end(job, NO_SOURCE)
                waiting = waiting if active else []
                for job, handle in [(j, h) for j, h in active.items() if h.poll() is not None]:
                    del active[job]
                    if handle.poll() == 130:
                        raise KeyboardInterrupt
                    end(job, "" if handle.poll() == 0 and is_finished(job.folder) else handle.reason())
                board.show()
                if active:
                    time.sleep(POLL)
        finally:
            stop_all(active.values())
            board.close()


def stop_all(handles: Iterable[Handle]) -> None:
    """Stops all runs at once, and waits until they have saved their state."""
    handles = list(handles)
    for handle in handles:
        handle.stop()
    while any(handle.poll() is None for handle in handles):
        time.sleep(POLL)


def next_ready(waiting: Sequence[Job]) -> Job | None:
    """Returns the first job whose Mixer is there, if it needs one; None where none can start."""
    return next((job for job in waiting if job.after is None or is_finished(job.after)), None)


def side_by_side(options: CompareOptions) -> int:
    """Returns the number of runs at a time."""
    import torch

    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    return options.jobs or (1 if on_gpu else usable_cores())


def interrupt() -> None:
    """Ends the comparison; its runs are asked to save their state."""
    raise KeyboardInterrupt


def is_finished(folder: Path) -> bool:
    """Returns whether a run has come to its end."""
    return (folder / "summary.json").is_file()


def only_here(folder: Path) -> AbstractContextManager[None]:
    """Keeps a second comparison out of the folder while this one works in it."""
    return exclusive(folder, "samix compare", "wait for it, or choose another --out")


class Board:
    """The state of all runs: a table that is redrawn in a terminal, a line for each event elsewhere.

    Args:
        plan: the comparison.
        out: where to write.
    """

    def __init__(self, plan: Plan, out: IO[str]) -> None:
        self.plan, self.out = plan, out
        self.live = out.isatty() and not plan.options.quiet
        self.began: dict[tuple[str, int], float] = {}
        self.errors: set[tuple[str, int]] = set()
        self.drawn, self.shown_at = 0, 0.0

    def begin(self, job: Job) -> None:
        """Notes that a run starts."""
        self.began[job.label, job.seed] = time.monotonic()
        self.write(f"{job.label}, seed {job.seed}: begins")

    def end(self, job: Job, error: str) -> None:
        """Notes that a run has ended."""
        key = (job.label, job.seed)
        seconds = time.monotonic() - self.began[key]
        if error:
            self.errors.add(key)
        self.write(f"{job.label}, seed {job.seed}: {'FAILED: ' + error if error else progress(job)}, {seconds:.0f} s")

    def write(self, text: str) -> None:
        """Prints an event where there is no live table."""
        if not self.live and not self.plan.options.quiet:
            print(text, file=self.out, flush=True)

    def show(self) -> None:
        """Draws the table anew, twice a second at most."""
        if self.live and time.monotonic() - self.shown_at > 0.5:
            self.shown_at = time.monotonic()
            self.draw()

    def close(self) -> None:
        """Draws the table a last time."""
        if self.live and self.began:
            self.draw()

    def draw(self) -> None:
        """Writes the table over the former one."""
        width = shutil.get_terminal_size().columns
        lines = [line[: width - 1] for line in self.table()]
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        self.out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        self.out.flush()
        self.drawn = len(lines)

    def table(self) -> list[str]:
        """Returns a line for each row, with a cell for each seed."""
        seeds = range(self.plan.options.seeds)
        jobs = {(job.label, job.seed): job for job in self.plan.jobs}
        labels = [entry.label for entry in self.plan.entries]
        rows = [["", *[f"seed {seed}" for seed in seeds]]]
        rows += [[label, *[self.cell(jobs.get((label, seed))) for seed in seeds]] for label in labels]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["   ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]

    def cell(self, job: Job | None) -> str:
        """Returns the state of one run."""
        if job is None or (job.label, job.seed) in self.errors:
            return "failed"
        return progress(job, (job.label, job.seed) in self.began)


def progress(job: Job, began: bool = True) -> str:
    """Returns the epoch of a run and the held-out score it has reached."""
    score, path = task_of(job.recipe.name).metrics["top1"], job.folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    row: dict[str, float] = json.loads(lines[-1]) if lines else {}
    if is_finished(job.folder):
        return f"{float(row.get(score, 0.0)):.2f} %"
    if not began:
        return "waits"
    if "epoch" not in row:
        return "begins"
    return f"{row['epoch']:.0f}/{job.recipe.epochs}" + (f"  {row[score]:.2f} %" if score in row else "")
