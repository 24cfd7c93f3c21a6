"""One trial of fine-tuning on few images, without mixup; docs/results/finetune-tuning.jsonl has ours.

    python benchmarks/finetune_tuning.py --data folder:DIR --size 112 --norms frozen --probe 0.1 --lr 3e-4

EfficientNet-Lite0 with ImageNet weights, 1,000 training images of CIFAR-10 (DIR holds train/CLASS and test/CLASS).
Judged on training images that are not among those, so that the test images decide nothing; ``--test`` judges on these,
once all is chosen. Prints a line of JSON, and appends it to ``--json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn
from torchvision.transforms import v2

from samix.data import ImageSet, load_data
from samix.data.names import balanced_rows
from samix.data.on_device import DRAWS, decode_all, padded_crop, resized_crop
from samix.data.transforms import Fit, normalize
from samix.hub.packaged import packaged_weights
from samix.networks.ema import update_ema, update_ema_buffers

HALF = (0.5, 0.5, 0.5)
POLICIES: dict[str, Any] = {
    "trivial": v2.TrivialAugmentWide(fill=128),
    "rand5": v2.RandAugment(2, 5, fill=128),
    "rand9": v2.RandAugment(2, 9, fill=128),
    "colour": v2.ColorJitter(0.3, 0.3, 0.3),
}


def prepared(images: Tensor) -> Tensor:
    """The images as the network takes them."""
    return normalize(images, HALF, HALF).contiguous(memory_format=torch.channels_last)


def read(arguments: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """The images to learn from, and those to judge on."""
    data = load_data(arguments.data)
    labels = data.train.labels
    rows = balanced_rows(labels, data.num_classes, 1000, arguments.seed)
    if arguments.test:
        return data.train.subset(rows), data.val
    others = torch.ones(len(labels), dtype=torch.bool)
    others[rows] = False
    other_rows = others.nonzero().flatten()
    chosen = balanced_rows(labels[other_rows], data.num_classes, arguments.judge, arguments.seed + 1)
    return data.train.subset(rows), data.train.subset(other_rows[chosen])


def network(arguments: argparse.Namespace) -> Any:
    """The network with ImageNet's weights and a new classifier."""
    name, weights = packaged_weights("lite0")
    net = timm.create_model(name, num_classes=10, drop_rate=arguments.dropout, drop_path_rate=arguments.drop_path)
    net.load_state_dict({k: v for k, v in weights.items() if not k.startswith("classifier")}, strict=False)
    nn.init.normal_(net.classifier.weight, std=0.01)
    nn.init.zeros_(net.classifier.bias)
    return net.to(memory_format=torch.channels_last)


def adapt_norms(net: nn.Module, images: Tensor) -> None:
    """Estimates the BatchNorm statistics anew, on the training images."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # type: ignore[assignment]  # a plain mean over all batches
    net.train()
    with torch.no_grad():
        for x in images.split(125):
            net(prepared(x))


def probe(net: Any, images: Tensor, labels: Tensor, l2: float) -> None:
    """Writes a logistic regression of standardised features into the classifier."""
    net.eval()
    with torch.no_grad():
        parts = [net.forward_head(net.forward_features(prepared(x)), pre_logits=True) for x in images.split(125)]
    z = torch.cat(parts)
    mean, std = z.mean(0), z.std(0) + 1e-3
    z = (z - mean) / std
    weight, bias = torch.zeros(z.shape[1], 10, requires_grad=True), torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(z @ weight + bias, labels) + l2 * weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    rows = (weight.detach() / std[:, None]).T
    net.classifier.load_state_dict({"weight": rows, "bias": bias.detach() - rows @ mean})


def groups(net: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Matrices with decay and vectors without; a factor of the learning rate by layer, and for the classifier."""
    layers = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        head, matrix = name.startswith("classifier"), parameter.ndim > 1
        factor = arguments.head_factor if head else arguments.layer_decay ** (last - layers[name])
        lr = arguments.lr * factor
        group = {"params": [], "lr": lr, "peak": lr, "weight_decay": arguments.weight_decay if matrix else 0.0}
        found.setdefault((layers[name], matrix), group)["params"].append(parameter)
    return list(found.values())


