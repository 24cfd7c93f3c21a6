"""One loop for every method: train, evaluate, save, call back, resume. Its steps are in :mod:`samix.train.steps`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NoReturn

import torch
from torch import nn

from samix.data import ImageData
from samix.data.replacements import check_readable
from samix.networks.inference import evaluating
from samix.recipes import Recipe
from samix.runtime import distributed
from samix.runtime.atomic_files import write_text
from samix.runtime.checks import Values
from samix.runtime.console import SteadyStream, plural, printable, tell
from samix.runtime.distributed import lost_process
from samix.runtime.environment import device_name, versions
from samix.train.callbacks import Callback, CallbackList
from samix.train.checkpoint import LAST, State, load_into, load_last, save_checkpoint, set_aside
from samix.train.folder import check_same, claimed, describe_data
from samix.train.interruption import Interrupted, LostProcess, on_stop_signal
from samix.train.metrics import Sums, classifier_sums, summarise
from samix.train.options import RunOptions
from samix.train.steps import Training

if TYPE_CHECKING:
    from tqdm import tqdm


class Run(Training):
    """One training run: epochs of steps, and the folder that it fills. A run without labels is a subclass.

    Args:
        recipe: what to train.
        options: where and how.
        callbacks: what happens around the steps: pictures, exports, logs.
        data: see :class:`samix.train.steps.Training`.
        make_network: see :class:`samix.train.steps.Training`.
    """

    score: ClassVar[str] = "top1"  # the metric by which the best checkpoint is kept
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5", "nll", "ece")  # of the summary
    lock_patience: float = 0.0  # seconds to wait for another process that writes the folder

    def __init__(
        self,
        recipe: Recipe,
        options: RunOptions,
        callbacks: Iterable[Callback] = (),
        data: ImageData | None = None,
        make_network: Callable[[Training, int], nn.Module] | None = None,
    ) -> None:
        super().__init__(recipe, options, data, make_network)
        self.callbacks = CallbackList(callbacks)
        self.by_class: dict[str, float | None] = {}  # top-1 of the last evaluation
        self.evaluation_failed = False

    # The loop ---------------------------------------------------------------------------------------------------------

    def fit(self) -> Values:
        """Trains to the end and returns the summary that is also written.

        Raises:
            NonFiniteLoss: a loss or gradient is NaN or infinite, more often than may be skipped; the last checkpoint
                stays, and the batch is saved.
            Interrupted: SIGTERM, SIGHUP or Ctrl-C, after the state was saved.
            CannotWrite: the disk is full or read-only; the last checkpoint stays.
            UnreadableImage: an image is damaged, and is not to be skipped.
            LostProcess: another process has ended.
            ValueError: the folder holds another run, or something that an option needs is missing.
        """
        chief = self.accelerator.is_main_process
        try:
            with claimed(self.folder, self.options.resume, chief, self.lock_patience) as there:
                self.start(there)
                total = self.recipe.epochs * self.steps_per_epoch
                if self.step >= total and self.accelerator.is_main_process and not self.options.quiet:
                    tell(f"samix: {self.folder} is finished; --epochs with more than {self.recipe.epochs} continues it")
                with self.progress_bar(total) as bar, on_stop_signal(self.ask_to_stop):
                    while self.step < total and not self.is_out_of_patience():
                        self.train_epoch(
                            self.step // self.steps_per_epoch, self.step % self.steps_per_epoch, total, bar
                        )
                return self.finish()
        except RuntimeError as error:
            lost = lost_process(error)
            if lost is None:
                raise
            raise LostProcess(lost) from error

    def train_epoch(self, epoch: int, first: int, total: int, bar: tqdm[NoReturn]) -> None:
        """Takes the steps of one epoch from ``first`` on, then evaluates and saves."""
        self.method.train()
        started, images_seen, stop = time.perf_counter(), 0, False
        if first == 0:
            self.method.start_epoch()
        self.take_snapshot()
        batches, number = self.batches_from(epoch, first), first
        while number < self.steps_per_epoch:
            images_seen += self.one_step(batches, total)
            bar.update(1)
            number += 1
            last = number == self.steps_per_epoch
            if not (last or self.sync_due()):
                continue
            status = self.sync()
            if status.bad:
                self.skip(status.bad, epoch)
                bar.update(self.step - bar.n)
                number = self.step % self.steps_per_epoch
                batches = self.batches_from(epoch, number)
                continue
            stop, seconds = status.stop, time.perf_counter() - started
            self.show(bar, status.loss / number, images_seen / seconds)
            if (stop or status.save) and not last:
                self.save_inside_epoch(seconds)
                if stop:
                    raise self.interrupted()
            if not last:
                self.take_snapshot()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.end_epoch(epoch + 1, images_seen / seconds)
        if stop and self.step < total:
            raise self.interrupted()

    def is_out_of_patience(self) -> bool:
        """Returns whether the last ``patience`` evaluations were no better than those before, on every process."""
        patience, scores = self.recipe.patience, [row[self.score] for row in self.rows if self.score in row]
        if not patience or len(scores) <= patience:
            return False
        better = max(scores[-patience:]) > max(scores[:-patience])
        return bool(self.mean(torch.tensor(float(better), device=self.device)) == 0)

    def end_epoch(self, epoch: int, rate: float) -> None:
        """Evaluates, saves, and calls the callbacks."""
        skipped = sum(step > self.step - self.steps_per_epoch for step in self.skips)
        means = self.losses.means(self.recipe.accumulate, self.mean)
        if not means:
            raise self.not_finite(f"every step of epoch {epoch} was skipped")
        self.losses.clear()
        self.check_weights()
        row: dict[str, float] = {"epoch": epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row.update(means)
        row["skipped"] = skipped
        if self.options.on_bad_image == "skip":
            bad, self.train_batches.bad = self.train_batches.bad, set()
            row["bad_images"] = self.bad_images.report_training(bad, epoch)
        row["images_per_second"] = rate
        if epoch == self.recipe.epochs or epoch % self.recipe.eval_every == 0:
            row.update(self.evaluate())
            if not math.isfinite(row.get("nll", 0.0)):
                raise self.not_finite(f"the held-out loss is {row['nll']} after epoch {epoch}")
        self.rows.append(row)
        if self.accelerator.is_main_process:
            self.save_epoch(row)
            self.callbacks.call(lambda callback: callback.on_epoch_end(self, row), "end of an epoch")
        self.accelerator.wait_for_everyone()

    def finish(self) -> Values:
        """Calls the callbacks, writes the summary and returns it."""
        summary: Values = {
            **summarise(self.rows, self.score, self.headline),
            "seconds": round(self.seconds, 1),
            "epochs": len(self.rows),
            "images_per_second": round(self.step * self.recipe.batch_size / max(self.seconds, 1e-9), 1),
            **({"by_class": self.by_class} if self.by_class else {}),
            "recipe": self.recipe.to_dict(),
            "versions": versions(),
            "device": device_name(self.device),
            "processes": self.world_size,
        }
        error = None
        if self.accelerator.is_main_process:
            error = self.callbacks.call(lambda callback: callback.on_fit_end(self, summary), "end of the run")
        distributed.raise_together(error)
        if self.accelerator.is_main_process:
            write_text(self.folder / "summary.json", json.dumps(summary, indent=1))
        self.accelerator.wait_for_everyone()
        return summary

    # Evaluation -------------------------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Returns metrics of the held-out images; none, and one line about it, where they cannot be computed.

        An error on one process is one on all: none waits for figures that another will not send.
        """
        self.share_buffers()
        error = ""
        try:
            with evaluating(self.method), self.accelerator.autocast():
                over_processes = self.measure()
        except Exception as failure:
            error = " ".join(str(failure).split()) or type(failure).__name__
        errors = sorted(distributed.texts_of_all(error))
        if errors:
            if self.accelerator.is_main_process and not self.evaluation_failed:
                tell(f"samix: the held-out images could not be evaluated: {errors[0]}; training goes on without")
            self.evaluation_failed = True
            return {}
        self.bad_images.report_held_out(self.val_batches.bad)
        return over_processes()

    def measure(self) -> Callable[[], dict[str, float]]:
        """Measures this process's held-out images; returns the function that joins the metrics of all processes."""
        sums = classifier_sums(self.method.predict, self.val_batches.batches(), self.data.num_classes, self.device)
        return partial(self.metrics_of, sums)

    def metrics_of(self, sums: dict[str, Sums]) -> dict[str, float]:
        """Returns metrics of the reported classifier by name, and top-1 of the others, over all processes."""
        metrics = {name: own.metrics() for name, own in sums.items()}
        first, *others = metrics
        self.by_class = dict(zip(self.data.class_names, sums[first].by_class(), strict=True))
        return {**metrics[first], **{f"top1_{name}": metrics[name]["top1"] for name in others}}

    def share_buffers(self) -> None:
        """Gives every process the BatchNorm statistics of the first one, which are evaluated and saved."""
        if self.world_size > 1:
            for buffer in self.method.buffers():
                torch.distributed.broadcast(buffer, 0)

    # Files ------------------------------------------------------------------------------------------------------------

    def start(self, there: bool) -> None:
        """Continues the run that is in the folder, or begins one, once everything that it needs is there."""
        for callback in self.callbacks.callbacks:
            callback.check(self)
        if there:
            self.load()
        self.check_held_out()
        if self.accelerator.is_main_process:
            if self.step < self.recipe.epochs * self.steps_per_epoch:
                (self.folder / "summary.json").unlink(missing_ok=True)  # of the run before it got more epochs
            write_text(self.folder / "recipe.json", json.dumps(self.recipe.to_dict(), indent=1))
            self.write_rows()
            self.callbacks.call(lambda callback: callback.on_fit_start(self), "start of the run")
        self.accelerator.wait_for_everyone()

    def check_held_out(self) -> None:
        """Looks at this rank's held-out images before training on the others; those in memory are known already."""
        rows, bad, error = self.val_batches.rows, set[int](), None
        if not self.recipe.device_data:
            mine = self.data.val.subset(torch.arange(rows.start, rows.stop))
            try:
                bad = check_readable(mine, self.options.on_bad_image)
            except (ValueError, OSError) as unreadable:
                error = unreadable
        distributed.raise_together(error)
        self.bad_images.report_held_out({rows.start + row for row in bad})

    def load(self) -> None:
        """Continues from the newest whole checkpoint, and says so where a newer one is damaged."""
        state, path, damaged, messages = load_last(self.folder)
        check_same(state, self.recipe, self.data, self.steps_per_epoch, path)
        load_into(self.method, state["method"], path)
        if not self.accelerator.is_main_process:
            state["extra"] = None  # the others' batches are not in the checkpoint: they start without
        self.restore(state)
        self.by_class = state.get("by_class", {})
        self.accelerator.wait_for_everyone()  # all have read
        if self.accelerator.is_main_process:
            set_aside(damaged)
            for line in messages:
                tell(f"samix: {line}; continuing from {path}, at step {self.step}")

    def state(self) -> State:
        """Returns all that a run needs to continue."""
        return {
            **self.progress(),
            "recipe": json.loads(json.dumps(self.recipe.to_dict())),
            "data": describe_data(self.data),
            "versions": versions(),
            "by_class": self.by_class,
        }

    def save_epoch(self, row: dict[str, float]) -> None:
        """Writes the metrics, ``best.pt`` where this epoch is the best, and ``last.pt``."""
        self.write_rows()
        if row.get(self.score, -1.0) > self.best:
            self.best = row[self.score]
            save_checkpoint(self.folder / "best.pt", self.state())
        self.save_last()

    def save_last(self) -> None:
        """Writes ``last.pt``; on the first process only."""
        save_checkpoint(self.folder / LAST, self.state(), self.options.keep)
        self.saved = time.monotonic()

    def save_inside_epoch(self, seconds: float) -> None:
        """Saves in the middle of an epoch, which has taken ``seconds`` so far."""
        own, bad, before = self.losses.state(), self.train_batches.bad, self.seconds
        self.losses.restore(self.losses.state(self.mean))
        self.train_batches.bad = distributed.set_of_all(bad)
        self.seconds += seconds
        self.check_weights()
        if self.accelerator.is_main_process:
            self.save_last()
        self.accelerator.wait_for_everyone()
        self.losses.restore(own)
        self.train_batches.bad, self.seconds = bad, before

    def write_rows(self) -> None:
        """Writes ``metrics.jsonl``."""
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def interrupted(self) -> Interrupted:
        """Returns the error for an interrupted run, with the command that resumes it."""
        return Interrupted(
            f"stopped at step {self.step}; continue with --resume {self.folder} (from Python resume=True)"
        )

    # On the terminal --------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Says what this run is."""
        recipe = self.recipe
        return (
            f"{self.task()} ({self.count_images()}): recipe {recipe.name}, {recipe.model} at {recipe.size} px, "
            f"{plural(recipe.epochs, 'epoch')} of {plural(self.steps_per_epoch, 'step')}, on {self.device} -> "
            f"{self.folder}"
        )

    def task(self) -> str:
        """Returns the mixup and the data."""
        return f"{self.recipe.mixup} on {self.recipe.data}"

    def count_images(self) -> str:
        """Returns the numbers of images and classes, and whether images are enlarged."""
        native, size = self.data.native_size, self.recipe.size
        counts = self.data.describe()
        if native is None or size <= 2 * native:
            return counts
        stem = " --stem small" if native <= 64 else ""
        return f"{counts}, enlarged from {native} px; --size {native}{stem} keeps them as they are"

    def conclude(self, summary: Values) -> str:
        """Says the final figures."""
        speed = f"{summary['seconds']:.0f} s, {summary['images_per_second']:.0f} images/s"
        return "   ".join([*self.figures(summary), speed])

    def figures(self, summary: Values) -> list[str]:
        """Returns the figures that were measured."""
        forms = {"top1": "top-1 {:.2f} %", "top5": "top-5 {:.2f} %", "nll": "NLL {:.4f} nats", "ece": "ECE {:.2f} %"}
        return [form.format(summary[key]) for key, form in forms.items() if key in summary] or ["not evaluated"]

    def next_command(self) -> str:
        """Returns the commands that use a finished run."""
        return f"samix predict {self.folder} IMAGES   or   samix evaluate {self.folder}"

    def show(self, bar: tqdm[NoReturn], loss: float, rate: float) -> None:
        """Refreshes the progress bar, and calls the callbacks that follow it."""
        score = next((f"{row[self.score]:.2f}" for row in reversed(self.rows) if self.score in row), "-")
        bar.set_postfix({"loss": f"{loss:.3f}", self.score: score, "img_s": f"{rate:.0f}"})
        if self.accelerator.is_main_process:
            self.callbacks.call(lambda callback: callback.on_sync(self), "progress of the run")

    def progress_bar(self, total: int) -> tqdm[NoReturn]:
        """Returns a bar over all steps of the run."""
        return self.bar(total, self.recipe.mixup, "step", self.step)

    def bar(self, total: int, what: str, unit: str, first: int = 0) -> tqdm[NoReturn]:
        """Returns a progress bar on the terminal of the first process."""
        from tqdm import tqdm

        return tqdm(
            total=total,
            initial=first,
            desc=printable(what),
            unit=unit,
            disable=self.options.quiet or not self.accelerator.is_main_process,
            dynamic_ncols=True,
            file=SteadyStream(sys.stderr),
        )
