"""Reads trained weights from wherever they are: a run, a checkpoint, an export, a file, timm, a package, the hub."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from samix.hub.checkpoints import load_export_of
from samix.hub.network_config import CONFIG, WEIGHTS, NetworkConfig, of_timm, read_config
from samix.hub.packaged import PACKAGES, packaged_weights
from samix.runtime.atomic_files import file_digest
from samix.runtime.checks import Options, suggest, suggest_folder
from samix.runtime.offline import Unreachable, check_hub

FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
# Keys under which training scripts keep a state dict, averaged weights first.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher", "student", "net")
KINDS = (
    "a run's folder, a checkpoint, an export's folder, a file of weights (.safetensors, .pt, .pth), a timm name, "
    "hf-hub:owner/name, local-dir:DIR, or " + ", ".join(PACKAGES)
)


@dataclass(frozen=True, eq=False)
class Source:
    """Weights, and the known facts about their network."""

    location: str  # where they were read, for messages
    state: Mapping[str, Tensor]  # the state dict
    config: NetworkConfig | None = None  # of the network; None for a bare file of weights
    # the plain values of the recipe that trained it; empty where it is unknown
    recipe: Options = dataclasses.field(default_factory=dict)


def read_source(source: str | Path) -> Source:
    """Reads weights and their network's config. Nothing in a file is executed.

    Args:
        source: a run's folder (its export, else its newest checkpoint), a checkpoint of samix, an export's folder or
            a folder that timm wrote, a file of weights, a timm name with its tag (``timm:NAME`` or ``NAME``),
            ``hf-hub:owner/name``, ``local-dir:DIR``, ``lite0`` or ``lite2`` (ImageNet weights from a package).

    Raises:
        FileNotFoundError: no such folder, file or name.
        samix.runtime.offline.Unreachable: the weights must be downloaded and the hub cannot be reached.
        ValueError: damaged, of another kind, or not finite.
    """
    text = str(source)
    prefix, _, rest = text.partition(":")
    if prefix == "local-dir":
        return _from_path(Path(rest))
    if prefix in ("hf-hub", "hf_hub"):
        return _from_hub(rest)
    if prefix == "timm":
        return _from_timm(rest)
    if text in PACKAGES:
        return _from_package(text)
    if Path(source).exists():
        return _from_path(Path(source))
    looks_like_path = text.startswith((".", "/", "~")) or "\\" in text or text.endswith(FILE_ENDINGS)
    if not looks_like_path and text.count("/") == 1:
        if Path(text).parent.is_dir():  # a run whose name is misspelt, rather than a network of the hub
            raise FileNotFoundError(f"no file or folder {text!r}{suggest_folder(Path(text))}; give {KINDS}")
        return _from_hub(text)
    if not looks_like_path and "/" not in text:
        return _from_timm(text)
    raise FileNotFoundError(f"no file or folder {text!r}; give {KINDS}")


def _from_path(path: Path) -> Source:
    if path.is_dir():
        if (path / "export" / CONFIG).is_file():
            path = path / "export"
        if (path / CONFIG).is_file():
            return _from_export(path)
        if (path / "last.pt").is_file():
            return _from_checkpoint(path / "last.pt")
        raise FileNotFoundError(f"{path} holds no export ({CONFIG}, {WEIGHTS}) and no run (last.pt); give {KINDS}")
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}; give {KINDS}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; give {KINDS}")
    if path.suffix == ".safetensors":
        beside = path.parent / CONFIG
        if path.name == WEIGHTS and beside.is_file():
            return _from_export(path.parent)
        return Source(str(path), read_safetensors(path))
    return _from_pickle(path)


def _from_export(folder: Path) -> Source:
    config, own = read_config(folder / CONFIG)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{folder} has a {CONFIG} but no {WEIGHTS}; an export needs both")
    said = own.get("weights_sha256")
    if said is not None and said != file_digest(weights):
        raise ValueError(f"{weights} is damaged: its bytes are not those that were written; export the network again")
    if own.get("network_sha256", config.digest()) != config.digest():
        raise ValueError(
            f"{folder / CONFIG} is damaged: it was changed after it was written; export the network again, or take "
            "network_sha256 out of it if the change is yours"
        )
    recipe = own.get("recipe")
    return Source(str(folder), read_safetensors(weights), config, recipe if isinstance(recipe, dict) else {})


def _from_checkpoint(path: Path) -> Source:
    network, config, recipe = load_export_of(path)
    return Source(str(path), network.state_dict(), config, recipe)


def _from_pickle(path: Path) -> Source:
    """Returns a checkpoint of samix, or a state dict of any training script."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the reader of pickles fails in many ways over foreign files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is damaged, or holds more than weights ({reason[:200]}); save its state_dict alone"
        ) from None
    if isinstance(held, dict) and "method" in held and "recipe" in held:
        return _from_checkpoint(path)
    for key in WRAPPERS:
        if isinstance(held, dict) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    tensors = {str(k): v for k, v in held.items() if isinstance(v, Tensor)} if isinstance(held, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path} holds no state dict: a mapping from names to tensors is expected")
    return Source(str(path), _checked(tensors, path))


def _from_package(name: str) -> Source:
    architecture, state = packaged_weights(name)
    return Source(name, state, timm_config(architecture))


def _from_timm(name: str) -> Source:
    import timm

    base = name.partition(".")[0]
    if not timm.is_model(base):
        hint = suggest(base, timm.list_models())
        raise FileNotFoundError(f"no file or folder {name!r}, and timm has no network of that name{hint}; give {KINDS}")
    if not timm.models.is_model_pretrained(name):
        raise ValueError(f"timm has no pre-trained weights for {name}; timm.list_pretrained() lists those it has")
    check_timm_weights(name)
    network = timm.create_model(name, pretrained=True)
    return Source(f"timm:{name}", network.state_dict(), timm_config(name))


def check_timm_weights(name: str) -> None:
    """Raises Unreachable where timm's weights of that name are neither cached nor to be downloaded."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(name)
    repository = getattr(cfg, "hf_hub_id", None)
    if repository:
        cached = (try_to_load_from_cache(repository, file) for file in (WEIGHTS, "pytorch_model.bin"))
        if any(isinstance(file, str) for file in cached):
            return
    check_hub(f"the weights of timm's {name}")


def timm_config(name: str) -> NetworkConfig:
    """Returns how images are prepared for a pre-trained network of timm."""
    import timm

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise ValueError(f"timm has no pre-trained weights for {name}; timm.list_pretrained() lists those it has")
    values = {"architecture": name.partition(".")[0], "pretrained_cfg": cfg.to_dict()}
    if cfg.num_classes == 1000:
        info = timm.data.ImageNetInfo()
        values["label_names"] = [info.index_to_description(index) for index in range(1000)]
    return of_timm(values, Path(name))


def _from_hub(name: str) -> Source:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if not isinstance(try_to_load_from_cache(name, CONFIG), str):
            check_hub(f"hf-hub:{name}")
        config = Path(hf_hub_download(name, CONFIG))
        read_config(config)  # the weights are not fetched for a config of another kind
        hf_hub_download(name, WEIGHTS)
    except Unreachable:
        raise
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(f"no folder {name!r} here, and the hub has no such network: {reason}") from None
    return dataclasses.replace(_from_export(config.parent), location=f"hf-hub:{name}")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _checked(load_file(path), path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None


def _checked(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    bad = [name for name, t in state.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        raise ValueError(f"{path} holds weights that are not finite (first: {bad[0]}); it is damaged")
    return state