def batches(images: Tensor, labels: Tensor, arguments: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch."""
    for rows in torch.randperm(len(images)).split(arguments.batch)[: len(images) // arguments.batch]:
        draws, size = torch.rand(len(rows), DRAWS), arguments.size
        kind, _, policy = arguments.augment.partition("+")
        if kind == "crop":
            varied = padded_crop(images[rows], draws, size // 8, reflect=False, flip=True)
        else:
            varied = resized_crop(images[rows], draws, (float(kind), 1.0), size).mul(255).byte()
        if policy:
            varied = torch.stack([POLICIES[policy](image) for image in varied])
        yield prepared(varied), labels[rows]


def train(net: Any, slow: Any, images: Tensor, labels: Tensor, arguments: argparse.Namespace) -> float:
    """Trains in place, with a warm-up over a tenth and a cosine to 0; returns a running mean of the loss."""
    parts = groups(net, arguments)
    kind = torch.optim.AdamW(parts) if arguments.optimizer == "adamw" else None
    optimizer = kind or torch.optim.SGD(parts, momentum=0.9, nesterov=True)
    total, step, mean = arguments.epochs * (len(images) // arguments.batch), 0, 0.0
    for _ in range(arguments.epochs):
        net.train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and arguments.norms == "frozen":
                module.eval()
        for x, y in batches(images, labels, arguments):
            progress = step / total
            cosine = (1.0 + math.cos(math.pi * (progress - 0.1) / 0.9)) / 2.0
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (min(1.0, (step + 1) / (0.1 * total)) if progress < 0.1 else cosine)
            loss = F.cross_entropy(net(x), y, label_smoothing=arguments.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            decay = min(arguments.ema, step / (step + 9))
            if arguments.ema:
                update_ema(net, slow, decay)
                update_ema_buffers(net, slow, decay)
            mean += 0.05 * (loss.item() - mean)
    return mean


def judge(net: Any, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Top-1 in percent, and NLL."""
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(prepared(x)) for x in images.split(250)])
    return 100.0 * float((logits.argmax(1) == labels).float().mean()), float(F.cross_entropy(logits, labels))


def main() -> None:
    """Runs the trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:DIR")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--head-factor", type=float, default=1.0, help="of the classifier's learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--norms", choices=("trained", "frozen"), default="trained", help="BatchNorm's statistics")
    parser.add_argument("--probe", type=float, default=0.0, help="L2 of the regression that the classifier starts from")
    parser.add_argument("--augment", default="crop", help="crop, or the least area of a resized crop; +POLICY")
    parser.add_argument("--layer-decay", type=float, default=1.0, help="factor of the learning rate by layer")
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--adapt", action="store_true", help="estimate BatchNorm's statistics anew before training")
    parser.add_argument("--judge-size", type=int, default=0, help="0 is the training size")
    parser.add_argument("--ema", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--judge", type=int, default=3000, help="images to judge on")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    fit, cpu = Fit(arguments.size, arguments.size), torch.device("cpu")
    own, others = read(arguments)
    images, labels = decode_all(own, fit, cpu), own.labels
    net = network(arguments)
    start = time.process_time()
    if arguments.adapt:
        adapt_norms(net, images)
    if arguments.probe:
        probe(net, images, labels, arguments.probe)
    slow = copy.deepcopy(net).requires_grad_(False)
    loss = train(net, slow, images, labels, arguments)
    cpu_seconds = time.process_time() - start
    side = arguments.judge_size or arguments.size
    unseen = decode_all(others, Fit(side, side), cpu)
    top1, nll = judge(net, unseen, others.labels)
    ema_top1, ema_nll = judge(slow, unseen, others.labels) if arguments.ema else (math.nan, math.nan)
    result = {
        "top1": top1,
        "nll": nll,
        "ema_top1": ema_top1,
        "ema_nll": ema_nll,
        "loss": loss,
        "cpu_seconds": cpu_seconds,
    }
    record = {key: None if math.isnan(value) else round(value, 4) for key, value in result.items()}
    record |= {key: value for key, value in vars(arguments).items() if key not in ("json", "data")}
    print(json.dumps(record))
    if arguments.json is not None:
        with arguments.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
