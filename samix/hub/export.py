"""Networks written for timm, which needs no samix to load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from samix.networks.create import sized_args
from samix.recipes import Recipe
from samix.recipes.pretrain_recipe import without_labels
from samix.runtime.atomic_files import write_text, write_whole

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
    if without_labels(recipe):
        title, trained = f"{recipe.model}, features", f"Trained without labels by `{recipe.method}` {how}."
        trained += "" if score is None else f" Nearest neighbours: {score:.2f} % of the held-out images."
    else:
        title, trained = f"{recipe.model}, {classes} classes", f"Trained {how}."
        trained += "" if score is None else f" Top-1 {score:.2f} % on the held-out images."
    return CARD.format(
        title=title,
        trained=trained,
        load=load,
        size=recipe.size,
        parent=folder.parts[-3] if len(folder.parts) > 2 else ".",
        mean=[round(v, 4) for v in data.mean],
        std=[round(v, 4) for v in data.std],
    )
