"""The queue of keys: a first-in first-out dictionary of negatives (MoCo, arXiv:1911.05722)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.runtime import distributed


class Queue(nn.Module):
    """The last ``length`` keys, unit vectors, float32. Part of the state dict.

    Args:
        length: K, a multiple of the batch over all processes, below the number of training images.
        dim: D.
        random_start: begin with K random vectors, as the released code does. From an untrained network all keys look
            alike and unlike those, so the first steps drive them further together; in a short run they may stay there.
            False begins with none, and the queue grows.
    """

    equal_on_all: ClassVar[bool] = True  # processes: each puts in the keys of all

    keys: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, length: int, dim: int, *, random_start: bool = True) -> None:
        super().__init__()
        if length < 1 or dim < 1:
            raise ValueError(f"a queue needs a length and a width of at least 1, got {length} and {dim}")
        self.register_buffer("keys", F.normalize(torch.randn(length, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.tensor(length if random_start else 0))
        self._at: int | None = None  # pointer and filling on the host, so that no step waits for them
        self._filled = 0

    def snapshot(self) -> Tensor:
        """(K, D), or fewer rows while it grows: the keys of earlier steps, safe from what is put in later."""
        self._read()
        return self.keys[: self._filled].clone()

    def _read(self) -> int:
        """The pointer; both numbers are read from the buffers once after they were loaded."""
        if self._at is None:
            self._at, self._filled = int(self.pointer), int(self.filled)
        return self._at

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Puts in the keys of this step, those of all processes, in the place of the oldest.

        Args:
            keys: (B, D) unit vectors of this process.
        """
        keys = distributed.gather(keys.detach().to(self.keys.dtype))
        length, dim = self.keys.shape
        if keys.dim() != 2 or keys.shape[1] != dim:
            raise ValueError(f"keys must have shape (B, {dim}), got {tuple(keys.shape)}")
        if length % len(keys):
            raise ValueError(
                f"the queue's length {length} must be a multiple of the batch over all processes, {len(keys)}; "
                "change one of them, and drop the last short batch of an epoch"
            )
        at = self._read()
        self.keys[at : at + len(keys)] = keys
        self._at, self._filled = (at + len(keys)) % length, min(max(self._filled, at + len(keys)), length)
        self.pointer.fill_(self._at)
        self.filled.fill_(self._filled)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        """Reads the pointer anew at the next step."""
        super()._load_from_state_dict(*args, **kwargs)
        self._at = None


def check_queue(length: int, images: int) -> None:
    """Raises ValueError unless the queue is shorter than the data: else an image's own key is among its negatives."""
    if length >= images:
        raise ValueError(
            f"a queue of {length} keys over {images} training images would hold each image's own older key as a "
            "negative; make it shorter than the data"
        )
