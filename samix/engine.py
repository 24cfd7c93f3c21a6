"""One loop for every method: train, evaluate, write, resume.

Everything random is a function of (seed, rank, step), so a run continued from a checkpoint is the run that was never
interrupted. The engine knows methods only by :class:`samix.methods.base.Method`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from samix.build import build_augment, build_method
from samix.checkpoint import (
    export_network,
    load_checkpoint,
    load_into,
    save_checkpoint,
    versions,
    write_text,
)
from samix.data import EvalBatches, ImageData, TrainBatches, denormalize, load_data
from samix.data.order import stream_seed
from samix.evaluate import classification_metrics
from samix.methods.base import Method
from samix.networks.modes import evaluating
from samix.optim import build_optimizer, set_learning_rates
from samix.recipes import Recipe
from samix.sharing import has_mixer, write_mixer

CHECK_EVERY = 20  # steps between looks at the loss on the host: a look waits for the device
PICTURES = 12  # of mixed.png during a run
PREVIEW_LAMS = (0.1, 0.3, 0.5, 0.7, 0.9)


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite."""


class Interrupted(RuntimeError):
    """The run was asked to stop, and has saved its state."""


@dataclass(frozen=True)
class RunOptions:
    """Where and how a recipe is run; nothing here changes its result.

    Args:
        out: folder of all runs.
        run: name of this run's folder; empty is RECIPE-MIXUP-sSEED.
        resume: continue from ``last.pt``, if it is there.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: where torchvision's data sets lie.
        download: fetch those that are missing.
        tensorboard: also write TensorBoard logs.
        quiet: no progress bar.
    """

    out: str = "runs"
    run: str = ""
    resume: bool = False
    device: str = "auto"
    data_root: str = "data"
    download: bool = False
    tensorboard: bool = False
    quiet: bool = False


