"""Calls samix with whatever comes: each call ends in a right result or in an error of one line.

    python benchmarks/fuzz.py --calls 10000 --seed 0 --out docs/results/fuzz.json

Kinds of calls, each drawn from random numbers alone, so that a seed and a number bring a failure back:

    mixup        any mixup with random options on a random batch: types, shapes, labels, lam, index; many wrong
    method       one step of a training method on such a batch
    checkpoint   a checkpoint that is cut, or has bytes changed, put in, taken out or zeroed
    image        an image file of one of seven formats, damaged in the same ways
    recipe       a file of recipe fields, JSON or YAML, with random fields and values, or no such file at all
    layout       a data set in a random tree of folders, files and lists
    command      a command line of random commands, flags and values; trainings are set up, but take no step

Outcomes: *right*: the result has the type, shape and range it must have, and holds no NaN that the input had not; a
checkpoint or an image is what was written. *error*: a ValueError, TypeError or OSError with one line, or the command's
one line and status, or its usage. *traceback*: any other exception. *silent*: a wrong result and no error.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import samix.engine
from samix.__main__ import COMMANDS, main
from samix.build import METHODS
from samix.checkpoint import PARTS, load_checkpoint, save_checkpoint
from samix.data import load_data, open_image
from samix.methods.supervised import Supervised
from samix.mixups import MIXUPS
from samix.options import read_config
from samix.pretraining import METHODS as VIEW_METHODS
from samix.pretraining import PRESETS, PretrainRecipe
from samix.recipes import Recipe, from_dict

K = 5
LONGEST = 60.0  # seconds for a call
ERRORS = (ValueError, TypeError, OSError)
KINDS = ("right", "error", "traceback", "silent")
ODD = [0, 1, -1, 2, 0.5, 1.5, -0.3, 1e9, 1e-9, float("nan"), float("inf"), "", "x", "true", None, True, [], {}, 10**30]
TEXT = [
    *map(str, ODD),
    "digits",
    "folder:/nowhere",
    "cutmix",
    "samix",
    "--",
    "-1",
    "é",
    "a b",
    "'",
    "{",
    "[1",
    "../..",
    "\n",
]


class Outcome(NamedTuple):
    """One of :data:`KINDS`, and what was said or found."""

    kind: str
    words: str = ""


class Hung(Exception):
    """A call that takes too long."""


class Wrong(Exception):
    """A wrong result."""


def require(good: bool, words: str) -> None:
    """Raises Wrong unless a result is good."""
    if not good:
        raise Wrong(words)


def judge(call: Callable[[random.Random, Path], None], draw: random.Random, place: Path) -> Outcome:
    """Makes a call, and says what came of it."""
    torch.manual_seed(draw.randrange(1 << 30))
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(draw, place)
    except Wrong as error:
        return Outcome("silent", str(error))
    except ERRORS as error:
        said = str(error).strip()
        if type(error) is UnicodeError or not said or len(said.splitlines()) > 1:
            return Outcome("traceback", f"{type(error).__name__} of {len(said.splitlines())} lines: {said[:150]}")
        return Outcome("error", f"{type(error).__name__}: {said[:100]}")
    except Exception as error:  # whatever it is, it is the finding
        return Outcome("traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:150]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Outcome("right")


def too_long(_number: int, _frame: Any) -> None:
    """Ends a call."""
    raise Hung(f"longer than {LONGEST:.0f} s")


# ---------------------------------------------------------------------------------------------------------------------
# Mixups and methods.


class Net(nn.Module):
    """A convolution with BatchNorm, and a linear layer: a network that any mixup can look at."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(8, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K).

        Raises:
            ValueError: whatever torch says of the input: it is this network's, not samix's, to speak of it.
        """
        try:
            logits: Tensor = self.fc(self.late(self.body(x)).mean((2, 3)))
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from error
        return logits


def random_options(kind: type[Any], names: list[str], draw: random.Random) -> dict[str, Any]:
    """None, one or two options, of values that fit their types, or of any."""
    hints = get_type_hints(kind)
    return {
        name: draw.choice(ODD) if draw.random() < 0.4 else fitting(hints[name], draw)
        for name in draw.sample(names, min(len(names), draw.choice([0, 0, 0, 1, 1, 2])))
    }


def fitting(hint: Any, draw: random.Random) -> Any:
    """A value of a type."""
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        return draw.choice(choices)
    kinds = choices or (hint,)
    if bool in kinds:
        return draw.random() < 0.5
    if float in kinds:
        return draw.choice([0.0, 0.1, 0.5, 0.9, 1.0, 2.0, draw.random()])
    if int in kinds:
        return draw.choice([1, 2, 3, 4, 8])
    return draw.choice(["", "x", "spectral"])


def random_batch(draw: random.Random, model_channels: int = 3) -> tuple[Any, Any]:
    """Images and labels; both as they should be in about half of all calls."""
    size = draw.choice([1, 2, 3, 4, 4, 5])
    channels = model_channels if draw.random() < 0.9 else draw.choice([1, 2, 5])
    height, width = (draw.choice([1, 2, 5, 7, 8, 8, 12, 16]) for _ in range(2))
    images: Any = torch.randn(size, channels, height, width)
    labels: Any = torch.randint(0, K, (size,))
    if draw.random() < 0.3:
        images = draw.choice(
            [
                lambda: images.to(
                    draw.choice([torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int64])
                ),
                lambda: images.contiguous(memory_format=torch.channels_last),
                lambda: images.transpose(2, 3),
                lambda: images[0],
                lambda: images.permute(0, 2, 3, 1),
                lambda: images[:0],
                lambda: images * float("nan"),
                lambda: images * 1e30,
                lambda: torch.zeros_like(images),
                lambda: images.expand(size, channels, height, width)[:, :, :0],
                lambda: images.numpy(),
                lambda: images.requires_grad_(),
                lambda: None,
            ]
        )()
    if draw.random() < 0.3:
        labels = draw.choice(
            [
                lambda: labels + draw.choice([-1, 3, 10**6]),
                lambda: labels.to(draw.choice([torch.int32, torch.uint8, torch.float32, torch.bool, torch.float64])),
                lambda: torch.nn.functional.one_hot(labels, K).float(),
                lambda: torch.nn.functional.one_hot(labels, K),
                lambda: torch.rand(size, draw.choice([1, K, K + 1])),
                lambda: torch.rand(size),
                lambda: labels[:-1],
                lambda: labels[:, None],
                lambda: labels.tolist(),
                lambda: torch.randint(0, K, (size, height, width)),
                lambda: torch.full((size,), float("nan")),
                lambda: None,
            ]
        )()
    return images, labels


def call_mixup(draw: random.Random, place: Path) -> None:
    """A mixup with random options on a random batch."""
    kind = MIXUPS[draw.choice(list(MIXUPS))]
    names = [f.name for f in dataclasses.fields(kind) if not f.kw_only]
    mix: Any = kind(**random_options(kind, names, draw))
    images, labels = random_batch(draw)
    before = images.clone() if isinstance(images, Tensor) else None
    model = Net(3, K)
    if draw.random() < 0.4:
        mix.attach(model, K)
        logits, batch = mix.forward_through(model, images, labels)
        require(tuple(logits.shape) == (len(images), K), f"logits of shape {tuple(logits.shape)}")
    else:
        given: dict[str, Any] = {}
        if draw.random() < 0.4:
            given["lam"] = draw.choice([0.0, 1.0, 0.3, 1.5, float("nan"), torch.rand(len(images)), torch.rand(1), "x"])
        if draw.random() < 0.3:
            given["index"] = draw.choice(
                [torch.randperm(len(images)), torch.zeros(len(images)).long(), torch.tensor([9]), [0], torch.rand(2)]
            )
        batch = mix(images, labels, model=model, **given)
    check_mixed(kind.name, batch, images, before)


def same(images: Tensor, before: Tensor) -> bool:
    """Whether images are as they were."""
    return torch.equal(images.detach(), before.detach()) or bool(before.isnan().any())


def check_mixed(name: str, batch: Any, images: Tensor, before: Tensor | None) -> None:
    """Raises Wrong unless a mixed batch may be one of these images."""
    require(before is not None, f"{name}: no error for {type(images).__name__}")
    assert before is not None
    require(same(images, before), f"{name}: the input is changed")
    require(batch.images.shape == images.shape, f"{name}: images of shape {tuple(batch.images.shape)}")
    require(batch.images.dtype == images.dtype, f"{name}: images of type {batch.images.dtype}")
    if bool(before.isfinite().all()) and float(before.detach().abs().max()) < 1e4:
        require(bool(batch.images.isfinite().all()), f"{name}: NaN in images")
    weights = batch.weights
    require(bool(weights.isfinite().all()) or not bool(before.isfinite().all()), f"{name}: NaN in weights")
    require(bool((weights.nan_to_num() >= -1e-5).all()), f"{name}: negative weights")
    if batch.labels is not None and not batch.labels.is_floating_point() and batch.labels.dim() == 2:
        targets = batch.soft_targets(K)
        require(targets.shape == (len(images), K), f"{name}: targets of shape {tuple(targets.shape)}")


def call_method(draw: random.Random, place: Path) -> None:
    """A step of a training method on a random batch."""
    if draw.random() < 0.6:
        method, name = labelled_method(draw)
        batch: Any = random_batch(draw)
    else:
        name = draw.choice(list(VIEW_METHODS))
        preset = next(iter(PRESETS[name].values()))
        names = [f.name for f in dataclasses.fields(preset)]
        options = {"dim": 4, **random_options(type(preset), names, draw)}
        options = {k: v for k, v in {**options, "queue": 8}.items() if k in names}
        method = VIEW_METHODS[name](Net(3, 0), dataclasses.replace(preset, **options))
        view, _ = random_batch(draw)
        batch = (view, view if draw.random() < 0.8 else random_batch(draw)[0], torch.arange(4))
    loss, parts = method(batch)
    require(loss.dim() == 0, f"{name}: a loss of shape {tuple(loss.shape)}")
    require(all(part.dim() == 0 for part in parts.values()), f"{name}: parts that are no scalars")
    given = [x for x in batch if isinstance(x, Tensor) and x.is_floating_point()]
    if all(bool(x.isfinite().all()) and float(x.detach().abs().max()) < 1e4 for x in given):
        require(bool(loss.isfinite()), f"{name}: a loss of {loss.item()}")


def labelled_method(draw: random.Random) -> tuple[Any, str]:
    """A method of those with labels."""
    if draw.random() < 0.6:
        kind = MIXUPS[draw.choice(list(MIXUPS))]
        names = [f.name for f in dataclasses.fields(kind) if not f.kw_only]
        return Supervised(Net(3, K), kind(**random_options(kind, names, draw)), num_classes=K), kind.name
    name = draw.choice(list(METHODS))
    return METHODS[name](Net(3, K), K, feature="late"), name


# ---------------------------------------------------------------------------------------------------------------------
# Damaged files.


def damage(data: bytes, draw: random.Random) -> bytes:
    """The bytes, cut or changed at random places; now and then as they were."""
    for _ in range(draw.choice([0, 1, 1, 1, 2, 5])):
        data = damage_once(data, draw)
    return data


def damage_once(data: bytes, draw: random.Random) -> bytes:
    """One change."""
    place, length = draw.randrange(len(data) + 1), draw.choice([1, 1, 2, 8, 100, 1000])
    before, after, beyond = data[:place], data[place:], data[place + length :]
    flipped = bytes([after[0] ^ 1 << draw.randrange(8)]) + after[1:] if after else b""
    changed = {
        "cut": before,
        "begun late": after,
        "put in": before + draw.randbytes(length) + after,
        "taken out": before + beyond,
        "zeroed": before + bytes(min(length, len(after))) + beyond,
        "flipped": before + flipped,
        "longer": data + draw.randbytes(length),
    }
    return changed[draw.choice(list(changed))]


class Sample(NamedTuple):
    """A whole checkpoint: its bytes, and what it holds."""

    data: bytes
    state: dict[str, Any]


def whole_checkpoint(place: Path) -> Sample:
    """As a run writes it, with three tensors."""
    path = place / "whole.pt"
    if not path.is_file():
        torch.manual_seed(0)
        state: dict[str, Any] = {**dict.fromkeys(PARTS), "step": 7, "rows": [{"loss": 0.5}], "best": 3.0}
        state["method"] = {"a": torch.randn(9, 4), "b": torch.arange(5), "c": torch.randn(300)}
        save_checkpoint(path, state)
    return Sample(path.read_bytes(), load_checkpoint(path))


def call_checkpoint(draw: random.Random, place: Path) -> None:
    """A damaged checkpoint is refused, or holds what was written."""
    good = whole_checkpoint(place)
    path = place / "damaged.pt"
    path.write_bytes(damage(good.data, draw))
    state = load_checkpoint(path)
    require(set(state) == set(good.state), f"keys {sorted(set(state) ^ set(good.state))}")
    require(all(torch.equal(state["method"][k], v) for k, v in good.state["method"].items()), "other weights")
    require(all(state[k] == good.state[k] for k in ("step", "rows", "best", "format")), "other numbers")


FORMATS = {"png": {}, "jpg": {}, "gif": {}, "bmp": {}, "tif": {"compression": "tiff_lzw"}, "webp": {}, "ppm": {}}


def call_image(draw: random.Random, place: Path) -> None:
    """A damaged image is refused by its name, or is an RGB image."""
    name = draw.choice(list(FORMATS))
    file, side = io.BytesIO(), draw.choice([1, 9, 40])
    noise = np.frombuffer(random.Random(side).randbytes(side * 9 * 3), np.uint8).reshape(side, 9, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.fromarray(noise).convert(
            draw.choice(["RGB", "L"] if name in ("jpg", "ppm") else ["RGB", "P", "1"])
        )
        image.save(file, {"jpg": "jpeg", "tif": "tiff"}.get(name, name), **FORMATS[name])  # type: ignore[arg-type]
    path = place / f"image.{name}"
    path.write_bytes(damage(file.getvalue(), draw))
    try:
        found = open_image(path)
    except ValueError as error:
        require(str(path) in str(error), f"no name in {error}")
        raise
    require(found.mode == "RGB", f"mode {found.mode}")


# ---------------------------------------------------------------------------------------------------------------------
# Recipes, data sets, command lines.


def random_value(draw: random.Random, depth: int = 0) -> Any:
    """Anything a file may hold."""
    if depth < 2 and draw.random() < 0.15:
        return [random_value(draw, depth + 1) for _ in range(draw.randrange(3))]
    if depth < 2 and draw.random() < 0.15:
        return {draw.choice(TEXT): random_value(draw, depth + 1) for _ in range(draw.randrange(3))}
    return draw.choice([*ODD, *TEXT, draw.randrange(1000), draw.random()])


def call_recipe(draw: random.Random, place: Path) -> None:
    """A file of recipe fields; what is read makes a recipe, which can be written and read again."""
    kind = draw.choice([Recipe, PretrainRecipe])
    names, hints = [f.name for f in dataclasses.fields(kind)], get_type_hints(kind)
    values: Any = {}
    for _ in range(draw.randrange(4)):
        name = draw.choice(names) if draw.random() < 0.9 else draw.choice(TEXT)
        values[name] = fitting(hints[name], draw) if name in hints and draw.random() < 0.5 else random_value(draw)
    if draw.random() < 0.1:
        values = random_value(draw)
    path = place / draw.choice(["r.json", "r.yaml", "r.yml", "r.txt"] if draw.random() < 0.2 else ["r.json", "r.yaml"])
    import yaml

    text = json.dumps(values) if path.suffix == ".json" else yaml.safe_dump(values)
    data = text.encode() if draw.random() < 0.8 else damage(text.encode(), draw)
    path.write_bytes(data)
    recipe = from_dict(read_config(str(path), kind), kind())
    plain = json.loads(json.dumps(recipe.to_dict()))
    again = from_dict(plain, kind())
    require(json.dumps(again.to_dict()) == json.dumps(plain), "a recipe that is another one when it is read again")


def call_layout(draw: random.Random, place: Path) -> None:
    """A data set in a random tree."""
    root = place / f"tree{draw.randrange(1 << 40)}"
    names = [
        "train",
        "val",
        "test",
        "a",
        "b",
        "é",
        "images",
        "val.txt",
        "train.txt",
        "classes.txt",
        "0.png",
        "1.png",
        ".x",
    ]
    for _ in range(draw.randrange(1, 12)):
        path = root.joinpath(*(draw.choice(names) for _ in range(draw.choice([1, 2, 3, 3, 3]))))
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".txt":
                path.write_text("\n".join(f"{draw.choice(names)} {draw.choice(TEXT)}" for _ in range(3)), "utf-8")
            elif draw.random() < 0.9:
                Image.new("RGB", (3, 3), draw.randrange(1 << 24)).save(path.with_suffix(".png"))
            else:
                path.write_bytes(draw.randbytes(20))
    kind = draw.choice(
        ["folder", "images", "imagenet", "cub", "tiny-imagenet", "list", "inat2018", "places205", "x", ""]
    )
    data = load_data(
        f"{kind}:{root}" if kind != "list" else f"list:{root}/train.txt,{root}/val.txt,{root}",
        limit=draw.choice([None, None, None, 1, 2, 0, -1]),
    )
    require(len(data.train) > 0, "no images")
    require(len(data.train.labels) == len(data.train), "other labels than images")


class SetUp(Exception):
    """A training was set up."""


FLAGS = ["--mixup", "--recipe", "--epochs", "--lr", "--data", "--seed", "--config", "--resume", "--device", "--size"]
FLAGS += ["--mixup.alpha", "--model-args", "--keep", "--max-skips", "--on-bad-image", "--save-every", "--nonsense"]
FLAGS += ["--method", "--limit", "--batch-size", "--debugg", "--help", "--precision", "--model", "--stem", "--loss"]


def random_arguments(draw: random.Random, place: Path) -> list[str]:
    """A command line."""
    command = draw.choice([*COMMANDS, "train", "train", "pretrain", "evaluate", "frain"])
    arguments = [command] if draw.random() < 0.97 else []
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        if command in ("train", "pretrain") or draw.random() < 0.4:
            arguments.append(draw.choice(FLAGS))
        if draw.random() < 0.85:
            arguments.append(draw.choice(TEXT))
    if command in ("train", "pretrain"):
        return [*arguments, "--out", str(place / "runs"), "--device", "cpu", "--limit", "60", "--no-pretrained"]
    if command not in ("evaluate", "show", "mixer", "recipes", "frain"):
        return [*arguments, "--help"]  # long work, in commands that are tested elsewhere
    return arguments


def call_command(draw: random.Random, place: Path) -> None:
    """A command line ends by a status with one line, by its usage, or with a training set up."""
    arguments, told = random_arguments(draw, place), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SetUp:
            return
        except SystemExit as stop:
            require(stop.code in (0, 2), f"{arguments}: exit {stop.code}")
            require("Traceback" not in told.getvalue(), f"{arguments}: a traceback")
            if stop.code == 2:
                raise ValueError("usage") from None
            return
    said = told.getvalue().strip()
    if status != 0:
        if "unexpected" in said:
            raise RuntimeError(f"{arguments}: {said}")
        require(len(said.splitlines()) == 1, f"{arguments}: status {status} and more than one line: {said[:200]}")
        raise ValueError(said)


def no_steps(run: Any) -> Any:
    """In the place of a training."""
    raise SetUp


CALLS: dict[str, tuple[Callable[[random.Random, Path], None], int]] = {
    "mixup": (call_mixup, 50),
    "method": (call_method, 10),
    "checkpoint": (call_checkpoint, 14),
    "image": (call_image, 12),
    "recipe": (call_recipe, 10),
    "layout": (call_layout, 3),
    "command": (call_command, 1),
}


def table(counts: dict[str, collections.Counter[str]], seconds: dict[str, float]) -> str:
    """Outcomes by kind of call, and the rate."""
    lines = ["| call | calls | " + " | ".join(KINDS) + " | ms a call |", "|---|" + "---|" * (len(KINDS) + 2)]
    for name, count in counts.items():
        number = sum(count.values())
        cells = " | ".join(str(count[kind]) for kind in KINDS)
        lines.append(f"| {name} | {number} | {cells} | {1000 * seconds[name] / max(number, 1):.1f} |")
    total = sum(counts.values(), collections.Counter[str]())
    lines.append(f"| all | {sum(total.values())} | " + " | ".join(str(total[kind]) for kind in KINDS) + " | |")
    return "\n".join(lines)


def drawn(seed: int, number: int, names: list[str]) -> tuple[str, random.Random]:
    """The kind of a call, and the numbers it is made from."""
    draw = random.Random(f"{seed}-{number}")
    return draw.choices(names, [CALLS[n][1] for n in names])[0], draw


def one_call(seed: int, number: int, names: list[str]) -> int:
    """Makes a call without a net: what it raises is raised."""
    name, draw = drawn(seed, number, names)
    torch.manual_seed(draw.randrange(1 << 30))
    print(f"call {number} of seed {seed}: {name}")
    with tempfile.TemporaryDirectory(prefix="samix-fuzz-") as temporary:
        CALLS[name][0](draw, Path(temporary))
    return 0


def run() -> int:
    """Makes the calls, prints the table, writes JSON; 1 if there was a traceback or a silent failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(CALLS), help="some of them, parted by commas")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0 makes all calls")
    parser.add_argument("--call", type=int, default=-1, help="make the call of this number alone, and show its error")
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    arguments = parser.parse_args()
    names = arguments.kinds.split(",")
    samix.engine.Run.fit = no_steps  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    if arguments.call >= 0:
        return one_call(arguments.seed, arguments.call, names)
    counts = {name: collections.Counter[str]() for name in names}
    seconds, failures, started = dict.fromkeys(names, 0.0), dict[str, dict[str, Any]](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="samix-fuzz-") as temporary:
        for number in range(arguments.calls):
            if arguments.minutes and time.monotonic() - started > 60 * arguments.minutes:
                break
            name, draw = drawn(arguments.seed, number, names)
            began = time.monotonic()
            outcome = judge(CALLS[name][0], draw, Path(temporary))
            seconds[name] += time.monotonic() - began
            counts[name][outcome.kind] += 1
            if outcome.kind in ("traceback", "silent"):
                found = failures.setdefault(f"{name}: {outcome.words[:110]}", {"number": number, "times": 0})
                found["times"] += 1
    print(table(counts, seconds))
    total = sum(sum(count.values()) for count in counts.values())
    print(f"{total} calls in {time.monotonic() - started:.0f} s; seed {arguments.seed}")
    for words, found in sorted(failures.items(), key=lambda item: -item[1]["times"]):
        print(f"  {found['times']} x {words}   (first: call {found['number']})")
    if arguments.out is not None:
        content = {"calls": total, "seed": arguments.seed, "outcomes": counts, "failures": failures}
        arguments.out.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run())
