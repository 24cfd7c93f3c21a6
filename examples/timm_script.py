"""A loop in the manner of timm's training script, with samix in the place of timm's Mixup.

The first line that changes is the import; the second way puts any other mixup there.

python examples/timm_script.py
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm.loss import SoftTargetCrossEntropy

import samix
from samix.compat.timm import Mixup, TimmMixup  # instead of: from timm.data import Mixup
from samix.data import Augment, TrainBatches, load_data


def main() -> None:
    """Trains a small network on the embedded digits; the last epoch is not mixed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--mixup", choices=["timm", "fmix"], default="timm")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = load_data("digits")
    loader = TrainBatches(data, batch_size=100, size=16, augment=Augment("digits"), seed=0, on_device=True)
    model = timm.create_model("test_resnet", num_classes=data.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    if arguments.mixup == "timm":
        mixup_fn = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=data.num_classes)
    else:
        mixup_fn = TimmMixup(samix.FMix(), num_classes=data.num_classes, label_smoothing=0.1)
    train_loss_fn = SoftTargetCrossEntropy()
    mixup_off_epoch = arguments.epochs - 1

    for epoch in range(arguments.epochs):
        if mixup_off_epoch and epoch >= mixup_off_epoch:
            mixup_fn.mixup_enabled = False
        for images, labels in loader.epoch(epoch):
            images, target = mixup_fn(images, labels)
            loss = train_loss_fn(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, mixup {'on' if mixup_fn.mixup_enabled else 'off'}")


if __name__ == "__main__":
    main()
