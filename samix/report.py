"""What `samix evaluate` and `samix show` do: read a checkpoint, an export or a name, and report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.build import METHODS, MIXER, NAMES, build_augment, build_method, build_mixup, build_network
from samix.checkpoint import checkpoint_recipe, load_checkpoint, load_into, newest_of, recipe_of, without_labels
from samix.data import EvalBatches, denormalize, load_data, load_images, normalize
from samix.engine import check_device, preview_pairs
from samix.evaluate import classification_metrics
from samix.methods.base import Method
from samix.mixing import Augmentation
from samix.mixups.align import AlignMix
from samix.mixups.frozen import Mixer
from samix.mixups.guided import GuidedAugmentation
from samix.mixups.handmade import RandomChoice
from samix.mixups.hidden import ManifoldMix
from samix.pretraining import PretrainRecipe, build_pretraining
from samix.recipes import Recipe
from samix.relabel import Relabelling
from samix.saliency import spectral_residual

Normalization = tuple[Sequence[float], Sequence[float]]  # mean and std by channel
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_method(path: Path) -> tuple[Method, Recipe, dict[str, Any]]:
    """The method of a checkpoint in eval mode, its recipe, and what it remembers of its data.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, a damaged one, or weights of another network.
    """
    state = load_checkpoint(path)
    recipe = checkpoint_recipe(state)
    data = state["data"]
    plain = without_paths(recipe)
    normalization = (data["mean"], data["std"])
    if isinstance(plain, PretrainRecipe):
        method = build_pretraining(plain, int(data["images"]), normalization)
    else:
        method = build_method(plain, len(data["classes"]), normalization)
    load_into(method, state["method"], path)
    return method.eval(), recipe, data


def without_paths(recipe: Recipe) -> Recipe:
    """The recipe without what was only needed to start its run, and may be gone: weights to begin with, a Mixer."""
    options = {k: v for k, v in recipe.mixup_options.items() if k != "init"}
    plain = dataclasses.replace(recipe, pretrained=False, mixup_options=options)
    if recipe.mixup.startswith(MIXER):
        try:
            build_mixup(recipe.mixup)
        except (FileNotFoundError, ValueError):
            return dataclasses.replace(plain, mixup="vanilla", mixup_options={})
    return plain


def load_export(folder: Path) -> tuple[nn.Module, Recipe, dict[str, Any]]:
    """An exported network in eval mode, its recipe and its data's description.

    Raises:
        FileNotFoundError, ValueError: not an export of samix.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_path, weights = folder / "config.json", folder / "model.safetensors"
    if not config_path.is_file() or not weights.is_file():
        raise FileNotFoundError(
            f"{folder} is no export (config.json, model.safetensors) and no run (last.pt); give one of them"
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        values, classes, cfg = config["samix"]["recipe"], config["samix"]["class_names"], config["pretrained_cfg"]
        state = load_file(weights)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} is damaged, or was not exported by samix ({type(error).__name__}: {error})"
        ) from None
    recipe = recipe_of({**values, "pretrained": False})
    network = build_network(recipe, 0 if without_labels(recipe) else len(classes))
    load_into(network, state, weights)
    return network.eval(), recipe, {"classes": classes, "mean": cfg["mean"], "std": cfg["std"]}


def evaluate_path(path: Path, data: str, data_root: str, batch_size: int, device: str) -> dict[str, dict[str, float]]:
    """Metrics by classifier of a checkpoint or an export folder.

    Args:
        path: a run's folder, a ``.pt`` file or an export folder.
        data: a data set, or empty for the one of the recipe.
        data_root: where torchvision's data sets lie.
        batch_size: images per pass.
        device: auto, cpu or cuda.

    Raises:
        FileNotFoundError, ValueError: wrong path, or data with other classes.
    """
    check_device(device)
    place = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    predict: Callable[[Tensor], dict[str, Tensor]]
    path = newest_of(path)
    if path.is_dir():
        network, recipe, described = load_export(path)
        network.to(place)
        predict = lambda x: {"export": network(x)}  # noqa: E731  # one expression each
    else:
        method, recipe, described = load_method(path)
        predict = method.to(place).predict
    images = load_data(data or recipe.data, root=data_root)
    if list(images.class_names) != list(described["classes"]):
        raise ValueError(
            f"{images.name} has {images.num_classes} classes, {list(images.class_names)[:3]}..., but the network was "
            f"trained on {len(described['classes'])}, {described['classes'][:3]}...; evaluate on the same classes"
        )
    # Pixels are scaled as in training, also where this data set has a mean of its own.
    images = dataclasses.replace(images, mean=tuple(described["mean"]), std=tuple(described["std"]))
    batches = EvalBatches(
        images, batch_size=batch_size, size=recipe.size, augment=build_augment(recipe, images), device=place
    )
    return classification_metrics(predict, batches.batches(), images.num_classes, place)


