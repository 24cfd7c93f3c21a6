"""ResNet weights between the names of torchvision (and timm) and those of detectron2, in both directions.

detectron2 is not a dependency; it reads the file written here by matching the ends of names, so that one file serves
C4 (where the last stage belongs to the heads) and FPN. Train it with RGB input, mean 123.675, 116.28, 103.53, std
58.395, 57.12, 57.375, and the stride in the 3 x 3 convolution (``STRIDE_IN_1X1: False``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from samix.runtime.atomic_files import write_whole

NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
STEM = re.compile(rf"conv1\.weight|bn1\.{NORM}")
BLOCK = re.compile(rf"layer[1-4]\.\d+\.(conv[123]\.weight|bn[123]\.{NORM}|downsample\.0\.weight|downsample\.1\.{NORM})")
COUNTER = "num_batches_tracked"


def to_torchvision(state: Mapping[str, Tensor], prefix: str | None = None) -> dict[str, Tensor]:
    """Returns the backbone's entries under torchvision's names, for a ResNet without ``fc`` and ``strict=True``.

    Args:
        state: of a network, or of a whole method; classifiers, projectors and all else are left out.
        prefix: the text before ``conv1.weight``, such as ``module.encoder_q.``; None finds it.

    Raises:
        ValueError: no ResNet, several (then give a prefix), or one of another form.
    """
    prefix = find_prefix(state) if prefix is None else prefix
    inner = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    backbone = {name: value for name, value in inner.items() if STEM.fullmatch(name) or BLOCK.fullmatch(name)}
    other = [n for n in inner if n not in backbone and n.startswith(("conv1.", "bn1.", "layer"))]
    if other or not {"conv1.weight", "bn1.weight", "layer4.0.conv1.weight"} <= set(backbone):
        hint = f"; it has {other[0]!r}" if other else f"; nothing like it begins with {prefix!r}"
        raise ValueError(f"these are not the weights of a plain ResNet with four stages{hint}")
    return backbone


def find_prefix(state: Mapping[str, Tensor]) -> str:
    """Returns the text before the names of the only ResNet in a state; raises ValueError for none or several."""
    end = "layer1.0.conv1.weight"
    prefixes = sorted(name.removesuffix(end) for name in state if name.endswith(end))
    if len(prefixes) != 1:
        known = ", ".join(map(repr, prefixes)) or f"no {end}"
        raise ValueError(f"expected one ResNet, found {len(prefixes)}: {known}; give its prefix")
    return prefixes[0]


def to_detectron2(
    state: Mapping[str, Tensor], prefix: str | None = None, *, counters: bool = False
) -> dict[str, Tensor]:
    """Returns the backbone's entries under detectron2's names, such as ``res2.0.shortcut.weight``.

    State, prefix and errors as of :func:`to_torchvision`; ``counters`` keeps BatchNorm's step counters.
    """
    names = {renamed(name): value for name, value in to_torchvision(state, prefix).items()}
    return {name: value for name, value in names.items() if counters or not name.endswith(COUNTER)}


def renamed(name: str) -> str:
    """Converts one name of torchvision to detectron2's."""
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    stage = re.match(r"layer(\d)(.*)", name)
    return f"res{int(stage[1]) + 1}{stage[2]}" if stage else f"stem.{name}"


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverts :func:`to_detectron2`."""
    names = {}
    for name, value in state.items():
        name = name.removeprefix("stem.").replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        name = re.sub(r"\bconv(\d)\.norm\b", r"bn\1", name)
        names[re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)] = value
    return names


def save_detectron2(path: Path, state: Mapping[str, Tensor], prefix: str | None = None) -> None:
    """Writes a ``.pth`` file for detectron2's ``MODEL.WEIGHTS``; it holds plain tensors and runs no code when read.

    State, prefix and errors as of :func:`to_torchvision`; another ending than ``.pth`` raises ValueError.
    """
    if path.suffix != ".pth":
        raise ValueError(f"detectron2 reads such a file by the ending .pth, got {path.name}")
    weights = {name: value.detach().cpu().clone() for name, value in to_detectron2(state, prefix).items()}
    content = {"model": weights, "__author__": "samix", "matching_heuristics": True}
    write_whole(path, lambda temporary: torch.save(content, temporary))
