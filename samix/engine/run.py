"""One loop for every method: train, evaluate, write, resume.

Everything random is a function of (seed, rank, step), so a run continued from a checkpoint is the run that was never
interrupted. By the same means a step with numbers that are not finite is left out: the run goes back to a copy of its
state and takes the steps since then again, without that one. The engine knows methods only by
:class:`samix.methods.base.Method`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from samix import distributed
from samix.build import build_method
from samix.checkpoint import LAST, kept_files, load_into, load_last, save_checkpoint, set_aside
from samix.data import EvalBatches, TrainBatches, load_data
from samix.data.order import stream_seed
from samix.distributed import Agreement, check_not_sharded, lost_process
from samix.engine.bad_images import BadImages
from samix.engine.batches import build_batches, channels_last
from samix.engine.errors import Interrupted, LostProcess, NonFiniteLoss
from samix.engine.losses import LossSums
from samix.engine.options import RunOptions, short_name
from samix.engine.pictures import draw_mixed
from samix.engine.record import check_same, describe_data, log_to_tensorboard, summarise
from samix.engine.skipping import bad_weights, save_bad_batch
from samix.engine.stopping import on_stop_signal
from samix.evaluate import classification_metrics
from samix.export import export_network
from samix.files import write_text, writing
from samix.finite import GRADIENT, BadStep, Watch, copied, gradient_size
from samix.machine import check_device, device_name, versions
from samix.methods.base import Method
from samix.networks.modes import evaluating
from samix.optim import build_optimizer, set_learning_rates
from samix.recipes import Recipe
from samix.sharing.writing import has_mixer, write_mixer
from samix.terminal import SteadyStream, tell

CHECK_EVERY = 20  # steps between looks at the loss on the host: a look waits for the device
PICTURES = 12  # of mixed.png during a run


@dataclass(frozen=True)
class Look:
    """What a look at the device found.

    Args:
        loss: summed over this epoch, mean of all processes.
        stop: whether any process was asked to stop.
        save: whether it is time for a checkpoint.
        bad: the first step with numbers that are not finite.
    """

    loss: float
    stop: bool
    save: bool
    bad: BadStep | None


class Run:
    """One training run: its parts, its folder, and the loop. A run without labels is a subclass."""

    score: ClassVar[str] = "top1"  # the metric by which the best checkpoint is kept
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5", "nll", "ece")  # of the summary

    def __init__(self, recipe: Recipe, options: RunOptions) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        check_device(options.device)
        check_not_sharded()
        self.recipe, self.options = recipe, options
        self.accelerator = Accelerator(
            cpu=options.device == "cpu",
            mixed_precision=recipe.precision,
            gradient_accumulation_steps=recipe.accumulate,
            step_scheduler_with_optimizer=False,
        )
        self.device = self.accelerator.device
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.folder = Path(options.out) / (options.run or self.default_name())
        self.data = load_data(
            recipe.data, root=options.data_root, download=options.download, limit=recipe.limit or None, seed=recipe.seed
        )
        self.check_data()
        self.train_batches, self.val_batches = self.make_batches()
        self.steps_per_epoch = len(self.train_batches) // recipe.accumulate
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{len(self.data.train)} training images are less than one step of batch_size {recipe.batch_size}"
            )
        torch.manual_seed(recipe.seed)
        self.method = self.make_method().to(self.device)
        if recipe.compile:
            self.method.compile_parts()
        self.optimizer = build_optimizer(self.method, recipe)
        if self.method.may_leave_out:
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        distributed.leave_out_equal_buffers(self.method)
        self.prepared, self.prepared_optimizer = self.accelerator.prepare(self.method, self.optimizer)
        self.step, self.best, self.rows, self.seconds = 0, -1.0, list[dict[str, float]](), 0.0
        self.losses = LossSums()  # of this epoch
        self.skips: list[int] = []  # numbers of the steps that are left out, from 1
        self.watch, self.before = Watch(), dict[str, Any]()  # the state to go back to, where steps may be skipped
        self.stopping, self.saved = False, time.monotonic()
        self.agreement = Agreement()  # on stopping
        self.bad_images = BadImages(self.data, self.folder, self.accelerator.is_main_process)

    # What is trained on what ------------------------------------------------------------------------------------------

    def check_data(self) -> None:
        """Raises ValueError unless there is something to learn from these data."""
        self.data.require_labels()
        if self.data.num_classes < 2:
            raise ValueError(
                f"{self.data.name} has one class, {self.data.class_names[0]!r}; there is nothing to tell apart"
            )

    def default_name(self) -> str:
        """The run's folder where no name is given."""
        return f"{self.recipe.name}-{short_name(self.recipe.mixup)}-s{self.recipe.seed}"

    def make_batches(self) -> tuple[TrainBatches, EvalBatches]:
        """Training and held-out batches of this rank."""
        return build_batches(self.recipe, self.data, self.device, self.rank, self.world_size, self.options.on_bad_image)

    def make_method(self) -> Method:
        """The method, with a new network."""
        return build_method(self.recipe, self.data.num_classes, (self.data.mean, self.data.std))

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

    def write_export(self, final: dict[str, float]) -> None:
        """Writes the network to keep, and the Mixer where there is one."""
        export_network(self.folder / "export", self.method.export(), self.recipe, self.data, final["top1"])
        if has_mixer(self.method):
            measured = {"held-out top-1 of its network, %": final["top1"]}
            measured.update({k: final[k] for k in ("mask_std", "mask_error") if k in final})
            data, picture = describe_data(self.data), self.folder / "mixed.png"
            write_mixer(self.folder / "mixer", self.method, self.recipe, data, measured, picture)

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

    def batches_from(self, epoch: int, number: int) -> Iterator[Any]:
        """The batches of an epoch, from a step on."""
        return self.train_batches.epoch(epoch, number * self.recipe.accumulate)

    def one_step(self, batches: Iterator[Any], total: int) -> int:
        """One step of the optimiser, or none where it is to be left out; returns the number of images seen."""
        set_learning_rates(self.optimizer, self.recipe, self.step, self.steps_per_epoch)
        images_seen = 0
        for part in range(self.recipe.accumulate):
            batch = next(batches)
            images_seen += len(batch[0]) * self.world_size
            if self.step + 1 in self.skips:
                continue
            if self.recipe.channels_last:
                batch = channels_last(batch)
            seed_draws(self.method, self.recipe.seed, self.rank, self.step * self.recipe.accumulate + part)
            self.train_step(batch)
        self.step += 1
        if self.step not in self.skips:
            self.method.after_step(self.step / total)
        return images_seen

    def train_step(self, batch: tuple[Any, ...]) -> None:
        """Forward, backward, and (when enough is accumulated) the optimiser step."""
        with self.accelerator.accumulate(self.prepared):
            loss, parts = self.prepared(batch)
            self.accelerator.backward(loss)
            values = {"loss": loss.detach(), **parts}
            self.watch.note(self.step + 1, {**values, **self.gradient()})
            if self.recipe.clip and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.method.parameters(), self.recipe.clip)
            self.prepared_optimizer.step()
            self.prepared_optimizer.zero_grad()
        self.losses.add(values, self.recipe.accumulate)

    def gradient(self) -> dict[str, Tensor]:
        """The largest value of the whole step's gradient, by name; none before it is whole.

        In fp16 the loss is scaled so that gradients overflow now and then; the scaler then leaves the step out and
        scales less. That is no fault, unless the loss is scaled down already.
        """
        if not self.accelerator.sync_gradients:
            return {}
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() >= 1.0:
            return {}
        return {GRADIENT: gradient_size(self.method, self.device)}

    def look_due(self) -> bool:
        """Whether to look at the device after this step, the same on every process: also where one is to stop."""
        stopping = self.agreement.any(self.stopping)
        if self.options.save_every and self.step % self.options.save_every == 0:
            return True
        return self.step % CHECK_EVERY == 0 or stopping

    def look(self) -> Look:
        """The state of the run, the same on every process."""
        every, minutes = self.options.save_every, self.options.save_minutes
        late = minutes > 0 and time.monotonic() - self.saved >= 60 * minutes
        due = (every > 0 and self.step % every == 0) or (late and self.accelerator.is_main_process)
        asked = [torch.tensor(float(asked), device=self.device) for asked in (due, self.stopping)]
        values = torch.cat([torch.stack([*self.losses.sums.values(), *asked]), *self.watch.tensors()])
        found: list[float] = self.accelerator.reduce(values, reduction="mean").tolist()
        sums = dict(zip(self.losses.sums, found, strict=False))
        save, stop = (value > 0 for value in found[len(sums) : len(sums) + 2])
        bad = self.watch.first(found[len(sums) + 2 :])
        self.watch.clear()
        return Look(sums.get("loss", 0.0), stop, save, bad)

    def keep_state(self) -> None:
        """Keeps a copy of all that steps change, to go back to; where steps may be skipped."""
        if self.options.max_skips:
            self.before = copied(self.progress())

    def skip(self, bad: BadStep, epoch: int) -> None:
        """Saves a bad step's batch, and goes back to before it; the step will be left out.

        Raises:
            NonFiniteLoss: no more steps may be skipped.
        """
        number = (bad.step - 1) % self.steps_per_epoch
        name = "bad-batch.pt" if self.world_size == 1 else f"bad-batch-{self.rank}.pt"
        saved = save_bad_batch(
            self.folder / name, bad, epoch, number, self.recipe.accumulate, self.train_batches, self.data.train
        )
        allowed = self.options.max_skips
        if len(self.skips) >= allowed:
            after = f" after {len(self.skips)} skipped steps (--max-skips {allowed})" if allowed else ""
            raise self.not_finite(f"{bad}{after}; {saved}")
        skips = [*self.skips, bad.step]
        self.restore(copied(self.before))
        self.skips = self.before["skips"] = skips
        if self.accelerator.is_main_process:
            tell(f"samix: {bad}; the step is left out ({len(skips)} of at most {allowed}); {saved}")

    def check_weights(self) -> None:
        """Looks at every weight before it is saved: the last step of an epoch may have spoilt them unseen.

        Raises:
            NonFiniteLoss: names the first weight that is not finite.
        """
        bad = bad_weights(self.method)
        if bad:
            raise self.not_finite(f"{len(bad)} weights are not finite after step {self.step} (first: {bad[0]})")

    def not_finite(self, what: str) -> NonFiniteLoss:
        """The error, with what to do about it."""
        last = self.folder / LAST
        kept = f"The last checkpoint is kept: {last}" if last.is_file() else "No checkpoint had been written"
        return NonFiniteLoss(
            f"{what}; lower lr or mixer_lr, clip the gradient (--clip 5), look for NaN pixels in the data, or let such "
            f"steps be skipped (--max-skips 10). {kept}"
        )

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

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`progress` gave."""
        self.method.load_state_dict(state["method"])
        if state.get("extra", {}) is not None:
            self.method.load_extra_state({k: v.to(self.device) for k, v in state.get("extra", {}).items()})
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.rows, self.seconds = state["step"], state["best"], state["rows"], state["seconds"]
        self.losses.restore(state, (self.step % self.steps_per_epoch) * self.recipe.accumulate, self.device)
        self.skips, self.train_batches.bad = list(state.get("skips", [])), set(state.get("bad_images", []))
        self.method.progress = self.step / (self.recipe.epochs * self.steps_per_epoch)

    def progress(self) -> dict[str, Any]:
        """All that steps change."""
        state = {
            "method": self.method.state_dict(),
            "extra": self.method.extra_state(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "rows": self.rows,
            **self.losses.state(),
            "seconds": self.seconds,
            "skips": self.skips,
            "bad_images": sorted(self.train_batches.bad),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

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
        from samix.showing.pictures import plot_curves

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

    # Around the loop --------------------------------------------------------------------------------------------------

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

    def ask_to_stop(self) -> None:
        """The run ends after the step in progress, with its state saved."""
        self.stopping = True

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


def seed_draws(method: Method, seed: int, rank: int, step: int) -> None:
    """Makes every draw of a step a function of (seed, rank, step): mixing, dropout, stochastic depth."""
    torch.manual_seed(stream_seed("network", seed, rank, step))
    for number, generator in enumerate(method.generators()):
        generator.manual_seed(stream_seed("mixing", seed, rank, step, number))
