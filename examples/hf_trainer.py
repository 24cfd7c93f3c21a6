"""Hugging Face's Trainer with a mixup.

python examples/hf_trainer.py
"""

from __future__ import annotations

import argparse
import tempfile

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

import samix
from samix.compat.transformers import MixupTrainer


class Digits(Dataset[dict[str, Tensor]]):
    """scikit-learn's digits at 16 x 16; every fifth is held out."""

    def __init__(self, train: bool) -> None:
        data = load_digits()
        images = torch.from_numpy(data.images).float().unsqueeze(1) / 8.0 - 1.0
        kept = (torch.arange(len(images)) % 5 != 0) == train
        self.images = F.interpolate(images, size=16, mode="bilinear")[kept]
        self.labels = torch.from_numpy(data.target).long()[kept]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[i], "labels": self.labels[i]}


def main() -> None:
    """Trains a small vision transformer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        num_channels=1,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        num_labels=10,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=100,
            per_device_eval_batch_size=100,
            learning_rate=5e-3,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=0,
        )
        torch.manual_seed(0)
        trainer = MixupTrainer(
            ViTForImageClassification(config),
            arguments,
            train_dataset=Digits(train=True),
            eval_dataset=Digits(train=False),
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
            mixup=samix.CutMix(alpha=1.0),
        )
        trainer.train()
        result = trainer.evaluate()
    print(f"held-out accuracy {100 * result['eval_accuracy']:.2f} %")


if __name__ == "__main__":
    main()
