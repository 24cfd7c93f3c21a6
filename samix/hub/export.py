"""Exports a trained network: weights, a config that says how to build and feed it, and a card.

A network with timm's own layers loads by timm alone. One with a stem for small images does not exist in timm, so its
``config.json`` names an architecture that timm refuses, instead of one that timm would build differently.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from samix.data import ImageData
from samix.hub.network_config import CONFIG, CUSTOM, WEIGHTS, NetworkConfig
from samix.networks.create import sized_args
from samix.recipes import Recipe
from samix.recipes.build import augment_of
from samix.recipes.pretrain_recipe import without_labels
from samix.runtime.atomic_files import file_digest, write_text, write_whole
from samix.runtime.checks import Options, Values
from samix.runtime.environment import versions
from samix.train.folder import describe_data

CARD = "README.md"
LOAD = """```python
import samix

net = samix.load("{folder}")
prediction = net.predict("new.jpg")[0]
print(prediction.name, prediction.probability)
```
"""
LOAD_FEATURES = """```python
import samix

net = samix.load("{folder}")
features = net(net.transform(image)[None])  # a PIL image to (1, {features})
```
"""
LOAD_CUSTOM = """```python
import samix

net = samix.load("{folder}", model=network)  # your network, made as before training
```
"""
TIMM = """
It is a plain timm network, which loads without samix, too:

```python
import timm

net = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=net))
```
"""
NOT_TIMM = """
timm alone cannot load it: the first layers were changed for small images (`stem="{stem}"`).
"""


def config_of(recipe: Recipe, data: Options) -> NetworkConfig:
    """Returns the config of the network that a recipe trains."""
    custom = recipe.model == CUSTOM
    names = () if without_labels(recipe) else tuple(data["classes"])
    augment = augment_of(recipe, str(data["name"]), data.get("native_size"))
    return NetworkConfig(
        architecture=CUSTOM if custom else recipe.model.split(".")[0],
        num_classes=len(names),
        model_args={} if custom else sized_args(recipe.model, recipe.model_kwargs, recipe.size),
        stem=recipe.stem,
        size=recipe.size,
        resize=augment.short_side(recipe.size),
        interpolation="bilinear" if augment.interpolation.value == "bilinear" else "bicubic",
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        class_names=names,
    )


def export_network(folder: Path, network: nn.Module, recipe: Recipe, data: ImageData, score: float | None) -> None:
    """Writes ``model.safetensors``, ``config.json`` and a card whose lines load the network."""
    config = config_of(recipe, describe_data(data))
    write_export(folder, network, config, recipe.to_dict(), describe(recipe, config, score))


def write_export(folder: Path, network: nn.Module, config: NetworkConfig, recipe: Values, text: str) -> None:
    """Writes an export."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_whole(folder / WEIGHTS, lambda path: save_file(weights, path, metadata={"format": "pt"}))
    values = timm_fields(config, network)
    values["samix"] = {
        "version": versions()["samix"],
        "network": {k: v for k, v in vars(config).items()},
        "network_sha256": config.digest(),
        "weights_sha256": file_digest(folder / WEIGHTS),
        "recipe": recipe,
    }
    write_text(folder / CONFIG, json.dumps(values, indent=1))
    write_text(folder / CARD, card(folder, network, config, text))


def loads_in_timm(config: NetworkConfig) -> bool:
    """Returns whether timm alone builds this network from ``config.json``."""
    return config.stem == "default" and config.architecture != CUSTOM


def timm_fields(config: NetworkConfig, network: nn.Module) -> Values:
    """Returns the fields of ``config.json`` that timm reads."""
    name = config.architecture
    if not loads_in_timm(config):
        name += (
            " with other first layers: load it with samix.load" if name != CUSTOM else " network: load it with samix"
        )
    cfg = getattr(network, "pretrained_cfg", None) or {}
    return {
        "architecture": name,
        "num_classes": config.num_classes,
        "num_features": int(getattr(network, "num_features", 0)),
        "model_args": dict(config.model_args),
        "pretrained_cfg": {
            "input_size": [len(config.mean), config.size, config.size],
            "fixed_input_size": "img_size" in config.model_args,
            "interpolation": config.interpolation,
            "crop_pct": config.size / config.resize,
            "mean": list(config.mean),
            "std": list(config.std),
            "num_classes": config.num_classes,
            "label_names": list(config.class_names),
            "first_conv": cfg.get("first_conv"),
            "classifier": cfg.get("classifier"),
        },
    }


def describe(recipe: Recipe, config: NetworkConfig, score: float | None) -> str:
    """Returns the first lines of a card: what was trained, how, and its accuracy."""
    how = f"with samix, recipe `{recipe.name}`, mixup `{recipe.mixup}`, on `{recipe.data}`"
    if without_labels(recipe):
        text = f"# {recipe.model}, features\n\nTrained without labels by `{recipe.method}` {how}."
        return text + ("" if score is None else f" kNN accuracy: {score:.2f} % of the held-out images.")
    text = f"# {recipe.model}, {config.num_classes} classes\n\nTrained {how}."
    return text + ("" if score is None else f" Top-1 accuracy: {score:.2f} % of the held-out images.")


def card(folder: Path, network: nn.Module, config: NetworkConfig, text: str) -> str:
    """Returns the card of an export, with lines that load it from the folder that holds the runs."""
    path = "/".join(folder.parts[-3:])
    if config.architecture == CUSTOM:
        load = LOAD_CUSTOM.format(folder=path)
    elif config.num_classes:
        load = LOAD.format(folder=path)
    else:
        load = LOAD_FEATURES.format(folder=path, features=int(getattr(network, "num_features", 0)))
    other = TIMM.format(folder=path) if loads_in_timm(config) else ""
    if config.architecture != CUSTOM and not other:
        other = NOT_TIMM.format(stem=config.stem)
    mean, std = ([round(v, 4) for v in values] for values in (config.mean, config.std))
    return (
        f"{text}\n\n{load}{other}\nInput: RGB; short side resized to {config.resize} pixels ({config.interpolation}), "
        f"the centre of {config.size} x {config.size} cut, scaled to [0, 1], normalised by mean {mean} and std {std}.\n"
    )
