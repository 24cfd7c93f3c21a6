"""What each mixup of images costs, beside those of other libraries, and as a share of a training step.

All are called in turn in one process, in an order that is drawn anew in each round, so that a slow minute of the
machine hits all alike. Printed are medians and quartiles of the time of one call on a batch, the median of the ratio to
samix's own in the same round where another library has the mixup, and the share of a training step (forward, backward,
SGD) that is measured in the same run: ResNet-18 with a small stem up to 64 px, ResNet-50 above.

    python benchmarks/policies.py --device cpu --sizes 32 224 --batches 128 64

Mixups that look at a map of each image are timed with a given map, and what makes the map, ``look``, by itself. Other
libraries give soft targets, so samix is timed with ``soft_targets`` where it is compared with them. timm's Mixup writes
into the batch it is given, which saves it a copy.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from measuring import interleaved, quartiles, ratios, save, timed
from torch import Tensor, nn

from samix.compat.loader import check_input_stage
from samix.mixups import MIXUPS
from samix.mixups.base import Augmentation
from samix.mixups.guided import GuidedAugmentation
from samix.networks.create import small_stem
from samix.runtime.environment import device_name

Entries = dict[tuple[str, str], Callable[[], object]]  # (mixup, who) -> one call
CLASSES = 100
LOOK = "samix, look"


def seeded() -> torch.Generator:
    """A generator for one mixup."""
    return torch.Generator().manual_seed(0)


def samix_entries(images: Tensor, labels: Tensor, model: nn.Module, look: bool) -> tuple[Entries, dict[str, str]]:
    """One call of each mixup of :data:`samix.mixups.MIXUPS`, and the reason why some cannot run alone."""
    entries: Entries = {}
    skipped: dict[str, str] = {}
    maps = torch.rand(len(images), 8, 8, device=images.device)
    for name, kind in MIXUPS.items():
        mix: Augmentation = kind(generator=seeded())
        if isinstance(mix, GuidedAugmentation):
            found: Entries = {
                (name, "samix, map given"): lambda mix=mix: mix(images, labels, guide=maps),  # type: ignore[misc]
                (name, LOOK): lambda mix=mix: mix.look(images, labels, model),  # type: ignore[misc]
            }
        else:
            try:
                check_input_stage(mix)
            except ValueError as error:
                skipped[name] = str(error).split(";")[0]
                continue
            found = {(name, "samix"): lambda mix=mix: mix(images, labels)}  # type: ignore[misc]
        for key, call in found.items():
            if key[1] == LOOK and not look:
                continue
            try:
                call()
            except Exception as error:  # the reason is printed
                skipped[", ".join(key)] = str(error).strip().split("\n")[0] or type(error).__name__
            else:
                entries[key] = call
    return entries, skipped


def compared_entries(images: Tensor, labels: Tensor) -> Entries:
    """MixUp and CutMix with soft targets, by samix and by each of the other libraries that is installed."""
    from timm.data.mixup import Mixup
    from torchvision.transforms import v2

    entries: Entries = {}
    own = images.clone()  # written to
    for name, kind in (("mixup", "MixUp"), ("cutmix", "CutMix")):
        for who, each in (("samix, targets", False), ("samix, targets, lam per sample", True)):
            mix = MIXUPS[name](per_sample=each, generator=seeded())
            entries[name, who] = lambda mix=mix: mix(images, labels).soft_targets(CLASSES)  # type: ignore[misc]
        theirs = getattr(v2, kind)(num_classes=CLASSES)
        entries[name, "torchvision"] = lambda theirs=theirs: theirs(images, labels)  # type: ignore[misc]
        alphas = (1.0, 0.0) if kind == "MixUp" else (0.0, 1.0)
        for mode in ("batch", "elem"):
            mixup = Mixup(*alphas, mode=mode, label_smoothing=0.0, num_classes=CLASSES)
            entries[name, f"timm, {mode}"] = lambda mixup=mixup: mixup(own, labels)  # type: ignore[misc]
    if importlib.util.find_spec("kornia") is not None:
        entries |= kornia_entries(images, labels)
    return entries


def kornia_entries(images: Tensor, labels: Tensor) -> Entries:
    """MixUp and CutMix of kornia."""
    import kornia.augmentation

    keys: Any = {"data_keys": ["input", "class"]}
    mixup = kornia.augmentation.RandomMixUpV2(**keys)
    cutmix = kornia.augmentation.RandomCutMixV2(use_correct_lambda=True, **keys)
    return {
        ("mixup", "kornia"): lambda: mixup(images, labels),
        ("cutmix", "kornia"): lambda: cutmix(images, labels),
    }


def make_network(size: int, device: torch.device, channels_last: bool) -> tuple[str, nn.Module]:
    """The network whose training step is the measure."""
    name = "resnet18" if size <= 64 else "resnet50"
    model = timm.create_model(name, num_classes=CLASSES)
    if size <= 64:
        small_stem(model)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return name, model.to(device, memory_format=layout).train()


def make_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """A plain training step, without a mixup."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(
    entries: Entries, rounds: int, device: torch.device, order: random.Random
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each entry in each round; every entry is called once before."""
    for call in entries.values():
        call()
    return interleaved(entries, rounds, partial(timed, device=device, clock=time.perf_counter), order)


def report(seconds: dict[tuple[str, str], list[float]], step: float, network: str) -> list[dict[str, Any]]:
    """Prints the table and gives its rows."""
    print(f"{'mixup':18}{'who':34}{'ms':>9}{'quartiles':>19}{'ratio':>8}{f'% of {network} step':>20}")
    rows = []
    for (name, who), values in sorted(seconds.items()):
        base = seconds.get((name, "samix, targets"))
        ratio = None if base is None else statistics.median(ratios(values, base))
        low, middle, high = quartiles(values)
        row = {"mixup": name, "who": who, "seconds": middle, "quartiles": [low, high], "ratio_to_samix": ratio}
        rows.append({**row, "share_of_step": middle / step})
        shown = "" if ratio is None else f"{ratio:.2f}"
        times = f"{1e3 * middle:9.3f}{1e3 * low:9.3f} -{1e3 * high:8.3f}"
        print(f"{name:18}{who:34}{times}{shown:>8}{100 * middle / step:20.2f}")
    return rows


def run(size: int, batch: int, arguments: argparse.Namespace, order: random.Random) -> dict[str, Any]:
    """All measurements at one size."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size, device=device)
    if arguments.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)
    network, model = make_network(size, device, arguments.channels_last)
    entries, skipped = samix_entries(images, labels, model, look=not arguments.no_look)
    entries |= compared_entries(images, labels)
    if arguments.mixups:
        entries = {key: call for key, call in entries.items() if key[0] in arguments.mixups}
    step = make_step(model, images, labels)
    step()
    step_seconds = statistics.median(timed(step, device, time.perf_counter) for _ in range(arguments.step_rounds))
    print(f"\n{size} px, batch {batch}, {device_name(device)}; {network} step {1e3 * step_seconds:.1f} ms")
    looks = {key: entries.pop(key) for key in list(entries) if key[1] == LOOK}  # slow: not among the quick ones
    seconds = measure(entries, arguments.rounds, device, order)
    seconds |= measure(looks, arguments.step_rounds, device, order)
    rows = report(seconds, step_seconds, network)
    for name, reason in skipped.items():
        print(f"{name:18}not run: {reason}"[:118])
    return {
        "size": size,
        "batch": batch,
        "network": network,
        "step_seconds": step_seconds,
        "rows": rows,
        "skipped": skipped,
    }


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 64])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--step-rounds", type=int, default=5)
    parser.add_argument("--no-look", action="store_true", help="leave out what makes the maps")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--mixups", nargs="+", default=None, help="only these")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    if len(arguments.sizes) != len(arguments.batches):
        parser.error("give one batch size for each image size")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    order = random.Random(0)  # of the measurements
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    sizes = zip(arguments.sizes, arguments.batches, strict=True)
    save(arguments, torch.device(arguments.device), [run(size, batch, arguments, order) for size, batch in sizes])


if __name__ == "__main__":
    main()
