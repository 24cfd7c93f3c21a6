"""A trained Mixer as a thing to share: encoder, Mixer, and the words that say how to use them, in one folder.

``config.json`` says what the networks are, ``model.safetensors`` holds their weights, ``README.md`` is the card. All
three are data: nothing in them is executed, the encoder is one of timm's by name, and every shape is checked against
the file's header before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from samix.mixers import MASK_GENERATORS
from samix.mixers.base import MaskGenerator, MaskGeneratorConfig
from samix.mixers.card import mixer_card
from samix.networks.backbone import TimmBackbone
from samix.networks.compile import compile_methods
from samix.networks.create import create_network, prune_after
from samix.networks.untrusted import check_model_args, is_plain
from samix.runtime.atomic_files import file_digest, write_text, write_whole

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
SMALLEST = 64  # side in pixels to which smaller images are enlarged for the encoder, where it was trained at that
LARGEST = 2_000_000_000  # weights of a Mixer and its encoder that are read at all


@dataclass(frozen=True)
class MixerConfig:
    """What a Mixer is, as plain values.

    Args:
        kind: name of a mask generator in :data:`samix.mixers.MASK_GENERATORS`.
        mixer: values of its config.
        dim: D, channels of the feature map.
        architecture: timm name of the encoder.
        model_args: its keyword arguments.
        stem: ``default``, ``small`` or ``half``.
        stage: of timm's list of intermediates, whose map the Mixer reads.
        size: side in pixels of the images it was trained on; the encoder sees images at this size.
        mean: of the pixels in [0, 1], by channel, with which it was trained.
        std: as mean.
        about: what it was trained on and how, for the card: short texts and numbers.
        format: of the files.
        sha256: of the file of weights; empty where it is not known.
    """

    kind: str
    mixer: Mapping[str, Any]
    dim: int
    architecture: str
    model_args: Mapping[str, Any]
    stem: Literal["default", "small", "half"]
    stage: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    sha256: str = ""

    def __post_init__(self) -> None:
        """Validates untrusted values."""
        _require(isinstance(self.kind, str) and len(self.kind) <= 128, "kind", "a short text", self.kind)
        _require(self.stem in ("default", "small", "half"), "stem", "default, small or half", self.stem)
        for name, low, high in (("dim", 2, 65536), ("size", 4, 4096), ("stage", -64, 512)):
            value = getattr(self, name)
            _require(type(value) is int and low <= value <= high, name, f"a whole number from {low} to {high}", value)
        for name in ("mean", "std"):
            value = getattr(self, name)
            good = isinstance(value, tuple | list) and 1 <= len(value) <= 64 and all(map(_is_number, value))
            _require(good and (name == "mean" or min(value) > 0), name, "a number for each channel", value)
            object.__setattr__(self, name, tuple(float(v) for v in value))
        _require(len(self.mean) == len(self.std), "std", "as long as mean", self.std)
        plain = isinstance(self.architecture, str) and self.architecture.replace("_", "").replace(".", "").isalnum()
        _require(plain, "architecture", "the name of a timm network", self.architecture)
        _require(isinstance(self.sha256, str), "sha256", "a text", self.sha256)
        _require(isinstance(self.mixer, Mapping), "mixer", "options", self.mixer)
        _require(all(map(is_plain, self.mixer.values())), "mixer", "plain values", self.mixer)
        options = [f.name for f in dataclasses.fields(self.network.config_class)]
        unknown = sorted(set(self.mixer) - set(options))
        _require(not unknown, "mixer", f"options among {', '.join(options)}", unknown)
        self.network_config  # noqa: B018  # raises where a value is out of range
        check_model_args(self.model_args, "a Mixer")

    @property
    def network(self) -> type[MaskGenerator]:
        """The class of the mask generator."""
        return MASK_GENERATORS.resolve(self.kind, trusted=False)

    @property
    def network_config(self) -> MaskGeneratorConfig:
        """The config of the mask generator."""
        config: MaskGeneratorConfig = self.network.config_class(**self.mixer)
        return config


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(good: bool, name: str, wanted: str, got: object) -> None:
    if not good:
        raise ValueError(
            f"a Mixer's {name} must be {wanted}, got {str(got)[:80]!r}; the file is damaged or not a Mixer's"
        )


class MixerWithEncoder(nn.Module, PyTorchModelHubMixin):
    """The frozen encoder up to its feature stage, and the frozen Mixer; always in eval mode, without gradients.

    ``save_pretrained(folder)`` writes it, ``push_to_hub(repo_id)`` shares it, :meth:`read` reads it.

    Args:
        config: what to build; the weights are new until they are loaded.
    """

    half_precision = False  # whether convolutions are written in 16 bits

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.config = config
        encoder = create_network(
            config.architecture, 0, config.model_args, size=config.size, stem=config.stem, pretrained=False
        )
        self.backbone = TimmBackbone(prune_after(encoder, config.stage), config.stage)
        self.mixer = config.network(config.dim, config.network_config)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> MixerWithEncoder:
        """Stays in eval mode: batch statistics and dropout would make a mask depend on its neighbours and on chance."""
        return super().train(False)

    def compile(self, *_unused: object, **options: object) -> None:
        """Compiles the encoder's pass and the Mixer's, in place; options are those of ``torch.compile``."""
        compile_methods(self.backbone, ("feature_map",), options)
        compile_methods(self.mixer, ("project", "predict_mask"), options)

    @torch.no_grad()
    def encode(self, images: Tensor, size: int = 0) -> Tensor:
        """Feature maps of images that are normalised as in training.

        Args:
            images: (B, C, H, W) float, any H and W.
            size: short side in pixels that the encoder sees; 0 is twice that of the images, at least 64, and at
                most the side it was trained at. Networks that take one size only see a square.

        Returns:
            (B, D, h, w) in the images' type or autocast's.
        """
        channels = len(self.config.mean)
        if images.shape[1] != channels:
            raise ValueError(f"this Mixer was trained on {channels} channels, the images have {images.shape[1]}")
        height, width = images.shape[-2:]
        one_size = hasattr(self.backbone.model, "patch_embed")
        target = (self.config.size,) * 2 if one_size else encoder_sides(height, width, size, self.config.size)
        if torch.compiler.is_exporting() or target != (height, width):
            images = F.interpolate(images, target, mode="bilinear", antialias=True, align_corners=False)
        return self.backbone.feature_map(images)

    @torch.no_grad()
    def forward(self, z: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks (B, 1, H, W) from feature maps (B, D, h, w) of pairs; see :meth:`MaskGenerator.predict_mask`."""
        return self.mixer.predict_mask(self.mixer.project(z.float()), self.mixer.project(partner.float()), lam, size)

    # Files ------------------------------------------------------------------------------------------------------------

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes weights and config whole, or not at all; called by ``save_pretrained`` and ``push_to_hub``."""
        from safetensors.torch import save_file

        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if self.half_precision:
            weights = {name: tensor.half() if tensor.dim() == 4 else tensor for name, tensor in weights.items()}
        metadata = {"format": "pt", "samix": f"mixer-{FORMAT}"}
        write_whole(save_directory / WEIGHTS, lambda path: save_file(weights, path, metadata=metadata))
        self.config = dataclasses.replace(self.config, sha256=file_digest(save_directory / WEIGHTS))
        self.write_config(save_directory)
        if not (save_directory / CARD).exists():
            write_text(save_directory / CARD, mixer_card(self.config))

    def write_config(self, folder: Path) -> None:
        """Writes ``config.json`` alone."""
        write_text(folder / CONFIG, json.dumps({"samix_mixer": dataclasses.asdict(self.config)}, indent=1))

    @classmethod
    def read(cls, source: str | Path) -> MixerWithEncoder:
        """Reads a Mixer from a folder, from its ``model.safetensors``, or from the hub by ``owner/name``.

        The hub is asked only for a name that is no path here.
        """
        weights, config_path = _find(source)
        config = read_config(config_path)
        shapes = _header(weights)
        total = sum(math.prod(shape) for shape in shapes.values())
        if total > LARGEST:
            raise ValueError(f"{weights} holds {total:,} weights; a Mixer has at most {LARGEST:,}")
        try:
            with torch.device("meta"):  # the shapes alone: nothing is allocated
                expected = {name: tuple(t.shape) for name, t in cls(config).state_dict().items()}
        except (RuntimeError, TypeError, KeyError, IndexError, AssertionError, ZeroDivisionError, ValueError) as error:
            raise ValueError(f"{config_path} describes no network that can be built: {error}") from None
        wrong = sorted(k for k in {*expected, *shapes} if expected.get(k) != shapes.get(k))
        if wrong:
            first = wrong[0]
            raise ValueError(
                f"{weights} does not fit {config_path.name}: {len(wrong)} tensors differ, the first is {first}, "
                f"{shapes.get(first, 'missing')} where {expected.get(first, 'nothing')} is expected"
            )
        from safetensors.torch import load_file

        network = cls(config)
        network.load_state_dict(load_file(weights))  # copied into float32, whatever the file's type
        if not all(bool(t.isfinite().all()) for t in network.state_dict().values() if t.is_floating_point()):
            raise ValueError(f"{weights} holds weights that are not finite; it is damaged")
        if config.sha256 and config.sha256 != file_digest(weights):
            raise ValueError(
                f"{weights} is not the file that {config_path.name} describes: its SHA-256 differs; copy both again"
            )
        return network


def encoder_sides(height: int, width: int, size: int, largest: int) -> tuple[int, int]:
    """Computes the height and width at which an encoder sees images; also in a graph whose sizes are symbols.

    Args:
        height: of the images.
        width: of the images.
        size: wanted short side; 0 is twice that of the images, within [64, largest].
        largest: short side for 0.
    """
    short: Any = torch.sym_min(height, width)
    wanted: Any = size or torch.sym_min(largest, torch.sym_max(2 * short, SMALLEST))
    rounded = [(2 * side * wanted + short) // (2 * short) for side in (height, width)]
    return rounded[0], rounded[1]


def _find(source: str | Path) -> tuple[Path, Path]:
    """The weights and the config of a source."""
    path = Path(source)
    if path.is_dir():
        folder = path if (path / CONFIG).is_file() else path / "mixer"
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{path} holds no Mixer: {CONFIG} and {WEIGHTS} are expected in it")
        return folder / WEIGHTS, folder / CONFIG
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(
                f"{path} is not a Mixer's file ({WEIGHTS}); of a checkpoint make one: samix mixer export {path} DIR"
            )
        if not (path.parent / CONFIG).is_file():
            raise FileNotFoundError(f"{path} has no {CONFIG} beside it; a Mixer needs both")
        return path, path.parent / CONFIG
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or "\\" in name:
        raise FileNotFoundError(f"no Mixer at {name!r}: give a folder, a {WEIGHTS}, or a hub id owner/name")
    return _download(name)


def _download(name: str) -> tuple[Path, Path]:
    """Fetches a Mixer's two files from the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = Path(hf_hub_download(name, CONFIG))
        read_config(config)  # weights are not fetched for a config of another kind
        return Path(hf_hub_download(name, WEIGHTS)), config
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"no folder {name!r} here, and the hub has no Mixer of that name: {reason}") from None


def read_config(path: Path) -> MixerConfig:
    """Reads and checks ``config.json``."""
    if path.stat().st_size > 1_000_000:
        raise ValueError(f"{path} is too large for a Mixer's config")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("samix_mixer"), dict):
        raise ValueError(f"{path} is not a Mixer's config; `samix train` leaves a Mixer in runs/NAME/mixer")
    values = values["samix_mixer"]
    number = values.get("format")
    if type(number) is not int or number < 1:
        raise ValueError(f"{path} has no format number; it is damaged")
    if number > FORMAT:
        raise ValueError(f"{path} has format {number}, this samix reads up to {FORMAT}; update samix")
    known = {f.name for f in dataclasses.fields(MixerConfig)}
    missing = sorted(known - set(values) - {"about", "sha256"})
    if missing or set(values) - known:
        raise ValueError(f"{path} is not a Mixer's config: missing {missing}, unknown {sorted(set(values) - known)}")
    if not isinstance(values.get("about", {}), dict):
        raise ValueError(f"{path} is damaged: about must be a table")
    return MixerConfig(**values)


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes that a safetensors file announces; its tensors are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None
