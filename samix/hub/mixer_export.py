"""A trained Mixer as a folder to share: from a training method, a checkpoint or another Mixer."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from samix.hub.checkpoints import load_method
from samix.hub.onnx import ONNX, export_onnx
from samix.methods.base import Method
from samix.methods.learned import LearnedMixup
from samix.mixers import MASK_GENERATORS
from samix.mixers.folder import CARD, CONFIG, WEIGHTS, MixerConfig, MixerWithEncoder
from samix.mixers.pretrained import SHIPPED
from samix.networks.backbone import TimmBackbone
from samix.recipes import Recipe
from samix.recipes.build import METHODS
from samix.runtime.checks import Options
from samix.runtime.environment import versions
from samix.runtime.typed_options import CountOr0
from samix.train.checkpoint import load_checkpoint, newest_of


def has_mixer(method: Method) -> bool:
    """Returns whether a method trains a Mixer that can be shared: a registered one, on a network that timm knows."""
    return (
        isinstance(method, LearnedMixup)
        and MASK_GENERATORS.get(method.mixer.config.name) is type(method.mixer)
        and isinstance(method.model.backbone, TimmBackbone)
    )


def mixer_network(
    method: Method, recipe: Recipe, mean: Sequence[float], std: Sequence[float], about: Options
) -> MixerWithEncoder:
    """Returns the Mixer of a method with its encoder, the averaged copy up to the feature stage; a copy of its own."""
    if not has_mixer(method):
        raise ValueError(f"{type(method).__name__} holds no Mixer to share: train AutoMix or SAMix on a timm network")
    assert isinstance(method, LearnedMixup)
    backbone = method.model.backbone
    assert isinstance(backbone, TimmBackbone)
    count = len(list(backbone.model.feature_info))
    config = MixerConfig(
        kind=method.mixer.config.name,
        mixer=dataclasses.asdict(method.mixer.config),
        dim=method.mixer.dim,
        architecture=recipe.model.split(".")[0],
        model_args=recipe.model_kwargs,
        stem=recipe.stem,
        stage=backbone.stage % count,
        size=recipe.size,
        mean=tuple(mean),
        std=tuple(std),
        about=dict(about),
    )
    network = MixerWithEncoder(config)
    trained = {f"backbone.{k}": v for k, v in method.ema_model.backbone.state_dict().items()}
    trained.update({f"mixer.{k}": v for k, v in method.mixer.state_dict().items()})
    network.load_state_dict({k: trained[k] for k in network.state_dict()})
    return network


def figures_of(row: Mapping[str, float]) -> dict[str, float]:
    """Returns the figures of an epoch that a Mixer's card gives."""
    names = {"top1": "held-out top-1 of its network, %", "mask_std": "mask_std", "mask_error": "mask_error"}
    return {title: row[name] for name, title in names.items() if name in row}


def write_mixer(
    folder: Path,
    method: Method,
    recipe: Recipe,
    data: Options,
    measured: Options,
    picture: Path | None = None,
    licence: str = "",
) -> None:
    """Writes ``config.json``, ``model.safetensors``, ``README.md`` and a picture of the masks."""
    steps = f"{recipe.epochs} epochs, batch {recipe.batch_size}, seed {recipe.seed}"
    about = {
        "trained_on": data["name"],
        "recipe": recipe.name,
        "preset": recipe.mixup_options.get("preset", "reference"),
        "training": steps,
        **measured,
        "samix": versions()["samix"],
        "licence": licence or "not given",
    }
    folder.mkdir(parents=True, exist_ok=True)
    if picture is not None and picture.is_file():
        shutil.copyfile(picture, folder / "masks.png")
        about["picture"] = "masks.png"
    network = mixer_network(method, recipe, data["mean"], data["std"], about)
    (folder / CARD).unlink(missing_ok=True)
    network.save_pretrained(folder)


@dataclass(frozen=True)
class MixerExport:
    """Writes the folder of a Mixer from a checkpoint, or an ONNX graph of a Mixer.

    Args:
        source: checkpoint of a learned mixup: last.pt, best.pt, or a run's folder; with ``--onnx`` also a Mixer.
        folder: folder to write.
        onnx: write ``model.onnx`` too: two batches of images and lam to masks, for any batch.
        onnx_size: side in pixels of the images that the graph takes; 0 takes any height and width. ``mixer:default``
            needs one, since its graph for any size takes torch many minutes.
        licence: licence of the weights, for the card.
    """

    source: Positional[str]
    folder: Positional[Path]
    onnx: bool = False
    onnx_size: CountOr0 = 0
    licence: str = ""

    def run(self) -> tuple[str, int]:
        """Writes the folder, and returns what is in it and 0."""
        check_target(self.folder)
        if self.onnx and is_mixer(self.source):
            network = MixerWithEncoder.read(SHIPPED.get(self.source, self.source))
            network.save_pretrained(self.folder)
        else:
            network = mixer_of_checkpoint(Path(self.source), self.folder, self.licence)
        lines = [f"{self.folder}: {describe(network)}"]
        if self.onnx:
            lines.append(
                f"{export_onnx(network, self.folder / ONNX, self.onnx_size)}: inputs image_a, image_b, lam; output mask"
            )
        return "\n".join(lines), 0


def check_target(folder: Path) -> None:
    """Raises ValueError for a folder that holds something else than a Mixer."""
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is not empty and holds no Mixer; give a new folder")


def is_mixer(source: str) -> bool:
    """Returns whether a source is a Mixer, rather than a checkpoint or a run."""
    path = Path(source)
    return source in SHIPPED or path.name == WEIGHTS or (path / WEIGHTS).is_file() or not path.exists()


def mixer_of_checkpoint(checkpoint: Path, folder: Path, licence: str) -> MixerWithEncoder:
    """Writes the Mixer of a checkpoint into a folder, and returns it."""
    checkpoint = newest_of(checkpoint)
    method, recipe, data = load_method(checkpoint)
    if recipe.mixup not in METHODS:
        raise ValueError(f"{checkpoint} was trained with {recipe.mixup}, which trains no Mixer; train AutoMix or SAMix")
    rows = load_checkpoint(checkpoint)["rows"]
    measured = figures_of(rows[-1]) if rows else {}
    write_mixer(folder, method, recipe, data, measured, checkpoint.parent / "mixed.png", licence)
    return MixerWithEncoder.read(folder)


def describe(network: MixerWithEncoder) -> str:
    """Returns one line about a Mixer."""
    config = network.config
    count = sum(t.numel() for t in network.state_dict().values())
    layer = f"{config.architecture} stage {config.stage} ({config.dim} channels)"
    where = f"trained at {config.size} px on {config.about.get('trained_on', 'unknown data')}"
    return f"{config.kind}, {layer}, {count:,} weights, {where}"
