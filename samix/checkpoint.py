"""Checkpoints that are whole or absent, and networks exported for timm."""

from __future__ import annotations

import json
import os
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samix.networks.create import sized_args
from samix.recipes import Recipe

FORMAT = 1
PARTS = {"recipe", "method", "optimizer", "step", "best", "rows", "sums", "seconds", "data"}  # of every checkpoint


def write_whole(path: Path, write: Any) -> None:
    """Calls ``write(temporary)`` and moves the result to ``path``: a reader sees the old file or the new one.

    Args:
        path: final place; its folder exists.
        write: function of one path.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    temporary.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    write_whole(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a samix checkpoint, damaged, or of a newer format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; a run writes last.pt and best.pt into its folder")
    try:
        with warnings.catch_warnings():  # of a foreign pickle's protocol: the error below says enough
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the reader of pickles stumbles over a foreign file in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or no checkpoint of samix: {reason}") from None
    if not isinstance(state, dict) or not isinstance(state.get("format"), int) or not PARTS <= set(state):
        raise ValueError(f"{path} is no checkpoint of samix; a run writes last.pt and best.pt into its folder")
    if state["format"] > FORMAT:
        raise ValueError(f"{path} has format {state['format']}, this samix reads up to {FORMAT}; update samix")
    return state


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads weights of a checkpoint into a network or method.

    Raises:
        ValueError: weights of another network; names what differs.
    """
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or shapes:
        found = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
            if names
        ]
        raise ValueError(
            f"{path} holds weights of another network: {', '.join(found)}; give the recipe it was trained with"
        )
    module.load_state_dict(state)


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("samix", "torch", "torchvision", "timm", "accelerate", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


LOAD_PLAIN = """import timm

net = timm.create_model("local-dir:{folder}", pretrained=True).eval()
"""

LOAD_SMALL = """import timm
import torch
from safetensors.torch import load_file

net = timm.create_model("{model}", num_classes={num_classes}, **{kwargs})
{stem}
net.maxpool = torch.nn.Identity()
net.load_state_dict(load_file("{folder}/model.safetensors"))
net.eval()
"""

STEM_SINGLE = "net.conv1 = torch.nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)  # small images"
STEM_DEEP = "net.conv1[0].stride = (1, 1)  # small images"

CARD = """# {title}

{trained}
A plain timm network; samix is not needed to load it. Run from the folder that holds `{parent}`, or change the path:

```python
{load}```

Input: RGB, {size} x {size}, scaled to [0, 1], then normalised by mean {mean} and std {std}.
"""


def export_network(folder: Path, network: nn.Module, recipe: Recipe, data: Any, score: float | None) -> None:
    """Writes ``model.safetensors``, ``config.json`` (timm's form) and a ``README.md`` with the lines that load it.

    Args:
        folder: made if it is not there.
        network: what ``Method.export`` gave.
        recipe: it was trained by.
        data: the ImageData it was trained on.
        score: in percent, for the card: held-out top-1, or that of nearest neighbours for a network without classes.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_whole(folder / "model.safetensors", lambda path: save_file(weights, path, metadata={"format": "pt"}))
    classes = 0 if without_labels(recipe) else data.num_classes
    config: dict[str, Any] = {
        "architecture": recipe.model.split(".")[0],
        "num_classes": classes,
        "num_features": int(getattr(network, "num_features", 0)),
        "model_args": model_args(recipe),
        "pretrained_cfg": {
            "input_size": [3, recipe.size, recipe.size],
            "fixed_input_size": "img_size" in model_args(recipe),
            "interpolation": "bicubic",
            "crop_pct": 1.0 if recipe.size < 128 else 0.875,
            "mean": list(data.mean),
            "std": list(data.std),
            "num_classes": classes,
            "label_names": list(data.class_names),
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "samix": {"recipe": recipe.to_dict(), "class_names": list(data.class_names)},
    }
    for key in ("first_conv", "classifier"):
        config["pretrained_cfg"][key] = getattr(network, "pretrained_cfg", {}).get(key)
    write_text(folder / "config.json", json.dumps(config, indent=1))
    write_text(folder / "README.md", card(folder, network, recipe, data, score))


def model_args(recipe: Recipe) -> dict[str, Any]:
    """The arguments that ``timm.create_model`` needs again."""
    return sized_args(recipe.model, recipe.model_kwargs, recipe.size)


def without_labels(recipe: Recipe) -> bool:
    """Whether a recipe is one of learning without labels."""
    return hasattr(recipe, "method")


def card(folder: Path, network: nn.Module, recipe: Recipe, data: Any, score: float | None) -> str:
    """The export's README: what it is, and the lines that load it."""
    place = "/".join(folder.parts[-3:])
    load = LOAD_PLAIN.format(folder=place)
    classes = 0 if without_labels(recipe) else data.num_classes
    if recipe.stem != "default":
        stem = (
            ""
            if recipe.stem == "half"
            else STEM_DEEP
            if isinstance(getattr(network, "conv1", None), nn.Sequential)
            else STEM_SINGLE
        )
        load = LOAD_SMALL.format(
            folder=place, model=recipe.model, num_classes=classes, kwargs=recipe.model_kwargs, stem=stem
        )
    how = f"with samix, recipe `{recipe.name}`, mixup `{recipe.mixup}`, on `{recipe.data}`"
    if classes:
        title, trained = f"{recipe.model}, {classes} classes", f"Trained {how}."
        trained += "" if score is None else f" Top-1 {score:.2f} % on the held-out images."
    else:
        method: Any = getattr(recipe, "method", "")
        title, trained = f"{recipe.model}, features", f"Trained without labels by `{method}` {how}."
        trained += "" if score is None else f" Nearest neighbours: {score:.2f} % of the held-out images."
    return CARD.format(
        title=title,
        trained=trained,
        load=load,
        size=recipe.size,
        parent=folder.parts[-3] if len(folder.parts) > 2 else ".",
        mean=[round(v, 4) for v in data.mean],
        std=[round(v, 4) for v in data.std],
    )


def checkpoint_recipe(state: dict[str, Any]) -> Recipe:
    """The recipe that a checkpoint was written by."""
    return recipe_of(state["recipe"])


def recipe_of(values: dict[str, Any]) -> Recipe:
    """A recipe from its plain values; one of learning without labels where they name a method."""
    from samix.recipes import from_dict

    if "method" not in values:
        return from_dict(values)
    from samix.pretraining import PretrainRecipe

    return from_dict(values, PretrainRecipe())
