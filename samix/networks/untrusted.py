"""Checks of network descriptions that come from a file: an export, a checkpoint, a Mixer.

A description names a timm network and its keyword arguments. These checks refuse arguments that make timm read other
files or ask the hub, and sizes that no network needs, before anything is built.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

# Words in the names of arguments that make timm read from somewhere, or build something other than a classifier.
FORBIDDEN = ("pretrained", "checkpoint", "file", "url", "path", "cache", "hub", "cfg", "features_only", "out_indices")
ALLOWED = ("drop_path_rate", "patch_size", "patch_drop_rate", "path_drop_rate")
DEPTHS = ("layer", "depth", "block", "stage")
LARGEST_NUMBER, LONGEST_LIST, MOST_LAYERS = 16384, 16, 512


def check_architecture(name: object, owner: str = "the file") -> str:
    """Returns the name of a timm network as it is.

    Args:
        name: value of the file.
        owner: what the file is, for the message.
    """
    if isinstance(name, str) and 0 < len(name) <= 100 and name.isascii() and name.replace("_", "").isalnum():
        return name
    raise ValueError(f"{owner} must name a timm network, got {str(name)[:80]!r}; the file is damaged")


def check_model_args(args: object, owner: str = "the file") -> dict[str, object]:
    """Returns the keyword arguments of a timm network as a new dict.

    Args:
        args: a mapping from names to plain values or short lists of them.
        owner: what the file is, for the message.
    """
    if not isinstance(args, Mapping) or len(args) > 32:
        raise ValueError(f"model_args of {owner} must be a table of at most 32 arguments; the file is damaged")
    for key, value in args.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise ValueError(f"model_args of {owner} has an argument {str(key)[:80]!r}; the file is damaged")
        if key not in ALLOWED and any(word in key for word in FORBIDDEN):
            raise ValueError(
                f"model_args of {owner} sets {key}, which makes timm read from another place; a file may not ask for "
                "that. Give it on the command line with --model-args if you trust it"
            )
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) > LONGEST_LIST or not all(map(is_plain, values)):
            raise ValueError(
                f"model_args.{key} of {owner} must be a plain value or up to {LONGEST_LIST} of them, each at most "
                f"{LARGEST_NUMBER}, got {str(value)[:80]!r}"
            )
        numbers = [v for v in values if isinstance(v, int | float)]
        if any(word in key for word in DEPTHS) and sum(map(abs, numbers)) > MOST_LAYERS:
            raise ValueError(f"model_args.{key} of {owner} asks for more than {MOST_LAYERS} layers, got {value!r}")
    return dict(args)


def check_parameters(build: Callable[[], nn.Module], held: Mapping[str, Tensor], owner: str) -> None:
    """Refuses a description of a network that has more values than the file holds, before memory is taken for it.

    Args:
        build: makes the network.
        held: all tensors of the file.
        owner: what the file is, for the message.

    Raises:
        ValueError: the network would be larger than the file.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed = sum(parameter.numel() for parameter in build().parameters())
    there = sum(tensor.numel() for tensor in held.values())
    if needed > there:
        raise ValueError(
            f"{owner} names a network of {needed:,} parameters and holds {there:,} values; it is damaged, or its "
            "weights are those of another network"
        )


def is_plain(value: object) -> bool:
    """Whether a value is None, a bool, a short text or a finite number of at most ``LARGEST_NUMBER``."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return len(value) <= 64 and value.isprintable()
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= LARGEST_NUMBER
