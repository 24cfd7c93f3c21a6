"""The config of an exported network, as plain values: enough to build it again and to prepare images for it.

``config.json`` of an export holds these values under ``samix.network`` beside the fields that timm reads. Files come
from anywhere, so every value is checked when it is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from samix.data.spec import Channels
from samix.networks.create import create_network
from samix.networks.untrusted import check_architecture, check_model_args
from samix.runtime.checks import Options, Values

Stem = Literal["default", "small", "half"]
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CUSTOM = "custom"  # architecture of a network that timm cannot build
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class NetworkConfig:
    """A network and how its images are prepared.

    Raises:
        ValueError: a value that no network has; names the field.
    """

    architecture: str  # name of a timm network, or ``custom`` for any other ``nn.Module``
    num_classes: int  # outputs of its classifier; 0 for a network that gives features
    model_args: Options = dataclasses.field(default_factory=dict)  # keyword arguments of ``timm.create_model``
    stem: Stem = "default"  # ``default``, ``small`` or ``half``, see :func:`samix.networks.create.small_stem`
    size: int = 224  # side of its images in pixels
    resize: int = 256  # length to which the short side of an image is resized before the centre is cut
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"  # ``bicubic`` or ``bilinear``
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of the pixels in [0, 1], by channel
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # of the pixels in [0, 1], by channel
    class_names: tuple[str, ...] = ()  # in the order of the outputs

    def __post_init__(self) -> None:
        check_architecture(self.architecture, "a network's config")
        check_model_args(self.model_args, "a network's config")
        for name, choices in (("stem", ("default", "small", "half")), ("interpolation", ("bicubic", "bilinear"))):
            self._require(getattr(self, name) in choices, name, f"one of {', '.join(choices)}")
        for name, low, high in (("num_classes", 0, MOST_CLASSES), ("size", 1, 4096), ("resize", 1, 8192)):
            value = getattr(self, name)
            self._require(type(value) is int and low <= value <= high, name, f"a whole number from {low} to {high}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = isinstance(value, tuple | list) and 1 <= len(value) <= 64 and all(map(_is_finite, value))
            self._require(numbers and (name == "mean" or min(value) > 0), name, "one finite number for each channel")
            object.__setattr__(self, name, tuple(float(v) for v in value))
        names = self.class_names
        texts = isinstance(names, tuple | list) and all(isinstance(n, str) for n in names)
        self._require(texts and len(names) in (0, self.num_classes), "class_names", "one text for each class")
        object.__setattr__(self, "class_names", tuple(names))

    def _require(self, good: bool, name: str, wanted: str) -> None:
        if not good:
            raise ValueError(
                f"{name} of a network's config must be {wanted}, got {str(getattr(self, name))[:80]!r}; the file is "
                "damaged or was not written by samix"
            )

    def normalization(self) -> tuple[Channels, Channels]:
        """Mean and std of the three channels that images are read in.

        Raises:
            ValueError: a network of other images.
        """
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(
                f"this network takes {len(self.mean)}-channel images, but images are read in 3 channels, grey ones "
                "too; prepare them yourself and call samix.load(SOURCE)(images)"
            )
        return self.mean, self.std

    def digest(self) -> str:
        """Returns the SHA-256 of all fields, in hexadecimal."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def build(self) -> nn.Module:
        """Builds the network with new weights."""
        if self.architecture == CUSTOM:
            raise ValueError(
                "this export holds a network that timm cannot build; make it yourself and give it: "
                "samix.load(SOURCE, model=network)"
            )
        return create_network(
            self.architecture, self.num_classes, self.model_args, size=self.size, stem=self.stem, pretrained=False
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_config(path: Path) -> tuple[NetworkConfig, Values]:
    """Reads ``config.json`` of an export of samix, or of a network that timm wrote."""
    if path.stat().st_size > 64_000_000:
        raise ValueError(f"{path} is too large for a network's config")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict) or "architecture" not in values:
        raise ValueError(f"{path} is not a network's config: it names no architecture")
    own = values.get("samix", {})
    if isinstance(own, dict) and isinstance(own.get("network"), dict):
        known = {f.name for f in dataclasses.fields(NetworkConfig)}
        unknown = sorted(set(own["network"]) - known)
        if unknown:
            raise ValueError(f"{path} has unknown fields {', '.join(map(repr, unknown))[:200]}; update samix")
        try:
            return NetworkConfig(**own["network"]), own
        except TypeError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    if isinstance(own, dict) and "recipe" in own:
        raise ValueError(f"{path} was written by samix 0.1 before its exports said how to load them; export it again")
    return of_timm(values, path), {}


def of_timm(values: Options, path: Path) -> NetworkConfig:
    """Returns the config of a network from the values that timm saves for the hub; ``path`` is for the errors."""
    cfg = values.get("pretrained_cfg", values)
    if not isinstance(cfg, dict):
        raise ValueError(f"{path} is damaged: pretrained_cfg must be a table")
    try:
        size = int(cfg.get("input_size", (3, 224, 224))[-1])
        names = cfg.get("label_names") or values.get("label_names") or ()
        classes = int(values.get("num_classes", cfg.get("num_classes", 0)) or 0)
        return NetworkConfig(
            architecture=values["architecture"],
            num_classes=classes,
            model_args=values.get("model_args", {}),
            size=size,
            resize=max(size, math.floor(size / float(cfg.get("crop_pct") or 1.0))),
            interpolation="bilinear" if cfg.get("interpolation") == "bilinear" else "bicubic",
            mean=tuple(cfg.get("mean", NetworkConfig.mean)),
            std=tuple(cfg.get("std", NetworkConfig.std)),
            class_names=tuple(names) if len(names) == classes else (),
        )
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None
