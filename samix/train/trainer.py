"""One loop for every method: train, evaluate, write, resume. Its steps are those of :mod:`samix.train.steps`."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any, ClassVar

import torch

from samix.hub.export import export_network
from samix.hub.mixer_export import has_mixer, write_mixer
from samix.networks.inference import evaluating
from samix.runtime import distributed
from samix.runtime.atomic_files import write_text, writing
from samix.runtime.console import SteadyStream, tell
from samix.runtime.distributed import lost_process
from samix.runtime.environment import device_name, versions
from samix.train.checkpoint import LAST, kept_files, load_into, load_last, save_checkpoint, set_aside
from samix.train.errors import Interrupted, LostProcess
from samix.train.metrics import classification_metrics
from samix.train.pictures import draw_mixed
from samix.train.record import check_same, describe_data, log_to_tensorboard, summarise
from samix.train.steps import Training
from samix.train.stopping import on_stop_signal

PICTURES = 12  # of mixed.png during a run


class Run(Training):
    """One training run: epochs of steps, and the folder that it fills. A run without labels is a subclass."""

    score: ClassVar[str] = "top1"  # the metric by which the best checkpoint is kept
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5", "nll", "ece")  # of the summary

    # The loop ---------------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Trains to the end and returns the summary that is also written.

        Raises:
            NonFiniteLoss: a loss or gradient is NaN or infinite, more often than may be skipped; the last checkpoint
                stays, and the batch is saved.
            Interrupted: SIGTERM, SIGHUP or Ctrl-C, after the state was saved.
            CannotWrite: the disk is full or read-only; the last checkpoint stays.
            UnreadableImage: an image is damaged, and is not to be skipped.
            LostProcess: another process has ended.
            ValueError: the folder holds another run.
        """
        try:
            self.start()
            total = self.recipe.epochs * self.steps_per_epoch
            with self.progress_bar(total) as bar, on_stop_signal(self.ask_to_stop):
                while self.step < total:
                    self.train_epoch(self.step // self.steps_per_epoch, self.step % self.steps_per_epoch, total, bar)
            return self.finish()
        except RuntimeError as error:
            lost = lost_process(error)
            if lost is None:
                raise
            raise LostProcess(lost) from error

    def train_epoch(self, epoch: int, first: int, total: int, bar: Any) -> None:
        """The steps of one epoch from ``first`` on, then evaluation, pictures and checkpoint."""
        self.method.train()
        started, images_seen, stop = time.perf_counter(), 0, False
        if first == 0:
            self.method.start_epoch()
        self.keep_state()
        batches, number = self.batches_from(epoch, first), first
        while number < self.steps_per_epoch:
            images_seen += self.one_step(batches, total)
            bar.update(1)
            number += 1
            last = number == self.steps_per_epoch
            if not (last or self.look_due()):
                continue
            look = self.look()
            if look.bad:
                self.skip(look.bad, epoch)
                bar.update(self.step - bar.n)
                number = self.step % self.steps_per_epoch
                batches = self.batches_from(epoch, number)
                continue
            stop, seconds = look.stop, time.perf_counter() - started
            bar.set_postfix(
                {
                    "loss": f"{look.loss / number:.3f}",
                    self.score: self.last_score(),
                    "img_s": f"{images_seen / seconds:.0f}",
                }
            )
            if (stop or look.save) and not last:
                self.save_inside_epoch(seconds)
                if stop:
                    raise self.interrupted()
            if not last:
                self.keep_state()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.end_epoch(epoch + 1, images_seen / seconds)
        if stop and self.step < total:
            raise self.interrupted()

    def end_epoch(self, epoch: int, rate: float) -> None:
        """Evaluates, logs, draws and saves."""
        skipped = sum(step > self.step - self.steps_per_epoch for step in self.skips)
        if not self.losses.sums:
            raise self.not_finite(f"every step of epoch {epoch} was skipped")
        means = self.accelerator.reduce(self.losses.means(self.recipe.accumulate), reduction="mean").tolist()
        names = list(self.losses.sums)
        self.losses.clear()
        self.check_weights()
        row: dict[str, float] = {"epoch": epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row.update(zip(names, means, strict=True))
        row["skipped"] = skipped
        if self.options.on_bad_image == "skip":
            bad, self.train_batches.bad = self.train_batches.bad, set()
            row["bad_images"] = self.bad_images.report_training(bad, epoch)
        row["images_per_second"] = rate
        last = epoch == self.recipe.epochs
        if last or epoch % self.recipe.eval_every == 0:
            row.update(self.evaluate())
            if not math.isfinite(row.get("nll", 0.0)):
                raise self.not_finite(f"the held-out loss is {row['nll']} after epoch {epoch}")
        self.rows.append(row)
        if self.accelerator.is_main_process:
            self.write_row(row, last)
        self.accelerator.wait_for_everyone()

    def evaluate(self) -> dict[str, float]:
        """Metrics of the reported classifier by name, and top-1 of the others."""
        self.share_buffers()
        with evaluating(self.method), self.accelerator.autocast():
            metrics = classification_metrics(
                self.method.predict, self.val_batches.batches(), self.data.num_classes, self.device
            )
        self.bad_images.report_held_out(self.val_batches.bad)
        first, *others = metrics
        return {**metrics[first], **{f"top1_{name}": metrics[name]["top1"] for name in others}}

    def share_buffers(self) -> None:
        """Each process has BatchNorm statistics of its own; the first one's are evaluated and saved."""
        if self.world_size > 1:
            for buffer in self.method.buffers():
                torch.distributed.broadcast(buffer, 0)

    # Files ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Makes the folder, or continues the run that is in it."""
        there = any(path.is_file() for path in kept_files(self.folder / LAST))
        if there and not self.options.resume:
            raise ValueError(
                f"{self.folder} already holds a run; continue it with --resume, or choose another name with --run NAME"
            )
        self.accelerator.wait_for_everyone()
        if there:
            self.load()
        if self.accelerator.is_main_process:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "recipe.json", json.dumps(self.recipe.to_dict(), indent=1))
            write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def load(self) -> None:
        """Continues from the newest whole checkpoint, and says so where a newer one is damaged.

        Raises:
            DamagedCheckpoint: none is whole.
            ValueError: it is of another recipe; names the fields that differ.
        """
        state, path, damaged, news = load_last(self.folder)
        check_same(state, self.recipe, self.data, path)
        load_into(self.method, state["method"], path)
        if not self.accelerator.is_main_process:
            state["extra"] = None  # the others' batches are not in the checkpoint: they start without
        self.restore(state)
        self.accelerator.wait_for_everyone()  # all have read
        if self.accelerator.is_main_process:
            set_aside(damaged)
            for line in news:
                tell(f"samix: {line}; continuing from {path}, at step {self.step}")

    def state(self) -> dict[str, Any]:
        """All that a run needs to continue."""
        return {
            **self.progress(),
            "recipe": json.loads(json.dumps(self.recipe.to_dict())),
            "data": describe_data(self.data),
            "versions": versions(),
        }

    def save_last(self) -> None:
        """Writes ``last.pt``; on the first process only."""
        save_checkpoint(self.folder / LAST, self.state(), self.options.keep)
        self.saved = time.monotonic()

    def save_inside_epoch(self, seconds: float) -> None:
        """Saves in the middle of an epoch, which has taken so long until now."""
        sums, bad, before = self.losses.sums, self.train_batches.bad, self.seconds
        self.losses.sums = {name: self.accelerator.reduce(value, reduction="mean") for name, value in sums.items()}
        self.train_batches.bad = distributed.set_of_all(bad)
        self.seconds += seconds
        self.check_weights()
        if self.accelerator.is_main_process:
            self.save_last()
        self.accelerator.wait_for_everyone()
        self.losses.sums, self.train_batches.bad, self.seconds = sums, bad, before

    def interrupted(self) -> Interrupted:
        """The news that the run stopped, and how to go on."""
        return Interrupted(f"stopped at step {self.step}; continue with --resume (state saved in {self.folder / LAST})")

    def write_row(self, row: dict[str, float], last: bool) -> None:
        """Log line, pictures and checkpoints of an epoch."""
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.rows))
        every = max(self.recipe.epochs // PICTURES, 1)
        if last or int(row["epoch"]) % every == 0:
            with writing(self.folder / "curves.png"):
                self.draw()
        if self.options.tensorboard:
            with writing(self.folder / "tensorboard"):
                log_to_tensorboard(self.folder / "tensorboard", row)
        if row.get(self.score, -1.0) > self.best:
            self.best = row[self.score]
            save_checkpoint(self.folder / "best.pt", self.state())
        self.save_last()

    def draw(self) -> None:
        """Refreshes ``curves.png`` and ``mixed.png``."""
        from samix.viz.pictures import plot_curves

        def preview(*pair: Any) -> Any:
            with self.accelerator.autocast():
                return self.method.preview(*pair)

        plot_curves(self.folder / "curves.png", self.rows)
        title = f"{self.recipe.mixup}, epoch {int(self.rows[-1]['epoch'])}"
        draw_mixed(self.folder / "mixed.png", self.data, self.recipe, self.device, preview, title)

    def finish(self) -> dict[str, Any]:
        """Writes export and summary, and returns the summary."""
        final = self.rows[-1]
        summary: dict[str, Any] = {
            **summarise(self.rows, self.score, self.headline),
            "seconds": round(self.seconds, 1),
            "images_per_second": round(self.step * self.recipe.batch_size / max(self.seconds, 1e-9), 1),
            "recipe": self.recipe.to_dict(),
            "versions": versions(),
            "device": device_name(self.device),
            "processes": self.world_size,
        }
        if self.accelerator.is_main_process:
            self.write_export(final)
            write_text(self.folder / "summary.json", json.dumps(summary, indent=1))
        self.accelerator.wait_for_everyone()
        return summary

    def write_export(self, final: dict[str, float]) -> None:
        """Writes the network to keep, and the Mixer where there is one."""
        export_network(self.folder / "export", self.method.export(), self.recipe, self.data, final["top1"])
        if has_mixer(self.method):
            measured = {"held-out top-1 of its network, %": final["top1"]}
            measured.update({k: final[k] for k in ("mask_std", "mask_error") if k in final})
            data, picture = describe_data(self.data), self.folder / "mixed.png"
            write_mixer(self.folder / "mixer", self.method, self.recipe, data, measured, picture)

    # On the terminal --------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """What this run is, for the terminal."""
        recipe = self.recipe
        return (
            f"{recipe.mixup} on {recipe.data} ({self.count_images()}): recipe {recipe.name}, {recipe.model} at "
            f"{recipe.size} px, {recipe.epochs} epochs of {self.steps_per_epoch} steps, on {self.device} -> "
            f"{self.folder}"
        )

    def count_images(self) -> str:
        """How many images there are to learn from and to test on, and whether they are enlarged."""
        native, size = self.data.native_size, self.recipe.size
        counts = f"{len(self.data.train):,} images, {len(self.data.val):,} held out"
        if native is None or size <= 2 * native:
            return counts
        stem = " --stem small" if native <= 64 else ""
        return f"{counts}, enlarged from {native} px; --size {native}{stem} keeps them as they are"

    def conclude(self, summary: dict[str, Any]) -> str:
        """What came of it."""
        return (
            f"top-1 {summary['top1']:.2f} %   top-5 {summary['top5']:.2f} %   NLL {summary['nll']:.4f} nats   "
            f"ECE {summary['ece']:.2f} %   {summary['seconds']:.0f} s, {summary['images_per_second']:.0f} images/s"
        )

    def last_score(self) -> str:
        """The latest held-out accuracy, for the progress bar."""
        return next((f"{row[self.score]:.2f}" for row in reversed(self.rows) if self.score in row), "-")

    def progress_bar(self, total: int) -> Any:
        """A bar over all steps of the run."""
        return self.bar(total, self.recipe.mixup, "step", self.step)

    def bar(self, total: int, what: str, unit: str, first: int = 0) -> Any:
        """A progress bar on the terminal of the first process."""
        from tqdm import tqdm

        quiet = self.options.quiet or not self.accelerator.is_main_process
        return tqdm(
            total=total,
            initial=first,
            desc=what,
            unit=unit,
            disable=quiet,
            dynamic_ncols=True,
            file=SteadyStream(sys.stderr),
        )