def show_mixup(
    source: str,
    files: Sequence[Path],
    out: Path,
    size: int,
    lams: Sequence[float],
    seed: int,
    data_root: str,
    *,
    options: Mapping[str, Any] | None = None,
    dpi: int = 110,
) -> str:
    """Paints pairs by lambda and says where; of a mixup of more than two images, two batches.

    Args:
        source: a checkpoint's path or a mixup's name.
        files: images, paired as :func:`pairs_of` says; empty takes held-out images.
        out: the PNG.
        size: side in pixels, 0 for the checkpoint's or 224.
        lams: shares of the own image, in [0, 1].
        seed: of further draws.
        data_root: where torchvision's data sets lie.
        options: of a mixup by name.
        dpi: of the PNG.

    Raises:
        FileNotFoundError, ValueError: no such source, one image only, or a mixup that makes no picture.
    """
    from samix.visualize import mask_statistics

    check_show(source, files, size, lams)
    named = is_name(source)
    method, recipe, described = (None, None, None) if named else load_method(Path(source))
    mean, std = (described["mean"], described["std"]) if described else (PHOTO_MEAN, PHOTO_STD)
    if files:
        side = size or (recipe.size if recipe else 224)
        images = normalize(load_images(files, side), mean, std)
        labels, (rows, index) = torch.zeros(len(images), dtype=torch.long), pairs_of(len(images))
    else:
        images, labels, index, mean, std = held_out(recipe, size, data_root)
        rows = torch.arange(min(len(images), 4))
    shown = Shown(images, index, rows, (mean, std))
    mixes: list[Callable[[float], MixedBatch | None]]
    if method is None:
        mixup = named_mixup(source, (mean, std), options)
        guide = guide_of(mixup, images, labels)
        mixes = [mixup_at(mixup, images, labels, index, seed + n, guide) for n in (0, 1)]
        paint(out, shown, mixes, lams, title_of(source, mixup), guide, dpi)
    else:
        mixes = [preview_of(method, source, images, labels, index, seed, (mean, std))]
        if mixes[0](lams[0]) is None:
            raise ValueError(f"{source} makes no picture: it trains without mixing images")
        assert recipe is not None
        paint(out, shown, mixes, lams, recipe.mixup, dpi=dpi)
    found = [batch for batch in map(mixes[0], lams) if batch is not None and batch.mask is not None]
    told = mask_statistics(found) if found else {"std": 0.0, "correlation": 0.0}
    return (
        f"{out}: spread within a mask {told['std']:.3f}, correlation of its mean with lambda {told['correlation']:.3f}"
    )


def check_show(source: str, files: Sequence[Path], size: int, lams: Sequence[float]) -> None:
    """Raises ValueError unless this can be painted; of a checkpoint only whether it is there."""
    if len(files) == 1:
        raise ValueError("samix show needs at least two images to mix, got one")
    if any(not 0.0 <= lam <= 1.0 for lam in lams) or not lams:
        raise ValueError(f"--lams must be in [0, 1], got {lams}")
    if size < 0 or size == 1:
        raise ValueError(f"--size must be at least 2 pixels, or 0 for the checkpoint's or 224, got {size}")
    if not is_name(source) and not Path(source).exists():
        raise ValueError(
            f"{source!r} is neither a checkpoint nor a mixup; the mixups are {', '.join(NAMES)}, {MIXER}PATH"
        )
    if source in METHODS:
        raise ValueError(f"{source} must be trained before it can be shown: give a checkpoint, runs/NAME/best.pt")


def is_name(source: str) -> bool:
    """Whether this is a mixup's name, not a checkpoint's path."""
    return source in NAMES or source.startswith(MIXER)


def pairs_of(count: int) -> tuple[Tensor, Tensor]:
    """Which of ``count`` files are painted, at most four (rows), and the partner of each file (count,).

    An even number, four or more: the first with the second, the third with the fourth. Otherwise each with the next.
    """
    at = torch.arange(count)
    if count >= 4 and count % 2 == 0:
        return at[::2][:4], at + 1 - 2 * (at % 2)
    return at[: 1 if count == 2 else 4], at.roll(-1)


class Shown(NamedTuple):
    """What is to be painted: images (B, C, H, W), their partners' rows (B,), rows to show, and (mean, std)."""

    images: Tensor
    partner: Tensor
    rows: Tensor
    normalization: Any


def paint(
    out: Path,
    shown: Shown,
    mixes: Sequence[Callable[[float], MixedBatch | None]],
    lams: Sequence[float],
    title: str,
    guide: Tensor | None = None,
    dpi: int = 110,
) -> None:
    """Writes the picture: pairs by lam, or, where more than two images are mixed, the first batch of each mix."""
    from samix.visualize import mix_grid, source_grid

    images, partner, rows = shown.images, shown.partner, shown.rows
    pixels = lambda x: denormalize(x, *shown.normalization)  # noqa: E731  # one expression
    first = [batch for mix in mixes if (batch := mix(lams[0])) is not None]
    if first and first[0].labels.shape[1] > 2:
        source_grid(out, images, first, pixels, title, dpi)
        return
    maps = None if guide is None else (guide[rows], guide[partner[rows]])
    mix_grid(
        out,
        images[rows],
        images[partner[rows]],
        lambda lam: take(mixes[0](lam), rows),
        lams,
        pixels,
        title,
        guides=maps,
        dpi=dpi,
    )


