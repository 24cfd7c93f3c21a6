"""One run of a comparison, in a process of its own: ``python -m samix.compare.worker`` with the job on its input.

The parent keeps the input open. When it ends, by whatever cause, the run saves its state and stops.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from samix.compare.plan import mixer_folder
from samix.compare.previews import write_previews
from samix.compare.provenance import commit, machine
from samix.compare.run import build_run
from samix.hub.callbacks import ExportMixer, ExportNetwork, MixerFolders
from samix.recipes import Recipe
from samix.recipes.pretrain_recipe import recipe_of
from samix.runtime.atomic_files import write_text
from samix.runtime.registry import allow
from samix.train import Callback, Interrupted, RunOptions
from samix.viz.callbacks import Pictures

LOCK_PATIENCE = 60.0  # seconds for the worker of a killed comparison to save its state


def train(recipe: Recipe, options: RunOptions, mixers: Sequence[int] = ()) -> None:
    """Trains or continues a run, and writes the previews of the report into its folder.

    Its pictures are drawn once, at its end: they take as long as a short epoch.
    """
    start = time.process_time()
    callbacks: list[Callback] = [ExportNetwork(), ExportMixer()]
    if options.pictures:
        callbacks.insert(0, Pictures(times=0))
    if mixers:
        callbacks.insert(0, MixerFolders({epoch: Path(mixer_folder(epoch, recipe)) for epoch in mixers}))
    run = build_run(recipe, options, callbacks)
    run.lock_patience = LOCK_PATIENCE
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    try:
        run.fit()
    finally:
        if run.folder.is_dir():
            write_cost(run.folder, run.device, time.process_time() - start)
    write_previews(run.method, recipe, run.data, run.folder)


def write_cost(folder: Path, device: torch.device, cpu_seconds: float) -> None:
    """Writes ``cost.json``: peak memory in MiB and processor seconds over all parts of a run; machine, commit."""
    path, memory = folder / "cost.json", peak_memory(device)
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        memory, cpu_seconds = max(memory, earlier["memory"]), cpu_seconds + earlier.get("cpu_seconds", 0.0)
    measured = {"memory": round(memory, 1), "cpu_seconds": round(cpu_seconds, 1)}
    origin = {
        "of": "GPU" if device.type == "cuda" else "process",
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "commit": commit(),
    }
    write_text(path, json.dumps({**measured, **origin}))


def peak_memory(device: torch.device) -> float:
    """Returns the peak in MiB: of the tensors on the GPU, or of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def stop_with_parent() -> None:
    """Asks this process to stop when its input ends."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Reads the job and runs it; an error is written as one line."""
    job = json.loads(sys.stdin.readline())
    stop_with_parent()
    for name in job.get("allow", ()):
        allow(name)
    try:
        train(recipe_of(job["recipe"]), RunOptions(**job["options"]), job.get("mixers", ()))
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    except Exception as error:
        print(f"{str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
