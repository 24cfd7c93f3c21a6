"""The steps of a training run: its parts, one step, what steps change, and how a step is skipped.

Every draw is a function of (seed, rank, step), so a run continued from a checkpoint equals the run that was never
interrupted. A step with non-finite numbers is skipped by the same means: the run goes back to a copy of its state and
repeats the steps since then without that one. Methods are known only by :class:`samix.methods.base.Method`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from samix.data import EvalBatches, ImageData, TrainBatches
from samix.data.order import stream_seed
from samix.losses.class_weights import class_weights, weighted_cross_entropy
from samix.methods.base import Method
from samix.methods.supervised import Supervised
from samix.recipes import Recipe
from samix.recipes.build import build_augment, build_method
from samix.runtime import distributed
from samix.runtime.checks import Values
from samix.runtime.console import tell
from samix.runtime.distributed import AsyncFlag, check_not_sharded
from samix.runtime.environment import pick_device
from samix.runtime.nonfinite import GRADIENT, NonFiniteMonitor, NonFiniteStep, copied, gradient_size
from samix.train.batches import (
    BadImages,
    BatchPart,
    batch_of_pass,
    channels_last,
    common_options,
    load_recipe_data,
    save_bad_batch,
)
from samix.train.checkpoint import LAST, Progress
from samix.train.interruption import NonFiniteLoss
from samix.train.metrics import LossSums
from samix.train.optim import build_optimizer, set_learning_rates
from samix.train.options import RunOptions, short_name

if TYPE_CHECKING:
    from accelerate import Accelerator

SYNC_EVERY = 20  # steps between reads of the loss, which wait for the device


@dataclass(frozen=True)
class SyncStatus:
    """The state of a run, the same on every process."""

    loss: float  # summed over this epoch, mean of all processes
    stop: bool  # whether any process was asked to stop
    save: bool  # whether it is time for a checkpoint
    bad: NonFiniteStep | None  # the first step with non-finite numbers


class Training:
    """A network, a method, data and an optimiser, and the steps that change them.

    Args:
        recipe: what to train.
        options: where and how.
        data: instead of the recipe's.
        make_network: (run, number of classes) -> network, instead of the recipe's; called once the data are known.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: RunOptions,
        data: ImageData | None = None,
        make_network: Callable[[Training, int], nn.Module] | None = None,
    ) -> None:
        check_not_sharded()
        self.make_network = make_network
        self.recipe, self.options = recipe, options
        self.accelerator = self.make_accelerator()
        self.device = self.accelerator.device
        if recipe.precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision fp16 has no effect on a CPU; leave it out, or use bf16")
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.folder = Path(options.out) / (options.run or self.default_name())
        self.data = self.load_data() if data is None else data
        self.check_data()
        self.train_batches, self.val_batches = self.make_batches()
        self.steps_per_epoch = len(self.train_batches) // recipe.accumulate
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"the batch of {recipe.batch_size} is larger than the {len(self.data.train)} training images; give "
                f"batch_size (--batch-size) of at most {len(self.data.train)}"
            )
        torch.manual_seed(recipe.seed)
        self.method = self.make_method().to(self.device)
        if recipe.compile:
            self.method.compile_parts()
        self.optimizer = build_optimizer(self.method, recipe)
        distributed.leave_out_equal_buffers(self.method)
        self.prepared, self.prepared_optimizer = self.accelerator.prepare(self.method, self.optimizer)
        self.step, self.best, self.rows, self.seconds = 0, -1.0, list[dict[str, float]](), 0.0
        self.losses = LossSums(("loss", *self.method.loss_parts), self.device)  # of this epoch
        self.skips: list[int] = []  # numbers of the skipped steps, from 1
        self.monitor = NonFiniteMonitor()
        self.snapshot: Progress | None = None  # the state to go back to
        self.stopping, self.saved = False, time.monotonic()
        self.stop_flag = AsyncFlag()
        self.bad_images = BadImages(self.data, self.folder, self.accelerator.is_main_process)

    # Parts ------------------------------------------------------------------------------------------------------------

    def make_accelerator(self) -> Accelerator:
        """Returns the engine on the device of the options."""
        from accelerate import Accelerator

        device = pick_device(self.options.device)
        if device.index is not None:
            torch.cuda.set_device(device)
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=self.recipe.precision,
            gradient_accumulation_steps=self.recipe.accumulate,
            step_scheduler_with_optimizer=False,
        )

    def load_data(self) -> ImageData:
        """Returns the recipe's data set."""
        return load_recipe_data(self.recipe, self.options)

    def check_data(self) -> None:
        """Raises ValueError unless there is something to learn from these data."""
        self.data.require_labels()
        if self.data.num_classes < 2:
            raise ValueError(
                f"{self.data.name} has one class, {self.data.class_names[0]!r}; training needs at least two"
            )

    def default_name(self) -> str:
        """Returns the run's folder where no name is given."""
        return f"{self.recipe.name}-{short_name(self.recipe.mixup)}-s{self.recipe.seed}"

    def make_batches(self) -> tuple[TrainBatches, EvalBatches]:
        """Returns training and held-out batches of this rank."""
        recipe, size = self.recipe, batch_of_pass(self.recipe, self.world_size)
        common = {**self.batch_options(), "augment": build_augment(recipe, self.data)}
        balanced = recipe.class_balance == "sampling"
        train = TrainBatches(self.data, batch_size=size, seed=recipe.seed, balanced=balanced, **common)
        return train, EvalBatches(self.data, batch_size=max(size, 100), **common)

    def batch_options(self) -> Values:
        """Returns options that all batches of this process share."""
        return common_options(self.recipe, self.device, self.rank, self.world_size, self.options.on_bad_image)

    def plain_batches(self) -> EvalBatches:
        """Returns the training images of this process without augmentation, in order."""
        augment = build_augment(self.recipe, self.data)
        return EvalBatches(self.data, split="train", batch_size=200, augment=augment, **self.batch_options())

    def make_method(self) -> Method:
        """Returns the method, with a new network or the one that was given."""
        classes = self.data.num_classes
        network = None if self.make_network is None else self.make_network(self, classes)
        method = build_method(self.recipe, classes, (self.data.mean, self.data.std), network)
        if self.recipe.class_balance == "weights":
            if not isinstance(method, Supervised) or method.loss is not None:
                raise ValueError(
                    f"class_balance weights is for mixups that train by cross-entropy, and {self.recipe.mixup} with "
                    f"loss {self.recipe.loss} has losses of its own; take --class-balance sampling"
                )
            weights = class_weights(self.data.train.labels, classes)
            method.loss = partial(weighted_cross_entropy, weights=weights, smoothing=self.recipe.smoothing)
        return method

    # Steps ------------------------------------------------------------------------------------------------------------

    def batches_from(self, epoch: int, number: int) -> Iterator[tuple[BatchPart, ...]]:
        """Returns the batches of an epoch, from a step on."""
        return self.train_batches.epoch(epoch, number * self.recipe.accumulate)

    def one_step(self, batches: Iterator[tuple[BatchPart, ...]], total: int) -> int:
        """Takes one step of the optimiser, or none where it is skipped; returns the number of images seen."""
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

    def train_step(self, batch: tuple[BatchPart, ...]) -> None:
        """Runs forward, backward, and (when enough is accumulated) the optimiser step."""
        with self.accelerator.accumulate(self.prepared):
            loss, parts = self.prepared(batch)
            self.accelerator.backward(loss)
            values = {"loss": loss.detach(), **parts}
            self.monitor.note(self.step + 1, {**self.losses.complete(values), **self.gradient()})
            if self.recipe.clip and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.method.parameters(), self.recipe.clip)
            self.prepared_optimizer.step()
            self.prepared_optimizer.zero_grad()
        self.losses.add(values, self.recipe.accumulate)

    def gradient(self) -> dict[str, Tensor]:
        """Returns the largest value of the whole step's gradient, by name; none before it is whole.

        In fp16 the loss is scaled so that gradients overflow now and then; the scaler then skips the step and scales
        less. That is not a fault unless the loss is scaled down already.
        """
        if not self.accelerator.sync_gradients:
            return {}
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() >= 1.0:
            return {}
        return {GRADIENT: gradient_size(self.method, self.device)}

    # Reads of the device, and steps that are skipped ------------------------------------------------------------------

    def sync_due(self) -> bool:
        """Returns whether to read the device after this step, the same on every process: also where one is to stop."""
        stopping = self.stop_flag.any(self.stopping)
        if self.options.save_every and self.step % self.options.save_every == 0:
            return True
        return self.step % SYNC_EVERY == 0 or stopping

    def sync(self) -> SyncStatus:
        """Returns the state of the run, the same on every process."""
        every, minutes = self.options.save_every, self.options.save_minutes
        late = minutes > 0 and time.monotonic() - self.saved >= 60 * minutes
        due = (every > 0 and self.step % every == 0) or (late and self.accelerator.is_main_process)
        asked = torch.tensor([float(due), float(self.stopping)], device=self.device)
        values: list[float] = self.mean(torch.cat([self.losses.sums[:1], asked, *self.monitor.tensors()])).tolist()
        bad = self.monitor.first(values[3:])
        self.monitor.clear()
        return SyncStatus(loss=values[0], save=values[1] > 0, stop=values[2] > 0, bad=bad)

    def mean(self, value: Tensor) -> Tensor:
        """Returns a tensor's mean over the processes."""
        return self.accelerator.reduce(value, reduction="mean")  # type: ignore[no-any-return]

    def ask_to_stop(self) -> None:
        """Asks the run to end after the step in progress, with its state saved."""
        self.stopping = True

    def take_snapshot(self) -> None:
        """Copies all that steps change, to go back to, where steps may be skipped."""
        if self.options.max_skips:
            self.snapshot = cast(Progress, copied(self.progress()))

    def skip(self, bad: NonFiniteStep, epoch: int) -> None:
        """Saves a bad step's batch, and goes back to before it; the step will be skipped."""
        number = (bad.step - 1) % self.steps_per_epoch
        name = "bad-batch.pt" if self.world_size == 1 else f"bad-batch-{self.rank}.pt"
        saved = save_bad_batch(
            self.folder / name, bad, epoch, number, self.recipe.accumulate, self.train_batches, self.data.train
        )
        allowed = self.options.max_skips
        if len(self.skips) >= allowed:
            after = f" after {len(self.skips)} skipped steps (--max-skips {allowed})" if allowed else ""
            raise self.not_finite(f"{bad}{after}; {saved}")
        assert self.snapshot is not None
        skips = [*self.skips, bad.step]
        self.restore(cast(Progress, copied(self.snapshot)))
        self.skips = self.snapshot["skips"] = skips
        if self.accelerator.is_main_process:
            tell(f"samix: {bad}; the step is skipped ({len(skips)} of at most {allowed}); {saved}")

    def check_weights(self) -> None:
        """Checks every weight before it is saved: the last step of an epoch may have spoilt them unseen."""
        bad = bad_weights(self.method)
        if bad:
            raise self.not_finite(f"{len(bad)} weights are not finite after step {self.step} (first: {bad[0]})")

    def not_finite(self, what: str) -> NonFiniteLoss:
        """Returns the error, with what to do about it."""
        last = self.folder / LAST
        kept = f"The last checkpoint is kept: {last}" if last.is_file() else "No checkpoint was written yet"
        return NonFiniteLoss(
            f"{what}; lower lr or mixer_lr, clip the gradient (--clip 5), look for NaN pixels in the data, or let such "
            f"steps be skipped (--max-skips 10). {kept}"
        )

    # State ------------------------------------------------------------------------------------------------------------

    def restore(self, state: Progress) -> None:
        """Takes back what :meth:`progress` gave."""
        self.method.load_state_dict(state["method"])
        if state["extra"] is not None:
            self.method.load_extra_state({k: v.to(self.device) for k, v in state["extra"].items()})
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.rows, self.seconds = state["step"], state["best"], state["rows"], state["seconds"]
        self.losses.restore(state)
        self.skips, self.train_batches.bad = list(state["skips"]), set(state["bad_images"])
        self.method.progress = self.step / (self.recipe.epochs * self.steps_per_epoch)

    def progress(self) -> Progress:
        """Returns all that steps change."""
        sums = self.losses.state()
        state: Progress = {
            "method": self.method.state_dict(),
            "extra": self.method.extra_state(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "rows": self.rows,
            "sums": sums["sums"],
            "counts": sums["counts"],
            "seconds": self.seconds,
            "skips": self.skips,
            "bad_images": sorted(self.train_batches.bad),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state


def seed_draws(method: Method, seed: int, rank: int, step: int) -> None:
    """Makes every draw of a step a function of (seed, rank, step): mixing, dropout, stochastic depth."""
    torch.manual_seed(stream_seed("network", seed, rank, step))
    for number, generator in enumerate(method.generators()):
        generator.manual_seed(stream_seed("mixing", seed, rank, step, number))


def bad_weights(module: nn.Module) -> list[str]:
    """Returns names of weights and buffers that are not finite; one read of the device for all."""
    weights = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
    return [name for name, good in zip(weights, finite, strict=True) if not good]
