"""The methods of samix in timm's training script, which trains a task.

from samix.compat.timm_task import MethodTask
task = MethodTask(samix.SAMix(model, num_classes=1000), total_steps=epochs * len(loader_train), device=device)
optimizer = create_optimizer_v2(task.method, lr=0.1, weight_decay=1e-4)
"""

from __future__ import annotations

from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils.model import unwrap_model
from torch import Tensor, nn

from samix.compat.state import check_method, load_method_state, method_state
from samix.methods.base import Method
from samix.runtime.checks import Values, check_number


class MethodTask(TrainingTask):  # type: ignore[misc]  # timm has no types of its own here
    """A method of samix as the task of timm's training script: ``task = MethodTask(samix.SAMix(model, 1000), steps)``.

    The network that is validated and saved as ``state_dict`` is the one that the method exports, the averaged one
    where there is one, under timm's own names. What resuming needs is saved as ``task_state``. Give the optimiser
    ``task.parameters()`` or ``method.parameter_groups(lr)``: the Mixer is trained too. timm's own average of weights
    (``--model-ema``) is not made beside the method's.

    Args:
        method: :class:`samix.SAMix`, :class:`samix.Supervised` or another.
        total_steps: optimiser steps of the whole run, for the method's schedules.
        device: as for timm.
        dtype: as for timm.
        verbose: as for timm.
    """

    def __init__(
        self,
        method: Method,
        total_steps: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        check_method(method)
        check_number("total_steps", total_steps, 1, integer=True)
        self.trainable_module: nn.Module = method
        self.total_steps, self.steps = total_steps, 0
        self.eval_model = ExportedNetwork(self)

    @property
    def method(self) -> Method:
        """The method, without what timm has wrapped it in."""
        method = unwrap_model(self.trainable_module)
        assert isinstance(method, Method)
        return method

    def prepare_distributed(self, device_ids: list[int] | None = None, **options: object) -> MethodTask:
        values: Values = {"find_unused_parameters": self.method.may_leave_out, **options}
        self.trainable_module = nn.parallel.DistributedDataParallel(self.method, device_ids=device_ids, **values)
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **options: object) -> nn.Module:
        self.method.compile_parts(backend=backend, mode=mode, **options)
        return self.eval_model

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:  # timm's name
        loss, parts = self.trainable_module(input, target)
        return {**parts, "loss": loss}

    def update_ema(self, step: int | None = None) -> None:
        """Tells the method that the optimiser has made a step; timm's script calls this after each."""
        self.steps = self.steps + 1 if step is None else step
        self.method.after_step(min(self.steps / self.total_steps, 1.0))

    def setup_ema(self, *args: object, **options: object) -> nn.Module:
        """Returns the network that is validated anyway: a second average is not made."""
        return self.eval_model

    def has_ema(self) -> bool:
        """Returns whether timm is to keep an average of its own: no."""
        return False

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> Values:
        return {"method": self.method.state_dict(), **method_state(self.method), "steps": self.steps}

    def load_checkpoint_state(
        self,
        state_dict: Values,
        task_state: Values | None = None,
        ema: bool = False,
        strict: bool = True,
    ) -> None:
        if not task_state:
            raise ValueError(
                "this checkpoint has no task_state of a samix method, so it cannot be resumed; load its weights into "
                "the network before the method is made (timm: --initial-checkpoint)"
            )
        self.load_task_state(task_state, strict=strict)

    def load_task_state(
        self,
        state: Values | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        if state:
            self.method.load_state_dict(state["method"], strict=strict)
            load_method_state(self.method, state)
            self.steps = int(state["steps"])
            self.eval_model.clear()


class ExportedNetwork(nn.Module):
    """The network that a task's method exports, as it is after the last step; in eval mode always."""

    def __init__(self, task: MethodTask) -> None:
        super().__init__()
        self._task = [task]  # in a list, so that it is not part of this module
        self._made: tuple[tuple[int, int], nn.Module] | None = None

    def network(self) -> nn.Module:
        """Returns the export, made anew where parameters have changed."""
        task = self._task[0]
        version = task.steps, task.method.parameter_version()
        if self._made is None or self._made[0] != version:
            object.__setattr__(self, "_made", (version, task.method.export()))
        assert self._made is not None
        return self._made[1]

    def clear(self) -> None:
        """Drops the export."""
        self._made = None

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network()(images)
        return logits

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the network's own state, under timm's names."""
        return self.network().state_dict(*args, **kwargs)
