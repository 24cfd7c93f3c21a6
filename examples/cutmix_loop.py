"""A hand-made mixup in a bare loop: three lines, on any network.

python examples/cutmix_loop.py
"""

from __future__ import annotations

import argparse

import timm
import torch

import samix
from samix.data import Augment, TrainBatches, load_data


def main() -> None:
    """Trains a small network on the embedded digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    data = load_data("digits")
    batches = TrainBatches(data, batch_size=100, size=16, augment=Augment("digits"), seed=0, on_device=True)
    model = timm.create_model("test_resnet", num_classes=data.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    cutmix = samix.CutMix(alpha=1.0)
    for epoch in range(epochs):
        for images, labels in batches.epoch(epoch):
            batch = cutmix(images, labels)
            logits = model(batch.images)
            loss = batch.loss(logits)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {batch.accuracy(logits).item():.3f} (mixed labels)")


if __name__ == "__main__":
    main()
