"""Learned mixup in a bare loop: the method makes the loss, the loop stays yours.

python examples/samix_loop.py
"""

from __future__ import annotations

import argparse

import timm
import torch

import samix
from samix.data import Augment, EvalBatches, TrainBatches, load_data


def main() -> None:
    """Trains a small network and its Mixer on the embedded digits, and keeps the averaged network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    data = load_data("digits")
    augment = Augment("digits")
    batches = TrainBatches(data, batch_size=100, size=16, augment=augment, seed=0, on_device=True)
    model = timm.create_model("test_resnet", num_classes=data.num_classes)

    options = samix.SAMixOptions(ema_decay=0.95, ema_decay_end=0.99)  # a short run needs a quick average
    method = samix.SAMix(model, num_classes=data.num_classes, options=options, feature=2)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05), momentum=0.9)
    total = epochs * len(batches)
    for step in range(total):
        if step % len(batches) == 0:
            loader = batches.epoch(step // len(batches))
        loss, parts = method(next(loader))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / total)
        if (step + 1) % len(batches) == 0:
            print(f"step {step + 1}: " + ", ".join(f"{name} {value.item():.3f}" for name, value in parts.items()))

    network = method.export()  # a plain timm network with the averaged weights
    held_out = EvalBatches(data, batch_size=100, size=16, augment=augment)
    with torch.no_grad():
        right = sum((network(images).argmax(1) == labels).sum().item() for images, labels in held_out.batches())
    print(f"held-out accuracy of the averaged network: {100 * right / len(data.val):.2f} %")


if __name__ == "__main__":
    main()
