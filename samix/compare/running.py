"""Starting, watching and stopping the runs of a comparison, and the table that is shown meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from samix.compare.plan import CompareOptions, Job, Plan
from samix.compare.tasks import task_of
from samix.runtime.environment import usable_cores
from samix.runtime.lock import exclusive
from samix.runtime.registry import allowed

LOG = "log.txt"  # of a run's process, in its folder
POLL = 0.2  # seconds between looks at the runs
NO_SOURCE = "the run whose Mixer it mixes by has failed"


class Handle(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""

    def stop(self) -> None:
        """Asks it to save its state and end."""

    def reason(self) -> str:
        """Why it failed."""


Start = Callable[[Job, Plan], Handle]


class Child:
    """A run in a process of its own."""

    def __init__(self, job: Job, plan: Plan) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        self.log = job.folder / LOG
        options = plan.options
        told = {
            "recipe": job.recipe.to_dict(),
            "mixers": job.mixers,
            "allow": sorted(allowed()),
            "options": {
                "out": str(job.folder.parent),
                "run": job.folder.name,
                "resume": True,
                "device": options.device,
                "data_root": options.data_root,
                "download": options.download,
                "quiet": True,
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
            self.process.stdin.write(json.dumps(told) + "\n")
            self.process.stdin.flush()  # and stays open: its end is the sign that we are gone

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Asks it to save its state and end."""
        if self.process.poll() is None:
            self.process.terminate()

    def reason(self) -> str:
        """The last line that it wrote."""
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        status = self.process.returncode
        return lines[-1].strip() if lines else f"its process ended with status {status}; {self.log} is empty"


def run_jobs(plan: Plan, ended: Callable[[Job, str], None], start: Start = Child, out: IO[str] | None = None) -> None:
    """Runs all jobs that are not finished, some side by side.

    Args:
        plan: the comparison.
        ended: called with each job as it ends, and what went wrong; empty where nothing did.
        start: how a job is started.
        out: where the table goes; None is standard output.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the runs in progress have saved their state.
    """
    waiting = [job for job in plan.jobs if not is_finished(job.folder)]
    active: dict[Job, Handle] = {}
    board = Board(plan, out or sys.stdout)
    with interrupt_on_term():
        try:
            while waiting or active:
                while len(active) < side_by_side(plan.options) and (job := next_ready(waiting)):
                    waiting.remove(job)
                    board.begin(job)
                    active[job] = start(job, plan)
                for job in [] if active else waiting:  # what they wait for has failed
                    board.begin(job)
                    board.end(job, NO_SOURCE)
                    ended(job, NO_SOURCE)
                waiting = waiting if active else []
                for job, handle in [(j, h) for j, h in active.items() if h.poll() is not None]:
                    del active[job]
                    error = "" if handle.poll() == 0 and is_finished(job.folder) else handle.reason()
                    if handle.poll() == 130:
                        raise KeyboardInterrupt
                    board.end(job, error)
                    ended(job, error)
                board.show()
                if active:
                    time.sleep(POLL)
        finally:
            for handle in active.values():
                handle.stop()
            for handle in active.values():
                while handle.poll() is None:
                    time.sleep(POLL)
            board.close()


def next_ready(waiting: Sequence[Job]) -> Job | None:
    """The first job whose Mixer is there, if it needs one; None where none can start."""
    return next((job for job in waiting if job.after is None or is_finished(job.after)), None)


def side_by_side(options: CompareOptions) -> int:
    """How many runs go on at a time."""
    import torch

    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    return options.jobs or (1 if on_gpu else usable_cores())


@contextmanager
def interrupt_on_term() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, where signals are ours to take."""

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_finished(folder: Path) -> bool:
    """Whether a run has come to its end."""
    return (folder / "summary.json").is_file()


def only_here(folder: Path) -> AbstractContextManager[None]:
    """Keeps a second comparison out of the folder while this one works in it."""
    return exclusive(folder, "samix compare", "wait for it, or choose another --out")


# ---------------------------------------------------------------------------------------------------------------------


class Board:
    """The state of all runs: a table that is redrawn in a terminal, lines as things happen elsewhere.

    Args:
        plan: the comparison.
        out: where to write.
    """

    def __init__(self, plan: Plan, out: IO[str]) -> None:
        self.plan, self.out = plan, out
        self.live = out.isatty() and not plan.options.quiet
        self.began: dict[tuple[str, int], float] = {}
        self.errors: dict[tuple[str, int], str] = {}
        self.drawn, self.shown_at = 0, 0.0

    def begin(self, job: Job) -> None:
        """A run starts."""
        self.began[job.label, job.seed] = time.monotonic()
        self.line(f"{job.label}, seed {job.seed}: begins")

    def end(self, job: Job, error: str) -> None:
        """A run has ended."""
        key = (job.label, job.seed)
        seconds = time.monotonic() - self.began[key]
        if error:
            self.errors[key] = error
        self.line(f"{job.label}, seed {job.seed}: {'FAILED: ' + error if error else progress(job)}, {seconds:.0f} s")

    def line(self, text: str) -> None:
        """Something that happened, where there is no live table."""
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
        """A line for each mixup, a column for each seed."""
        seeds = range(self.plan.options.seeds)
        first = max(len(e.label) for e in self.plan.entrants)
        rows = [[f"seed {seed}" for seed in seeds]]
        jobs = {(job.label, job.seed): job for job in self.plan.jobs}
        rows += [[self.cell(jobs.get((e.label, seed))) for seed in seeds] for e in self.plan.entrants]
        widths = [max(len(row[at]) for row in rows) for at in seeds]
        heads = ["", *[e.label for e in self.plan.entrants]]
        return [
            f"{head:{first}}   " + "   ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True))
            for head, row in zip(heads, rows, strict=True)
        ]

    def cell(self, job: Job | None) -> str:
        """The state of one run."""
        if job is None or (job.label, job.seed) in self.errors:
            return "failed"
        return progress(job, (job.label, job.seed) in self.began)


def progress(job: Job, began: bool = True) -> str:
    """How far a run is, and the held-out accuracy it has reached."""
    score = task_of(job.recipe.name).metrics["top1"]
    if is_finished(job.folder):
        return f"{float(last_row(job.folder).get(score, 0.0)):.2f} %"
    if not began:
        return "waits"
    row = last_row(job.folder)
    if "epoch" not in row:
        return "begins"
    return f"{row['epoch']:.0f}/{job.recipe.epochs}" + (f"  {row[score]:.2f} %" if score in row else "")


def last_row(folder: Path) -> dict[str, float]:
    """The last line of ``metrics.jsonl``; empty where there is none yet."""
    path = folder / "metrics.jsonl"
    lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return dict(json.loads(lines[-1])) if lines else {}
