"""PyTorch Lightning: CutMix on the device, and SAMix, which is a method with its own loss.

python examples/lightning_loop.py
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import samix
from samix.compat.lightning import MethodModule


class WithCutMix(lightning.LightningModule):
    """Any network, mixed once the batch is on the device; validation batches stay as they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.mix = model, samix.CutMix(alpha=1.0)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Images and labels become a MixedBatch in training."""
        return self.mix(*batch) if self.trainer.training else batch

    def training_step(self, batch: samix.MixedBatch) -> Tensor:
        """The cross-entropy against the mixed labels."""
        return batch.loss(self.model(batch.images))

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Plain accuracy."""
        images, labels = batch
        self.log("val/accuracy", (self.model(images).argmax(1) == labels).float().mean(), batch_size=len(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As always."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class WithSAMix(MethodModule):
    """Learned mixup: the method holds the network, its Mixer and the averaged copy, which is what is evaluated."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The network, and the Mixer."""
        return torch.optim.SGD(self.method.parameter_groups(lr=0.05), momentum=0.9)


def digits() -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's digits at 16 x 16, in three channels; one in five is held out."""
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 8.0 - 1.0
    images = F.interpolate(images, size=16, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(data.target).long()
    held = torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~held], labels[~held]), TensorDataset(images[held], labels[held])


def main() -> None:
    """Trains a small network by either."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs
    train, held = digits()
    for module in (WithCutMix, WithSAMix):
        lightning.seed_everything(0, verbose=False)
        network = timm.create_model("test_resnet", num_classes=10)
        if module is WithCutMix:
            trained: lightning.LightningModule = WithCutMix(network)
        else:
            options = samix.SAMixOptions(ema_decay=0.95, ema_decay_end=0.99)  # a short run needs a quick average
            trained = WithSAMix(samix.SAMix(network, num_classes=10, options=options, feature=2))
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(trained, DataLoader(train, 100, shuffle=True, drop_last=True), DataLoader(held, 100))
        print(f"{module.__name__}: held-out accuracy {100 * float(trainer.callback_metrics['val/accuracy']):.2f} %")


if __name__ == "__main__":
    main()
