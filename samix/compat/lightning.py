"""A LightningModule for any method of samix, learned or not, that resumes exactly.

    class Mine(MethodModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.method.parameter_groups(lr=0.1), momentum=0.9)

    module = Mine(samix.SAMix(network, num_classes=10))
    lightning.Trainer(max_epochs=100).fit(module, train_loader, val_loader)
    network = module.method.export()

Needs ``samix[lightning]``. A mixup of images alone does without: call it in ``on_after_batch_transfer``.
"""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
from torch import Tensor, nn

from samix.batch import target_kind, target_loss, unmixed
from samix.compat.state import check_method, images_and_labels, load_method_state, method_state
from samix.methods.base import Method
from samix.runtime.checks import Values


class MethodModule(lightning.LightningModule):  # type: ignore[misc]  # Lightning has no types of its own here
    """Trains a method; validates the network that the method exports, the averaged one where there is one.

    It calls ``start_epoch`` and ``after_step`` and keeps what resuming needs in Lightning's checkpoint: a run resumed
    from the end of an epoch ends as one that ran through. Inside an epoch Lightning itself does not restore the order
    of a plain DataLoader. Automatic optimisation, accumulation, clipping and mixed precision are Lightning's own.

    Args:
        method: :class:`samix.SAMix`, :class:`samix.Supervised` or another; a subclass gives ``configure_optimizers``.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        check_method(method)
        self.method = method
        self._network: list[nn.Module] = []  # in a list, so that it is not part of this module
        self._last_step = 0
        self._resumed = False

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @property
    def network(self) -> nn.Module:
        """The exported network in eval mode; made anew when validation, testing or prediction starts."""
        if not self._network:
            self._network = [self.method.export()]
        return self._network[0]

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Computes the method's loss, and logs it and its parts."""
        images, labels = images_and_labels(batch)
        loss, parts = self.method(images, labels)
        self.log("train/loss", loss.detach(), batch_size=len(images))
        self.log_dict({f"train/{name}": value for name, value in parts.items()}, batch_size=len(images))
        return cast(Tensor, loss)

    def validation_step(self, batch: object, batch_idx: int) -> None:
        """Logs the accuracy of the exported network as ``val/accuracy``; for values its squared error, ``val/loss``."""
        images, labels = images_and_labels(batch)
        logits, kind = self(images), target_kind(labels, read=True)
        if kind == "value":
            self.log(
                "val/loss", target_loss(logits, labels, kind), batch_size=len(images), prog_bar=True, sync_dist=True
            )
            return
        right = unmixed(images, labels).accuracy(logits)
        self.log("val/accuracy", right, batch_size=len(images), prog_bar=True, sync_dist=True)

    # What Lightning calls -----------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Starts the method's epoch, but not again after resuming in the middle of one."""
        seen = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready  # of a checkpoint: batches of its epoch
        if not (self._resumed and 0 < seen < self.trainer.num_training_batches):
            self.method.start_epoch()
        self._resumed = False

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Calls ``after_step`` once for each optimiser step, which an accumulated batch is not."""
        self._follow_step()

    def _follow_step(self) -> None:
        if self.global_step == self._last_step:
            return
        self._last_step = self.global_step
        total = float(self.trainer.estimated_stepping_batches)
        self.method.after_step(min(self.global_step / total, 1.0) if math.isfinite(total) else 0.0)

    def on_validation_epoch_start(self) -> None:
        self._network = []

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def state_dict(self, *args: object, **kwargs: object) -> Any:
        """Returns the weights after the last step; callbacks may save before this module is told of the step."""
        if self._trainer is not None and self.trainer.training:
            self._follow_step()
        return super().state_dict(*args, **kwargs)

    def on_save_checkpoint(self, checkpoint: Values) -> None:
        """Adds what the method needs beyond its weights; all processes resume with the draws of the first one."""
        checkpoint["samix"] = {**method_state(self.method), "step": self._last_step}

    def on_load_checkpoint(self, checkpoint: Values) -> None:
        """Keeps it until the weights are loaded."""
        if "samix" not in checkpoint:
            raise ValueError("this checkpoint was not saved by samix's MethodModule; load its state_dict instead")
        state = checkpoint["samix"]
        load_method_state(self.method, state)
        self._last_step, self._resumed = int(state["step"]), True
        self._network = []
