"""Images per second of the input pipeline alone, and whether a training step waits for it.

    python benchmarks/input_pipeline.py --out docs/results/input-pipeline.json

The data are JPEGs of ImageNet's usual size (500 x 375, quality 95), cut at random out of the two photographs that
scikit-learn ships and turned, in `folder:` and in `wds:` form. Measured with 0, 1 and 2 worker processes:

    images/s    batches of 224 px (random resized crop, bicubic, flip; ImageNet's recipe) normalised on the host
    worker      memory of each worker (PSS: shared pages are counted in parts), and what it adds to the whole
    waiting     share of the time of a training step (ResNet-18, forward, backward, SGD) spent on getting the batch

One thread in each process. A machine that is busy with other work gives fewer images per second; the CPU times, which
that does not touch, stand beside them: a core to itself makes 1000 / (ms per image) images per second.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from measuring import timed  # noqa: E402
from processes import children, cpu_seconds, memory  # noqa: E402

from samix.data import Augment, ImageData, TrainBatches, load_data, open_image  # noqa: E402
from samix.data.transforms import normalize, train_transform  # noqa: E402

WIDTH, HEIGHT, SIZE = 500, 375, 224


def make_images(folder: Path, count: int) -> float:
    """Writes so many JPEGs to learn from and ten to test on, as files and as shards; their mean size in bytes."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    draws = np.random.default_rng(0)
    sizes = []
    for split, images in (("train", count), ("val", 10)):
        with tarfile.open(folder / f"{split}-000.tar", "w") as tar:
            for number in range(images):
                content = jpeg(photos[number % 2], draws)
                place = folder / split / f"photo-{number % 2}"
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number:05d}.jpg").write_bytes(content)
                for name, data in ((f"{number:05d}.jpg", content), (f"{number:05d}.cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                sizes.append(len(content))
    return float(np.mean(sizes))


def jpeg(photo: Image.Image, draws: np.random.Generator) -> bytes:
    """A part of a photograph, perhaps mirrored."""
    width = int(draws.integers(400, 561))
    height = width * HEIGHT // WIDTH
    left, top = (int(draws.integers(0, room + 1)) for room in (photo.width - width, photo.height - height))
    part = photo.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    (ImageOps.mirror(part) if draws.random() < 0.5 else part).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def batches_of(data: ImageData, batch: int, workers: int) -> TrainBatches:
    """ImageNet's batches."""
    return TrainBatches(data, batch_size=batch, size=SIZE, augment=Augment("resized-crop"), seed=0, workers=workers)


def rate(data: ImageData, batch: int, workers: int, epochs: int) -> dict[str, Any]:
    """Images per second, CPU time of this process and of the workers for an image, and memory of workers."""
    own_id = os.getpid()
    alone = memory(own_id)["Pss"]
    supply = batches_of(data, batch, workers)
    for _ in supply.epoch(0):  # starts the workers, and warms caches
        pass
    theirs, seen = sum(map(cpu_seconds, children(own_id))), 0
    start, own = time.perf_counter(), time.process_time()
    for epoch in range(1, epochs + 1):
        for images, _ in supply.epoch(epoch):
            seen += len(images)
    seconds, own = time.perf_counter() - start, time.process_time() - own
    theirs = sum(map(cpu_seconds, children(own_id))) - theirs
    each = [memory(number)["Pss"] for number in children(own_id)]
    return {
        "workers": workers,
        "images_per_second": round(seen / seconds, 1),
        "own_cpu_ms_per_image": round(1e3 * own / seen, 3),
        "workers_cpu_ms_per_image": round(1e3 * theirs / seen, 3),
        "worker_pss_mib": [round(size, 1) for size in each],
        "whole_pss_mib": round(memory(own_id)["Pss"] + sum(each), 1),
        "before_pss_mib": round(alone, 1),
    }


def waiting(data: ImageData, batch: int, workers: int, steps: int) -> dict[str, Any]:
    """Seconds of a training step, and the share of them spent on the batch."""
    torch.manual_seed(0)
    network: Any = timm.create_model("resnet18", num_classes=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    supply = batches_of(data, batch, workers)
    waited = waited_cpu = start = start_cpu = 0.0
    iterator = supply.epoch(0)
    for step in range(steps + 2):
        if step == 2:  # after warming up
            waited, waited_cpu, start, start_cpu = 0.0, 0.0, time.perf_counter(), time.process_time()
        asked, asked_cpu = time.perf_counter(), time.process_time()
        got = next(iterator, None)
        if got is None:
            iterator = supply.epoch(step)
            got = next(iterator)
        waited += time.perf_counter() - asked
        waited_cpu += time.process_time() - asked_cpu
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(got[0]), got[1]).backward()
        optimizer.step()
    whole, whole_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "workers": workers,
        "step_s": round(whole / steps, 3),
        "waiting_share": round(waited / whole, 4),
        "step_cpu_s": round(whole_cpu / steps, 3),
        "waiting_share_of_cpu": round(waited_cpu / whole_cpu, 4),
        "step_needs_images_per_second": round(batch * steps / (whole_cpu - waited_cpu), 1),
    }


def stages(data: ImageData, files: list[Path]) -> dict[str, float]:
    """CPU milliseconds of an image: decoding, augmenting, normalising; the least of five passes."""
    transform = train_transform(Augment("resized-crop"), SIZE, data.mean, data.std)
    images = [open_image(file) for file in files]
    batch = torch.stack([transform(image) for image in images])
    tasks = {
        "decode": lambda: [open_image(file) for file in files],
        "augment": lambda: [transform(image) for image in images],
        "normalise": lambda: normalize(batch, data.mean, data.std),
    }
    found: dict[str, float] = {}
    for name, task in tasks.items():
        seconds = min(timed(task, torch.device("cpu")) for _ in range(5))
        found[name] = round(1e3 * seconds / len(files), 3)
    return found


def main() -> None:
    """Measures, prints a table, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"images": asked.images, "batch": asked.batch, "size": SIZE, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["mean_bytes"] = round(make_images(folder, asked.images))
        data = load_data(f"folder:{folder}")
        result["cpu_ms_per_image"] = stages(data, sorted(folder.glob("train/*/*.jpg"))[:48])
        print(json.dumps(result["cpu_ms_per_image"]), flush=True)
        for form, place in (("folder", data), ("wds", load_data(f"wds:{folder}"))):
            result[form] = []
            for workers in asked.workers:
                result[form].append(rate(place, asked.batch, workers, asked.epochs))
                print(form, json.dumps(result[form][-1]), flush=True)
        result["training"] = []
        for workers in asked.workers:
            result["training"].append(waiting(data, asked.batch, workers, asked.steps))
            print("training", json.dumps(result["training"][-1]), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
