"""Defines what a training loop, ours or the user's own, expects of a method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch, TargetKind, target_kind
from samix.networks.inference import plain_errors
from samix.runtime.checks import check_number
from samix.runtime.docstrings import inherit_args

Options = TypeVar("Options")
ParameterGroups = list[dict[str, Any]]  # as torch's optimisers take them, each with a ``name``
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) normalised, labels


class Method(nn.Module):
    """Networks and one training step.

    The loop is ``loss, parts = method(images, labels); loss.backward(); optimizer.step(); optimizer.zero_grad();
    method.after_step(progress)``. A subclass writes :meth:`training_step`, and declares ``loss_parts``: the names of
    all parts that a step may return, in order, the same on every process and in every step.
    """

    loss_parts: tuple[str, ...] = ()
    step: int = 0  # optimiser steps that are done
    progress: float = 0.0  # share of the run that is done; schedules read it
    last_seen: int | None = None  # version of the first trained parameter when after_step, or the first step, ran
    gradients: str = ""  # whether a first step is done, so that they are to be looked at ("due"), or were ("seen")
    warned: bool = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        inherit_args(cls)

    def compile_parts(self, **options: object) -> None:
        """Compiles the passes of the networks, so that steps run faster after the first ones.

        Args:
            options: of ``torch.compile``.
        """
        raise ValueError(f"{type(self).__name__} cannot be compiled; run it without --compile")

    def forward(self, *batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs one training step; ``method(images, labels)`` and ``method((images, labels))`` are the same.

        Returns:
            The loss (a scalar), and its parts for the log, detached: some or all of ``loss_parts``.
        """
        given, trains = batch[0] if len(batch) == 1 else batch, self.training and torch.is_grad_enabled()
        if trains and type(self).after_step is not Method.after_step:
            self.notice_forgotten_after_step()
        with plain_errors(given, self):
            result = self.training_step(given)
        if trains and self.gradients == "due":
            self.watch_gradients()
        return result

    def training_step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step's loss (a scalar), and its unweighted parts for the log, detached."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Follows an optimiser step: moves averages and schedules. Call it after every ``optimizer.step()``.

        Args:
            progress: share of the run that is done, in [0, 1].
        """
        check_number("progress", progress, 0, 1)
        version = self.parameter_version()
        if self.last_seen is not None and version > self.last_seen:
            self.notice_eval_mode()
            self.gradients = self.gradients or "due"
        self.step, self.progress, self.last_seen = self.step + 1, progress, version

    def parameter_version(self) -> int:
        """Counts the changes in place of the first trained parameter, as torch does."""
        return version_of(self)

    def notice_forgotten_after_step(self) -> None:
        """Warns once where an optimiser has changed the parameters and after_step was not called."""
        version = self.parameter_version()
        if self.last_seen is None:
            self.last_seen = version
        elif version > self.last_seen:  # a deep copy counts from 0 again
            self.warn_once(
                f"the parameters of {type(self).__name__} have changed, but after_step was not called: schedules and "
                "averaged weights stand still; call method.after_step(step / total_steps) after each optimizer.step()"
            )

    def notice_eval_mode(self) -> None:
        """Warns once where an optimiser changes a network that is in eval mode."""
        for name, child in self.named_children():
            layers = (m for m in child.modules() if any(p.requires_grad for p in m.parameters(recurse=False)))
            first = next(layers, None)
            if first is not None and not first.training:
                self.warn_once(
                    f"{name} of {type(self).__name__} is trained in eval mode: dropout is off and BatchNorm does not "
                    "learn its statistics; call method.train() after each evaluation"
                )

    def watch_gradients(self) -> None:
        """Warns once where the second step's gradients are added to the first one's, which were not set to zero.

        It looks when the next backward pass reaches the first trained parameter: loops set gradients to zero before
        ``backward`` or after ``step``. Where they are zero in place of None, it asks the device for one number, once.
        """
        self.gradients = "seen"
        watched = next((p for p in self.parameters() if p.requires_grad), None)
        if watched is None:
            return

        def look(_gradient: Tensor) -> None:
            handle.remove()
            if watched.grad is not None and bool(watched.grad.any()):
                self.warn_once("gradients of earlier steps are added up: call optimizer.zero_grad() after each step")

        handle = watched.register_hook(look)  # type: ignore[no-untyped-call]

    def check_average(self, model: nn.Module, average: nn.Module) -> None:
        """Raises ValueError where a network was trained without ``after_step``, so that its average never moved."""
        pairs = zip(model.parameters(), average.parameters(), strict=True)
        if self.step == 0 and not all(torch.equal(new, old) for new, old in pairs):
            raise ValueError(
                "the network was trained, but its averaged copy, which is exported, never moved: call "
                "method.after_step(step / total_steps) after each optimizer.step()"
            )

    def warn_once(self, message: str) -> None:
        """Warns of a slip of the loop, if no other was told before."""
        if not self.warned:
            self.warned = True
            warnings.warn(message, stacklevel=4)

    def get_extra_state(self) -> Tensor:
        """Returns steps and progress, float64 (2,) on the host, as a part of the state dict."""
        return torch.tensor([self.step, self.progress], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.step, self.progress = int(state[0]), float(state[1])

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        result = super().load_state_dict(*args, **kwargs)
        self.last_seen = self.parameter_version()
        return result

    def start_epoch(self) -> None:
        """Called before the first step of each epoch."""

    def extra_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beyond ``state_dict``, such as a batch that is mixed into the next one."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what :meth:`extra_state` gave."""

    def generators(self) -> list[torch.Generator]:
        """The generators this method draws from, so that a run can seed them."""
        return []

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.0, mixer_lr: float | None = None
    ) -> ParameterGroups:
        """Parameters to train, as groups for a torch optimiser, each with a ``name``.

        Args:
            lr: of the network.
            weight_decay: of every group.
            mixer_lr: of the Mixer, for methods that have one; None takes lr.
        """
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"name": "network", "params": params, "lr": lr, "weight_decay": weight_decay}]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) of every classifier this method trains, the one to report first. Call in eval mode."""
        raise NotImplementedError

    def preview(self, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor) -> MixedBatch | None:
        """The mix of these pairs at this lam, for pictures; leaves every state as it was. None: nothing to show."""
        return None

    def export(self) -> nn.Module:
        """The network to keep: a copy, as it was given, with the trained (averaged) weights, in eval mode."""
        raise NotImplementedError


def choose_options(options: Options | str | None, presets: Mapping[str, Options]) -> Options:
    """The options as given, or the preset of this name; None is the first preset."""
    if options is None:
        return next(iter(presets.values()))
    if not isinstance(options, str):
        return options
    if options not in presets:
        raise ValueError(f"unknown preset {options!r}; choose one of {', '.join(presets)}")
    return presets[options]


def detached(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the parts of a loss without their graphs, for the log."""
    return {name: part.detach() for name, part in parts.items()}


def settled_kind(earlier: TargetKind | None, labels: Tensor) -> TargetKind | None:
    """Settles the kind of (B, K) labels by the first batch, so that all batches get one loss.

    Args:
        earlier: of the batches before; None for the first.
        labels: of this batch, of any shape.

    Returns:
        The kind to go on with; None where it is not known.
    """
    if labels.dim() != 2 or earlier == "multilabel":
        return earlier
    kind = target_kind(labels, read=earlier is None)
    if kind == "multilabel" and earlier == "soft":
        raise ValueError(
            "earlier batches had labels whose rows sum to 1, and were trained with softmax; this batch is multi-hot: "
            'say targets="multilabel"'
        )
    return kind or earlier


def version_of(module: nn.Module) -> int:
    """Counts the changes in place of the first trained parameter, as torch does; 0 where none is trained."""
    return next((p._version for p in module.parameters() if p.requires_grad), 0)