def take(batch: MixedBatch | None, rows: Tensor) -> MixedBatch | None:
    """Some rows of a batch, for a picture."""
    if batch is None:
        return None
    mask = None if batch.mask is None else batch.mask[rows]
    weights, index = batch.weights[rows], batch.index[rows]
    return dataclasses.replace(
        batch, images=batch.images[rows], labels=batch.labels[rows], weights=weights, index=index, mask=mask
    )


def check_shared(source: str, files: Sequence[Path], size: int, data_root: str) -> str:
    """What ``samix mixer check`` prints.

    Args:
        source: a Mixer, see :meth:`samix.Mixer.from_pretrained`.
        files: images, at least two; empty takes digits.
        size: side in pixels.
        data_root: where torchvision's data sets lie.

    Raises:
        FileNotFoundError, ValueError: not a Mixer, or one image only.
    """
    from samix.networks.mixer_network import MixerNetwork
    from samix.sharing import DEFAULT, check_mixer, describe

    if len(files) == 1:
        raise ValueError("samix mixer check needs at least two images to mix, got one")
    network = MixerNetwork.read(DEFAULT if source == "default" else source)
    mean: Any = network.config.mean
    std: Any = network.config.std
    if files:
        images = normalize(load_images(files, size), mean, std)
    else:
        images, _, _, mean, std = held_out(None, size, data_root)
    told = check_mixer(source, images, mean, std)
    return (
        f"{describe(network)}\nspread within a mask {told['std']:.3f}, correlation of its mean with lambda "
        f"{told['correlation']:.3f}, |mean - lambda| {told['error']:.3f}, {told['adjusted_error']:.4f} when adjusted"
    )


def held_out(recipe: Recipe | None, size: int, data_root: str) -> tuple[Tensor, Tensor, Tensor, Any, Any]:
    """Held-out pairs of the recipe's data, or digits: images, labels, index, mean, std."""
    recipe = recipe or Recipe(data="digits", size=16)
    data = load_data(recipe.data, root=data_root)
    if size:
        recipe = dataclasses.replace(recipe, size=size)
    return (*preview_pairs(data, recipe), data.mean, data.std)


def preview_of(
    method: Method | None,
    name: str,
    images: Tensor,
    labels: Tensor,
    index: Tensor,
    seed: int,
    normalization: Normalization,
) -> Callable[[float], MixedBatch | None]:
    """Lam -> the mixed pairs, by a trained method or by a mixup of that name with the same further draws each time."""
    if method is not None:
        trained = method
        return lambda lam: trained.preview(images, labels, lam, index)
    mixup = named_mixup(name, normalization)
    return mixup_at(mixup, images, labels, index, seed, guide_of(mixup, images, labels))


def named_mixup(name: str, normalization: Normalization, options: Mapping[str, Any] | None = None) -> Augmentation:
    """A mixup that knows how the pixels are scaled."""
    mixup = build_mixup(name, options)
    mixup.set_normalization(*normalization)
    return mixup


def mixup_at(
    mixup: Augmentation, images: Tensor, labels: Tensor, index: Tensor, seed: int, guide: Tensor | None
) -> Callable[[float], MixedBatch]:
    """Lam -> the pairs as a mixup mixes them, with the same further draws each time.

    Of a choice between mixups, each lam is another draw, so that all are seen.
    """
    given: dict[str, Any] = {"index": index} if guide is None else {"index": index, "guide": guide}

    def mix(lam: float) -> MixedBatch:
        mixup.generator.manual_seed(seed + (round(10 * lam) if isinstance(mixup, RandomChoice) else 0))
        return mixup(images, labels, lam=lam, **given)

    return mix


def guide_of(mixup: Augmentation, images: Tensor, labels: Tensor) -> Tensor | None:
    """The maps that a guided mixup is shown with: its own, or, where these are the network's, spectral residuals."""
    if not isinstance(mixup, GuidedAugmentation):
        return None
    if mixup.needs_model:
        return spectral_residual(images, getattr(mixup, "mean", None), getattr(mixup, "std", None))
    return mixup.look(images, labels, None)


def title_of(name: str, mixup: Augmentation) -> str:
    """What a picture of a mixup by name shows."""
    if isinstance(mixup, Mixer):
        return f"a trained Mixer ({mixup.loaded.config.kind}), frozen"
    if isinstance(mixup, RandomChoice):
        return f"{name}: each column is a batch of its own, mixed by {' or '.join(one.name for one in mixup.choices)}"
    if isinstance(mixup, ManifoldMix | AlignMix):
        return f"{name}: mixed at the input, where it is mixup"
    if isinstance(mixup, Relabelling):
        return f"{name}: images as {mixup.inner.name} mixes them; the label's shares need the network"
    if isinstance(mixup, GuidedAugmentation) and mixup.needs_model:
        return f"{name}: by spectral residuals in place of the network's maps"
    if isinstance(mixup, GuidedAugmentation):
        return f"{name}: by {DETECTORS.get(getattr(mixup, 'saliency', ''), 'maps')}"
    return name


DETECTORS = {"spectral": "spectral residuals", "fine": "fine-grained saliency"}
