"""Calls on files: checkpoints, images and recipes, whole and damaged, and data sets in random trees."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import warnings
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch
import yaml
from PIL import Image

from fuzzing.judging import require
from fuzzing.random_input import TEXT, damage, fitting, random_value
from samix.data import load_data, open_image
from samix.recipes import Recipe, from_dict
from samix.recipes.files import read_config
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.train.checkpoint import PARTS, load_checkpoint, save_checkpoint

FORMATS = {"png": {}, "jpg": {}, "gif": {}, "bmp": {}, "tif": {"compression": "tiff_lzw"}, "webp": {}, "ppm": {}}
MODES = {"jpg": ["RGB", "L", "CMYK", "YCbCr"], "ppm": ["RGB", "L", "1", "I"], "webp": ["RGB", "RGBA", "L"]}
MODES |= {"png": ["RGB", "RGBA", "L", "LA", "P", "1", "I"], "tif": ["RGB", "RGBA", "L", "LA", "CMYK", "LAB", "I", "F"]}


class Sample(NamedTuple):
    """A whole checkpoint: its bytes, and what it holds."""

    data: bytes
    state: dict[str, Any]


def empty(kinds: Any) -> Any:
    """An empty value of a type, or of the first of several."""
    return (kinds[0] if isinstance(kinds, tuple) else kinds)()


def whole_checkpoint(place: Path) -> Sample:
    """As a run writes it, with three tensors."""
    path = place / "whole.pt"
    if not path.is_file():
        torch.manual_seed(0)
        state: dict[str, Any] = {name: empty(kinds) for name, kinds in PARTS.items()}
        state |= {"step": 7, "rows": [{"loss": 0.5}], "best": 3.0, "recipe": {"model": "resnet18", "size": 32}}
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


def call_image(draw: random.Random, place: Path) -> None:
    """A damaged image is refused by its name, or is an RGB image."""
    name = draw.choice(list(FORMATS))
    file, side = io.BytesIO(), draw.choice([1, 9, 40])
    noise = np.frombuffer(random.Random(side).randbytes(side * 9 * 3), np.uint8).reshape(side, 9, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.fromarray(noise).convert(draw.choice(MODES.get(name, ["RGB", "P", "1"])))
        image.save(file, {"jpg": "jpeg", "tif": "tiff"}.get(name, name), **FORMATS[name])
    path = place / f"image.{name}"
    path.write_bytes(damage(file.getvalue(), draw))
    try:
        found = open_image(path)
    except ValueError as error:
        require(str(path) in str(error), f"no name in {error}")
        raise
    require(found.mode == "RGB", f"mode {found.mode}")


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
