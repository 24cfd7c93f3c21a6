"""Supervised training with a running average of the network, which is evaluated and exported."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.methods.supervised import Supervised
from samix.networks.ema import ema_copy, untracked_batchnorm, update_ema, update_ema_buffers, warmed_up
from samix.runtime.checks import check_number


class Averaged(Supervised):
    """Adds a running average of weights and BatchNorm statistics to :class:`Supervised`, as learned mixups have one.

    The loop must call ``after_step``, as that of a learned mixup. With a clean loss the statistics are of clean images
    only, since they serve at test time.

    Args:
        args: of :class:`Supervised`.
        ema_decay: decay of the average, in (0, 1); the first steps take ``(1 + t) / (10 + t)`` where that is less.
        kwargs: of :class:`Supervised`.
    """

    def __init__(self, *args: Any, ema_decay: float = 0.999, **kwargs: Any) -> None:
        check_number("ema_decay", ema_decay, 0, 1, open_low=True, open_high=True)
        super().__init__(*args, **kwargs)
        self.ema_decay = ema_decay
        self.ema_model = ema_copy(self.model).eval()

    def train(self, mode: bool = True) -> Averaged:
        """Sets train mode; the average stays in eval mode."""
        super().train(mode)
        self.ema_model.eval()
        return self

    def forward_mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes a batch and runs the network on it; statistics are of these images only without a clean loss."""
        with untracked_batchnorm(self.model) if self.clean_weight else nullcontext():
            return super().forward_mixed(images, labels)

    def after_step(self, progress: float) -> None:
        """Moves the average towards the network."""
        super().after_step(progress)
        decay = warmed_up(self.ema_decay, self.step)
        update_ema(self.model, self.ema_model, decay)
        update_ema_buffers(self.model, self.ema_model, decay)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Returns logits (B, K) of the average, which are reported, and of the network."""
        return {"ema": self.ema_model(images), **super().predict(images)}

    def export(self) -> nn.Module:
        """Returns a copy of the average, in eval mode.

        Raises:
            ValueError: the network was trained without ``after_step``, so its average never moved.
        """
        self.check_average(self.model, self.ema_model)
        return copy.deepcopy(self.ema_model).eval().requires_grad_(True)
