"""Calls that read trained networks, whole and damaged, to load, predict, evaluate and start from; and samix.fit."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import nn

import samix
from fuzzing.command_calls import SetUp
from fuzzing.judging import require
from fuzzing.random_input import TEXT, damage, random_value
from samix.cli.main import main
from samix.data import ImageData, load_data
from samix.hub.export import export_network
from samix.networks.create import create_network
from samix.recipes import Recipe

ARGS = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
CLASSES = 10


def new_network(classes: int) -> nn.Module:
    """A small ResNet."""
    return create_network("resnet18", classes, ARGS, size=16, stem="small")


def whole_export(place: Path) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """An export with its images and logits; made once."""
    folder = place / "export"
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    if not folder.is_dir():
        data: ImageData = load_data("digits")
        recipe = Recipe(model="resnet18", model_args=json.dumps(ARGS), size=16, stem="small")
        network = new_network(CLASSES)
        export_network(folder, network.eval(), recipe, data, None)
        Image.effect_mandelbrot((20, 16), (-2, -1, 1, 1), 20).save(place / "a.png")
        with torch.no_grad():
            torch.save(network(images), place / "logits.pt")
    return folder, images, torch.load(place / "logits.pt")


def changed_export(draw: random.Random, place: Path) -> Path:
    """A copy with a file that is damaged or missing, or another value in its config; or as it was."""
    folder = place / f"copy{draw.randrange(1 << 40)}"
    shutil.copytree(place / "export", folder)
    what = draw.choice(["whole", "weights", "config", "value", "value", "missing"])
    if what in ("weights", "config"):
        path = folder / ("model.safetensors" if what == "weights" else "config.json")
        path.write_bytes(damage(path.read_bytes(), draw))
    elif what == "missing":
        draw.choice([p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")]).unlink()
    elif what == "value":
        path = folder / "config.json"
        values = json.loads(path.read_text())
        own = values["samix"]["network"]
        own[draw.choice([*own, *TEXT])] = random_value(draw)
        if draw.random() < 0.5:
            del values["samix"]["network_sha256"]
        path.write_text(json.dumps(values))
    return folder


def call_source(draw: random.Random, place: Path) -> None:
    """A network is read from a copy of an export; it is the network that was written, or refused."""
    _, images, logits = whole_export(place)
    folder = changed_export(draw, place)
    original = json.loads((place / "export" / "config.json").read_text())["samix"]["network"]
    try:
        how = draw.choice(["load", "load", "predict", "init", "evaluate"])
        if how == "load":
            net = samix.load(folder if draw.random() < 0.7 else folder / "model.safetensors")
            now = vars(net.config)
            same = all(now[k] == v or list(now[k]) == v for k, v in original.items() if k in ("stem", "model_args"))
            with torch.no_grad():
                require(not same or torch.allclose(net(images), logits, atol=1e-5), "another network")
            require(len(net.class_names) in (0, CLASSES), f"{len(net.class_names)} names")
        elif how == "init":
            samix.load_init(new_network(draw.choice([3, CLASSES])), folder)
        else:
            run_command([how, str(folder), *([str(place / "a.png")] if how == "predict" else ["--data", "x"])])
    finally:
        shutil.rmtree(folder)


def run_command(words: list[str]) -> None:
    """A command; what it says is one line, or it worked."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    if status:
        if "unexpected" in told.getvalue():
            raise RuntimeError(told.getvalue().strip())
        raise ValueError(told.getvalue().strip())


def call_predict(draw: random.Random, place: Path) -> None:
    """Predictions of images of every mode: from the file as from the opened image; of other things an error."""
    folder, *_ = whole_export(place)
    net = samix.load(folder)
    mode = draw.choice(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "nothing"])
    if mode == "nothing":
        tensors = [torch.rand(3, 9, 9), torch.zeros(9, 9), torch.zeros(4, 9, 9)]
        odd: Any = draw.choice([None, 3, [None], [3], [[]], *tensors])
        if isinstance(odd, torch.Tensor) and draw.random() < 0.5 and len(odd) != 3:  # uint8 (3, H, W) is an image
            odd = odd.to(torch.uint8)
        net.predict(odd)
        require(False, f"a prediction of {odd!r}"[:100])
    side = draw.choice([1, 5, 16, 40])
    image = Image.frombytes("RGBA", (side, 17), draw.randbytes(side * 17 * 4))
    if mode == "I;16":
        image = Image.frombytes("I;16", (side, 17), draw.randbytes(side * 17 * 2))
    elif mode == "P":
        image = image.convert("RGB").quantize(8)
    else:
        image = image.convert("RGB").convert(mode) if mode == "CMYK" else image.convert(mode)
    path = place / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    first, second = net.predict([str(path), image], top=3, batch_size=draw.choice([1, 2, 64]))
    require(first.names == second.names, f"{mode}: {first.names} from the file, {second.names} from the image")
    require(abs(first.probability - second.probability) < 1e-6, f"{mode}: other probabilities")


def call_fit(draw: random.Random, place: Path) -> None:
    """``samix.fit`` with data and networks of any kind; it is set up, but takes no step."""
    samples: list[Any] = [(torch.rand(3, 8, 8), n % 2) for n in range(20)]
    odd: list[Any] = [
        samples,
        samples[:1],
        [],
        iter(samples),
        dict(enumerate(samples)),
        [(Image.new("RGB", (8, 8)), n % 3) for n in range(20)],
        [{"image": image, "label": label} for image, label in samples],
        [{"pixels": image, "y": label} for image, label in samples],
        [(image, str(label)) for image, label in samples],
        [(image, float(label)) for image, label in samples],
        [(image, label + draw.choice([-1, 5, 10**6])) for image, label in samples],
        [(image * 300, label) for image, label in samples],
        [(image, torch.rand(3)) for image, label in samples],
        [(image, 0) for image, _ in samples],
        [image for image, _ in samples],
        torch.utils.data.TensorDataset(torch.rand(20, 3, 8, 8), torch.arange(20) % 2),
        torch.utils.data.TensorDataset(torch.rand(20, 8, 8, 3), torch.arange(20) % 2),
        torch.utils.data.DataLoader(samples, batch_size=draw.choice([1, 4, 100]), drop_last=True),
        *(None, 3, "digits", "/nowhere", place, nn.Linear(2, 2), random_value(draw)),
    ]
    options: dict[str, Any] = {"epochs": 1, "batch_size": 4, "size": 8, "workers": 0}
    for name in draw.sample(sorted(options), draw.choice([0, 0, 1])):
        options[name] = random_value(draw)
    own = timm.create_model("test_resnet", num_classes=2)
    options |= {"out": str(place / "fits"), "run": str(draw.randrange(1 << 40)), "device": "cpu", "quiet": True}
    with contextlib.suppress(SetUp):
        samix.fit(
            draw.choice([None, "resnet18", "test_resnet", "x", "", 3, own]),
            draw.choice(["cutmix", "vanilla", "samix", "mixer:default", "x", samix.MixUp(alpha=0.2)]),
            train=draw.choice([*odd, *[samples] * 8]),
            val=draw.choice([None, None, None, samples, [], "x"]),
            pictures=False,
            **options,
        )
