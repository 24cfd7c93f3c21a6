"""What `samix evaluate` and `samix show` do: read a checkpoint, an export or a name, and report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.build import METHODS, MIXER, NAMES, build_augment, build_method, build_mixup, build_network
from samix.checkpoint import checkpoint_recipe, load_checkpoint, load_into
from samix.data import EvalBatches, denormalize, load_data, load_images, normalize
from samix.engine import check_device, first_rows, preview_pairs
from samix.evaluate import classification_metrics
from samix.methods.base import Method
from samix.mixups.guided import GuidedAugmentation
from samix.recipes import Recipe, from_dict
from samix.saliency import spectral_residual

PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_method(path: Path) -> tuple[Method, Recipe, dict[str, Any]]:
    """The method of a checkpoint in eval mode, its recipe, and what it remembers of its data.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, a damaged one, or weights of another network.
    """
    state = load_checkpoint(path)
    recipe = checkpoint_recipe(state)
    data = state["data"]
    plain = Recipe(**{**recipe.to_dict(), "pretrained": False})
    method = build_method(plain, len(data["classes"]), (data["mean"], data["std"]))
    load_into(method, state["method"], path)
    return method.eval(), recipe, data


def load_export(folder: Path) -> tuple[nn.Module, Recipe, dict[str, Any]]:
    """An exported network in eval mode, its recipe and its data's description.

    Raises:
        FileNotFoundError, ValueError: not an export of samix.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_path, weights = folder / "config.json", folder / "model.safetensors"
    if not config_path.is_file() or not weights.is_file():
        raise FileNotFoundError(f"{folder} is no export: config.json and model.safetensors are expected in it")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        values, classes, cfg = config["samix"]["recipe"], config["samix"]["class_names"], config["pretrained_cfg"]
        state = load_file(weights)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} is damaged, or was not exported by samix ({type(error).__name__}: {error})"
        ) from None
    recipe = from_dict({**values, "pretrained": False})
    network = build_network(recipe, len(classes))
    load_into(network, state, weights)
    return network.eval(), recipe, {"classes": classes, "mean": cfg["mean"], "std": cfg["std"]}


def evaluate_path(path: Path, data: str, data_root: str, batch_size: int, device: str) -> dict[str, dict[str, float]]:
    """Metrics by classifier of a checkpoint or an export folder.

    Args:
        path: a ``.pt`` file or an export folder.
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
    source: str, files: Sequence[Path], out: Path, size: int, lams: Sequence[float], seed: int, data_root: str
) -> str:
    """Paints pairs by lambda and says where.

    Args:
        source: a checkpoint's path or a mixup's name.
        files: images, paired in order; empty takes held-out images.
        out: the PNG.
        size: side in pixels, 0 for the checkpoint's or 224.
        lams: shares of the own image, in [0, 1].
        seed: of further draws.
        data_root: where torchvision's data sets lie.

    Raises:
        FileNotFoundError, ValueError: no such source, one image only, or a mixup that makes no picture.
    """
    from samix.visualize import mask_statistics, mix_grid

    if len(files) == 1:
        raise ValueError("samix show needs at least two images to mix, got one")
    if any(not 0.0 <= lam <= 1.0 for lam in lams) or not lams:
        raise ValueError(f"--lams must be in [0, 1], got {lams}")
    if size < 0 or size == 1:
        raise ValueError(f"--size must be at least 2 pixels, or 0 for the checkpoint's or 224, got {size}")
    path = Path(source)
    named = source in NAMES or source.startswith(MIXER)
    if not named and not path.exists():
        raise ValueError(
            f"{source!r} is neither a checkpoint nor a mixup; the mixups are {', '.join(NAMES)}, {MIXER}PATH"
        )
    if source in METHODS:
        raise ValueError(f"{source} must be trained before it can be shown: give a checkpoint, runs/NAME/best.pt")
    method, recipe, described = (None, None, None) if named else load_method(path)
    mean, std = (described["mean"], described["std"]) if described else (PHOTO_MEAN, PHOTO_STD)
    if files:
        side = size or (recipe.size if recipe else 224)
        images = normalize(load_images(files, side), mean, std)
        labels, index = torch.zeros(len(images), dtype=torch.long), torch.arange(len(images)).roll(-1)
    else:
        images, labels, index, mean, std = held_out(recipe, size, data_root)
    mix = preview_of(method, source, images, labels, index, seed, (mean, std))
    if mix(lams[0]) is None:
        raise ValueError(f"{source} makes no picture: it trains without mixing images")
    count = len(images) - 1 if len(images) == 2 else min(len(images), 4)
    mix_grid(
        out,
        images[:count],
        images[index][:count],
        lambda lam: first_rows(mix(lam), count),
        lams,
        lambda x: denormalize(x, mean, std),
        recipe.mixup if recipe else source,
    )
    found = [batch for batch in map(mix, lams) if batch is not None and batch.mask is not None]
    told = mask_statistics(found) if found else {"std": 0.0, "correlation": 0.0}
    return (
        f"{out}: spread within a mask {told['std']:.3f}, correlation of its mean with lambda {told['correlation']:.3f}"
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
    normalization: tuple[Sequence[float], Sequence[float]],
) -> Callable[[float], MixedBatch | None]:
    """Lam -> the mixed pairs, by a trained method or by a mixup of that name with the same further draws each time.

    A mixup that looks at the network in training is shown guided by the images' saliency instead.
    """
    if method is not None:
        trained = method
        return lambda lam: trained.preview(images, labels, lam, index)
    mixup = build_mixup(name)
    mixup.set_normalization(*normalization)
    given: dict[str, Any] = {"index": index}
    if isinstance(mixup, GuidedAugmentation) and mixup.needs_model:
        given["guide"] = spectral_residual(images, *normalization)

    def mix(lam: float) -> MixedBatch:
        mixup.generator.manual_seed(seed)
        return mixup(images, labels, lam=lam, **given)

    return mix