class Run:
    """One training run: its parts, its folder, and the loop. A run without labels is a subclass."""

    score: ClassVar[str] = "top1"  # the metric by which the best checkpoint is kept
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5", "nll", "ece")  # of the summary

    def __init__(self, recipe: Recipe, options: RunOptions) -> None:
        from accelerate import Accelerator

        check_device(options.device)
        self.recipe, self.options = recipe, options
        self.accelerator = Accelerator(
            cpu=options.device == "cpu",
            mixed_precision=recipe.precision,
            gradient_accumulation_steps=recipe.accumulate,
            step_scheduler_with_optimizer=False,
        )
        self.device = self.accelerator.device
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.folder = Path(options.out) / (options.run or f"{recipe.name}-{short_name(recipe.mixup)}-s{recipe.seed}")
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
        self.optimizer = build_optimizer(self.method, recipe)
        self.prepared, self.prepared_optimizer = self.accelerator.prepare(self.method, self.optimizer)
        self.step, self.best, self.rows, self.seconds = 0, -1.0, list[dict[str, float]](), 0.0
        self.sums: dict[str, Tensor] = {}  # of this epoch's losses, on the device
        self.stopping = False

    # What is trained on what ------------------------------------------------------------------------------------------

    def check_data(self) -> None:
        """Raises ValueError unless there is something to learn from these data."""
        self.data.require_labels()
        if self.data.num_classes < 2:
            raise ValueError(
                f"{self.data.name} has one class, {self.data.class_names[0]!r}; there is nothing to tell apart"
            )

    def make_batches(self) -> tuple[TrainBatches, EvalBatches]:
        """Training and held-out batches of this rank."""
        return build_batches(self.recipe, self.data, self.device, self.rank, self.world_size)

    def make_method(self) -> Method:
        """The method, with a new network."""
        return build_method(self.recipe, self.data.num_classes, (self.data.mean, self.data.std))

    def describe(self) -> str:
        """What this run is, for the terminal."""
        recipe = self.recipe
        return (
            f"{recipe.mixup} on {recipe.data}: {recipe.model} at {recipe.size} px, {recipe.epochs} epochs of "
            f"{self.steps_per_epoch} steps, on {self.device} -> {self.folder}"
        )

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
            NonFiniteLoss: a loss is NaN or infinite; the last checkpoint stays.
            Interrupted: SIGTERM or Ctrl-C, after the state was saved.
            ValueError: the folder holds another run.
        """
        self.start()
        total = self.recipe.epochs * self.steps_per_epoch
        with self.progress_bar(total) as bar, self.stop_on_signal():
            while self.step < total:
                self.train_epoch(self.step // self.steps_per_epoch, self.step % self.steps_per_epoch, total, bar)
        return self.finish()

    def train_epoch(self, epoch: int, first: int, total: int, bar: Any) -> None:
        """The steps of one epoch from ``first`` on, then evaluation, pictures and checkpoint."""
        self.method.train()
        started, images_seen, stop = time.perf_counter(), 0, False
        if first == 0:
            self.method.start_epoch()
        batches = self.train_batches.epoch(epoch, first * self.recipe.accumulate)
        for number in range(first, self.steps_per_epoch):
            set_learning_rates(self.optimizer, self.recipe, self.step, self.steps_per_epoch)
            for part in range(self.recipe.accumulate):
                batch = next(batches)
                if self.recipe.channels_last:
                    batch = channels_last(batch)
                seed_draws(self.method, self.recipe.seed, self.rank, self.step * self.recipe.accumulate + part)
                images_seen += len(batch[0]) * self.world_size
                self.train_step(batch)
            self.step += 1
            self.method.after_step(self.step / total)
            bar.update(1)
            last = number == self.steps_per_epoch - 1
            # One process stops at once; several must stop at the same step, so they agree at a look.
            if self.step % CHECK_EVERY == 0 or last or (self.stopping and self.world_size == 1):
                loss, stop = self.look()
                rate = images_seen / (time.perf_counter() - started)
                bar.set_postfix(
                    {"loss": f"{loss / (number + 1):.3f}", self.score: self.last_score(), "img_s": f"{rate:.0f}"}
                )
                if stop and not last:
                    self.save_and_stop(time.perf_counter() - started)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.end_epoch(epoch + 1, images_seen / seconds)
        if stop and self.step < total:
            raise self.interrupted()

    def train_step(self, batch: tuple[Any, ...]) -> None:
        """Forward, backward, and (when enough is accumulated) the optimiser step."""
        with self.accelerator.accumulate(self.prepared):
            loss, parts = self.prepared(batch)
            self.accelerator.backward(loss)
            if self.recipe.clip and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.method.parameters(), self.recipe.clip)
            self.prepared_optimizer.step()
            self.prepared_optimizer.zero_grad()
        for name, value in {"loss": loss.detach(), **parts}.items():
            value = value.float() / self.recipe.accumulate
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def look(self) -> tuple[float, bool]:
        """The loss summed over this epoch, as the mean of all processes, and whether any was asked to stop.

        Raises:
            NonFiniteLoss: names every part that is not finite, on every process at the same step.
        """
        stopping = torch.tensor(float(self.stopping), device=self.device)
        found = self.accelerator.reduce(torch.stack([*self.sums.values(), stopping]), reduction="mean").tolist()
        stop = found.pop() > 0
        values: dict[str, float] = dict(zip(self.sums, found, strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise self.not_finite(f"the loss is not finite at step {self.step} (parts: {', '.join(bad)})")
        return values["loss"], stop

    def check_weights(self) -> None:
        """Looks at every weight before it is saved: the last step of an epoch may have spoilt them unseen.

        Raises:
            NonFiniteLoss: names the first weight that is not finite.
        """
        weights = {name: value for name, value in self.method.state_dict().items() if value.is_floating_point()}
        finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
        bad = [name for name, good in zip(weights, finite, strict=True) if not good]
        if bad:
            raise self.not_finite(f"{len(bad)} weights are not finite after step {self.step} (first: {bad[0]})")

    def not_finite(self, what: str) -> NonFiniteLoss:
        """The error, with what to do about it."""
        last = self.folder / "last.pt"
        kept = f"The last checkpoint is kept: {last}" if last.is_file() else "No checkpoint had been written"
        return NonFiniteLoss(
            f"{what}; lower lr or mixer_lr, clip the gradient (--clip 5), or look for NaN pixels in the data. {kept}"
        )

    def end_epoch(self, epoch: int, rate: float) -> None:
        """Evaluates, logs, draws and saves."""
        means = torch.stack(list(self.sums.values())) / self.steps_per_epoch
        names, means = list(self.sums), self.accelerator.reduce(means, reduction="mean").tolist()
        self.sums = {}
        self.check_weights()
        row: dict[str, float] = {"epoch": epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row.update(zip(names, means, strict=True))
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
        last = self.folder / "last.pt"
        if last.is_file() and not self.options.resume:
            raise ValueError(
                f"{self.folder} already holds a run; continue it with --resume, or choose another name with --run NAME"
            )
        self.accelerator.wait_for_everyone()
        if last.is_file():
            self.load(last)
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "recipe.json", json.dumps(self.recipe.to_dict(), indent=1))
            write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def load(self, path: Path) -> None:
        """Continues from a checkpoint.

        Raises:
            ValueError: it is of another recipe; names the fields that differ.
        """
        state = load_checkpoint(path, "cpu")
        old, new = state["recipe"], json.loads(json.dumps(self.recipe.to_dict()))
        differing = [f"{k} was {old.get(k)!r}, is {new[k]!r}" for k in new if old.get(k) != new[k]]
        if differing:
            raise ValueError(f"{path} is of another recipe ({'; '.join(differing)}); resume with the same options")
        data = describe_data(self.data)
        changed = [f"{k} was {v!r}, is {data[k]!r}" for k, v in state["data"].items() if data[k] != v]
        if changed:
            raise ValueError(
                f"{path} was trained on other data ({'; '.join(changed)}); restore it, or start another run"
            )
        load_into(self.method, state["method"], path)
        if self.accelerator.is_main_process:  # the others' batches are not in the checkpoint: they start without
            self.method.load_extra_state({k: v.to(self.device) for k, v in state.get("extra", {}).items()})
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.rows, self.seconds = state["step"], state["best"], state["rows"], state["seconds"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.method.progress = self.step / (self.recipe.epochs * self.steps_per_epoch)

    def state(self) -> dict[str, Any]:
        """All that a run needs to continue."""
        state = {
            "recipe": json.loads(json.dumps(self.recipe.to_dict())),
            "method": self.method.state_dict(),
            "extra": self.method.extra_state(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "rows": self.rows,
            "sums": self.sums,
            "seconds": self.seconds,
            "data": describe_data(self.data),
            "versions": versions(),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def write_row(self, row: dict[str, float], last: bool) -> None:
        """Log line, pictures and checkpoints of an epoch."""
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.rows))
        every = max(self.recipe.epochs // PICTURES, 1)
        if last or int(row["epoch"]) % every == 0:
            self.draw()
        if self.options.tensorboard:
            self.write_tensorboard(row)
        if row.get(self.score, -1.0) > self.best:
            self.best = row[self.score]
            save_checkpoint(self.folder / "best.pt", self.state())
        save_checkpoint(self.folder / "last.pt", self.state())

    def write_tensorboard(self, row: dict[str, float]) -> None:
        """Adds a row to the TensorBoard log in the run's folder."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError('--tensorboard needs the package: pip install "samix[tensorboard]"') from None
        with SummaryWriter(str(self.folder / "tensorboard"), purge_step=int(row["step"])) as writer:
            for key, value in row.items():
                writer.add_scalar(key, value, int(row["step"]))

    def draw(self) -> None:
        """Refreshes ``curves.png`` and ``mixed.png``."""
        from samix.visualize import mix_grid, plot_curves

        plot_curves(self.folder / "curves.png", self.rows)
        images, labels, index = preview_pairs(self.data, self.recipe, self.device)

        def mix(lam: float) -> Any:
            with self.accelerator.autocast():
                return self.method.preview(images, labels, lam, index)

        if mix(0.5) is None:
            return
        epoch = int(self.rows[-1]["epoch"])
        mix_grid(
            self.folder / "mixed.png",
            images[:4],
            images[index][:4],
            lambda lam: first_rows(mix(lam), 4),
            PREVIEW_LAMS,
            lambda x: denormalize(x, self.data.mean, self.data.std),
            f"{self.recipe.mixup}, epoch {epoch}",
        )

    def finish(self) -> dict[str, Any]:
        """Writes export and summary, and returns the summary."""
        final = self.rows[-1]
        scores = [row[self.score] for row in self.rows if self.score in row]
        summary: dict[str, Any] = {
            **{key: final[key] for key in self.headline if key in final},
            **({f"{self.score}_best": max(scores)} if scores else {}),
            **({f"{self.score}_median_last_10": statistics.median(scores[-10:])} if scores else {}),
            **{key: value for key, value in final.items() if key.startswith("top1_")},
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
        from tqdm import tqdm

        quiet = self.options.quiet or not self.accelerator.is_main_process
        return tqdm(
            total=total, initial=self.step, desc=self.recipe.mixup, unit="step", disable=quiet, dynamic_ncols=True
        )

    @contextmanager
    def stop_on_signal(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step in progress, with its state saved."""

        def stop(_number: int, _frame: Any) -> None:
            self.stopping = True

        try:
            before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: signals are not ours to take
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def save_and_stop(self, seconds: float) -> None:
        """Saves in the middle of an epoch and leaves."""
        self.seconds += seconds
        self.sums = {name: self.accelerator.reduce(value, reduction="mean") for name, value in self.sums.items()}
        self.check_weights()
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / "last.pt", self.state())
        self.accelerator.wait_for_everyone()
        raise self.interrupted()

    def interrupted(self) -> Interrupted:
        """The news that the run stopped, and how to go on."""
        return Interrupted(
            f"stopped at step {self.step}; continue with --resume (state saved in {self.folder / 'last.pt'})"
        )


def build_batches(
    recipe: Recipe, data: ImageData, device: torch.device, rank: int = 0, world_size: int = 1
) -> tuple[TrainBatches, EvalBatches]:
    """The training and held-out batches of a recipe, for one rank.

    Raises:
        ValueError: batch_size is not divisible by processes times accumulated passes.
    """
    parts = world_size * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size {recipe.batch_size} must be divisible by {parts} ({world_size} processes x accumulate "
            f"{recipe.accumulate})"
        )
    common = {**common_options(recipe, device, rank, world_size), "augment": build_augment(recipe, data)}
    train = TrainBatches(data, batch_size=recipe.batch_size // parts, seed=recipe.seed, **common)
    return train, EvalBatches(data, batch_size=max(recipe.batch_size // parts, 100), **common)


def common_options(recipe: Recipe, device: torch.device, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """What training and held-out batches have in common."""
    return {
        "size": recipe.size,
        "rank": rank,
        "world_size": world_size,
        "workers": 0 if recipe.device_data else recipe.workers,
        "device": device,
        "on_device": recipe.device_data,
    }


def channels_last(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """The batch with its images in that memory layout."""
    return tuple(
        channels_last(part)
        if isinstance(part, tuple)
        else part.contiguous(memory_format=torch.channels_last)
        if part.dim() == 4
        else part
        for part in batch
    )


def seed_draws(method: Method, seed: int, rank: int, step: int) -> None:
    """Makes every draw of a step a function of (seed, rank, step): mixing, dropout, stochastic depth."""
    torch.manual_seed(stream_seed("network", seed, rank, step))
    for number, generator in enumerate(method.generators()):
        generator.manual_seed(stream_seed("mixing", seed, rank, step, number))


def preview_pairs(data: ImageData, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Eight held-out images of different classes to look at: images, labels, and partners half a round away.

    Args:
        data: its held-out split is used; the first image of each of eight classes, or more of them where there are
        fewer.
        recipe: gives size and augmentation.
        device: where they are wanted.
    """
    labels = data.val.labels
    rows = [int((labels == c).nonzero()[0]) for c in range(min(data.num_classes, 8)) if bool((labels == c).any())]
    rows += [row for row in range(len(labels)) if row not in rows][: 8 - len(rows)]
    chosen = dataclasses.replace(data, val=data.val.subset(torch.tensor(rows)))
    batches = EvalBatches(
        chosen, batch_size=len(rows), size=recipe.size, augment=build_augment(recipe, data), device=device
    )
    images, labels = next(iter(batches.batches()))
    return images, labels, torch.arange(len(rows)).roll(-max(len(rows) // 2, 1)).to(images.device)


def first_rows(batch: Any, count: int) -> Any:
    """The first samples of a mixed batch, for a picture."""
    mask = None if batch.mask is None else batch.mask[:count]
    return dataclasses.replace(batch, images=batch.images[:count], mask=mask)


def short_name(mixup: str) -> str:
    """A mixup's name for a folder: of ``mixer:PATH`` what is not a path."""
    kind, _, path = mixup.partition(":")
    parts = [part for part in Path(path).parts if part not in ("mixer", "/", ".", "..")]
    return f"{kind}-{parts[-1].removesuffix('.safetensors')}" if parts else kind


def check_device(name: str) -> None:
    """Raises ValueError unless this is the name of a device, and of one that is there."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError('device="cuda", but torch finds no GPU; use --device cpu')


def describe_data(data: ImageData) -> dict[str, Any]:
    """What a checkpoint remembers of its data."""
    return {
        "name": data.name,
        "images": len(data.train),
        "classes": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def device_name(device: torch.device) -> str:
    """The hardware, for the summary."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
