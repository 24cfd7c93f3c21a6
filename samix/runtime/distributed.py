"""Rank, world size and gathering, right with and without a process group. The engine is torch.distributed."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def rank() -> int:
    """Returns this process's number, 0 on one process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Returns how many processes train together, 1 on one process."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def gather(rows: Tensor) -> Tensor:
    """Returns the rows of all processes, in order of rank, without a gradient: (B, ...) -> (W B, ...)."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Gathers as :func:`gather`; the backward pass sums all processes' gradients and keeps this one's rows."""
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]


@torch.no_grad()
def from_first(value: Tensor) -> Tensor:
    """Sets a tensor to rank 0's value on every process."""
    if world_size() > 1:
        dist.broadcast(value, 0)
    return value


def set_of_all(rows: set[int]) -> set[int]:
    """Returns the numbers that any process has; to be called by all of them."""
    if world_size() == 1:
        return set(rows)
    from accelerate.utils import gather_object

    return set(gather_object(sorted(rows)))


def texts_of_all(text: str) -> set[str]:
    """Returns the texts of all processes but the empty ones; to be called by all of them."""
    if world_size() == 1:
        return {text} - {""}
    from accelerate.utils import gather_object

    return set(gather_object([text])) - {""}


def raise_together(error: BaseException | None) -> None:
    """Raises on every process where any of them has an error; all of them call this."""
    if world_size() > 1:
        messages = sorted(texts_of_all("" if error is None else str(error) or type(error).__name__))
        if messages and error is None:
            raise ValueError(messages[0])
    if error is not None:
        raise error


class AsyncFlag:
    """Whether any process asks for something. All learn it at the same step, and none waits for its device.

    Each step sends one byte by gloo, also where gradients go by NCCL, and reads what was sent at the step before: that
    has long arrived. With one process the answer is its own, at once. To be made by all processes together.
    """

    def __init__(self) -> None:
        self.group: dist.ProcessGroup | None = None
        if world_size() > 1:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)
            self.group = group
        self.sent: tuple[Tensor, dist.Work | None] | None = None

    def any(self, mine: bool) -> bool:
        """Returns whether any process asked at the step before; to be called by all of them at every step."""
        if self.group is None:
            return mine
        answer = False
        if self.sent is not None:
            flag, work = self.sent
            assert work is not None
            work.wait()
            answer = bool(flag.item())
        flag = torch.tensor([mine], dtype=torch.uint8)
        self.sent = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group, async_op=True)
        return answer


def lost_process(error: BaseException) -> str | None:
    """Returns the message about a lost process; None for another error."""
    text = " ".join(str(error).split())
    lost = isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text
    if world_size() == 1 or not (isinstance(error, RuntimeError) and lost):
        return None
    return (
        f"process {rank()} of {world_size()} lost the connection to another one ({text[:200]}); the output of that "
        "process says why. Start all processes again with --resume"
    )


def exit_from_group(status: int) -> None:
    """Ends this process at once where several run together; on one process it does nothing.

    After a failure, messages between processes are still under way. The destructors of gloo abort when such a message
    fails while Python exits (status -6 in place of ours), so they must not run.
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def check_not_sharded() -> None:
    """Refuses engines that split weights over the processes."""
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes", "y", "on"):
            raise ValueError(
                f"accelerate is configured for {name}, which splits each weight over the processes; the EMA model, the "
                "Mixer, checkpoints and the export need whole weights. Launch plain data parallelism: "
                "accelerate launch --multi_gpu, or torchrun"
            )


@torch.no_grad()
def total(value: Tensor) -> Tensor:
    """Returns the sum over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def leave_out_equal_buffers(model: nn.Module) -> list[str]:
    """Keeps DDP from sending buffers that are equal on all processes; call it before DDP is made.

    These are the buffers of modules with ``equal_on_all = True``: each process must begin with the same and must do
    the same to them. All others, as BatchNorm's statistics, are still the first process's at each step.
    """
    modules = [(name, module) for name, module in model.named_modules() if getattr(module, "equal_on_all", False)]
    names = [f"{name}.{own}" if name else own for name, module in modules for own, _ in module.named_buffers()]
    if world_size() > 1 and names:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]
    return names
