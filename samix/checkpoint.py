"""Checkpoints that are whole or absent, checked when they are read; and networks exported for timm."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from samix.networks.create import sized_args
from samix.recipes import Recipe

FORMAT = 1
PARTS = {"recipe", "method", "optimizer", "step", "best", "rows", "sums", "seconds", "data"}  # of every checkpoint
LAST = "last.pt"  # the newest checkpoint of a run; the ones before are last-1.pt, last-2.pt, ...

# A checkpoint is a zip archive, which ends with a record whose last field is the length of a comment, and the comment.
ZIP_END, ZIP_END_BYTES = b"PK\x05\x06", 22
HASH_BYTES, HASH_TAG = 32, b"samix blake2b "
SEAL_BYTES = len(HASH_TAG) + 2 * HASH_BYTES
BLOCK = 1 << 20

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint: cut, or with other bytes than were written."""


class CannotWrite(RuntimeError):
    """The disk is full, or the folder may not be written to."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, what the disk refuses becomes one line that says what to do.

    Raises:
        CannotWrite: no space left, a read-only or forbidden folder, or another error of the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            advice = "free some space"
        elif error.errno in CLOSED:
            advice = "make the folder writable"
        else:
            advice = "look after the disk"
        raise CannotWrite(
            f"cannot write {path}: {error.strerror or error}; {advice}. What was there before is as it was: a run is "
            "continued with --resume"
        ) from error


def write_whole(path: Path, write: Any) -> None:
    """Calls ``write(temporary)`` and moves the result to ``path``: a reader sees the old file or the new one.

    Args:
        path: final place; its folder exists.
        write: function of one path.

    Raises:
        CannotWrite: the disk refuses; the old file stays, and no part of the new one.
    """
    with writing(path):
        temporary = make_temporary(path, write)
        temporary.replace(path)
        sync_folder(path.parent)


def make_temporary(path: Path, write: Any) -> Path:
    """A file beside ``path``, written by ``write(temporary)`` and safe on the disk; where that fails, none."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    except Exception:
        try:
            temporary.unlink(missing_ok=True)  # its space may be what is lacking
        except OSError:
            pass  # the error before says what is wrong
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """The folder's names are on the disk after this."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save_checkpoint(path: Path, state: dict[str, Any], keep: int = 1) -> None:
    """Writes a checkpoint, whole or not at all, with a hash of its bytes at its end.

    Args:
        path: final place.
        state: what to keep.
        keep: number of files; with 3, the file that was at ``path`` becomes ``NAME-1.pt``, and that one ``NAME-2.pt``.
            At every moment there is a file at ``path``.

    Raises:
        CannotWrite: the disk refuses; the files that were there stay.
    """
    with writing(path):
        temporary = make_temporary(path, lambda place: write_sealed(place, {"format": FORMAT, **state}))
        push_back(path, keep)
        temporary.replace(path)
        sync_folder(path.parent)


def kept_files(path: Path, keep: int = 100) -> list[Path]:
    """``last.pt``, ``last-1.pt``, ...: the newest first, whether they are there or not."""
    return [path, *(path.with_name(f"{path.stem}-{age}{path.suffix}") for age in range(1, keep))]


def push_back(path: Path, keep: int) -> None:
    """Each kept file takes the name of the one before it; the oldest goes. The newest keeps its name, too."""
    files = kept_files(path, keep)
    for older, newer in reversed(list(zip(files[1:], files, strict=False))):
        if not newer.is_file():
            continue
        if newer != path:
            newer.replace(older)
            continue
        link = path.with_name(f".{path.name}.link")
        link.unlink(missing_ok=True)
        try:
            os.link(path, link)
        except OSError:  # a file system without links: for a moment there is no file of the newest name
            path.replace(older)
        else:
            link.replace(older)


class WatchedFile:
    """A file to write to that remembers what the disk refused: torch hides that behind an error of its own.

    Args:
        file: to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Passes it on."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Passes it on."""
        self.file.flush()


def write_sealed(path: Path, state: dict[str, Any]) -> None:
    """A file of torch with a seal: a comment at its end with the hash of all that stands before the comment.

    Raises:
        OSError: the disk refuses.
    """
    with path.open("wb") as file:
        watched = WatchedFile(file)
        try:
            torch.save(state, watched)  # type: ignore[arg-type]  # it needs no more than write and flush
        except RuntimeError:
            if watched.error is None:
                raise
            raise watched.error from None
    with path.open("rb+") as file:
        file.seek(-ZIP_END_BYTES, os.SEEK_END)
        end = file.read()
        assert end.startswith(ZIP_END)
        assert end.endswith(b"\0\0"), "an archive with a comment"
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", SEAL_BYTES))
        length = file.tell()
        file.write(HASH_TAG + hash_of(file, length))


def hash_of(file: BinaryIO, length: int) -> bytes:
    """BLAKE2b of the first ``length`` bytes, in hexadecimal; the file is left at their end."""
    file.seek(0)
    found = hashlib.blake2b(digest_size=HASH_BYTES)
    while length > 0:
        block = file.read(min(BLOCK, length))
        if not block:
            break
        found.update(block)
        length -= len(block)
    return found.hexdigest().encode()


def check_seal(path: Path) -> None:
    """Compares a checkpoint's bytes with the hash at its end. Files of earlier versions have no comment and pass.

    Raises:
        DamagedCheckpoint: other bytes than were written.
    """
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - ZIP_END_BYTES - 0xFFFF))
        tail = file.read()
        at = tail.rfind(ZIP_END)
        said, seal = tail[at + ZIP_END_BYTES - 2 : at + ZIP_END_BYTES], tail[at + ZIP_END_BYTES :]
        if at < 0 or (said == b"\0\0" and not seal):
            return  # no archive, as torch will say; or one without a seal
        if seal != HASH_TAG + hash_of(file, length - len(seal)):
            raise DamagedCheckpoint(f"{path} is damaged: its bytes are not those that were written (hash)")


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        DamagedCheckpoint: damaged, or no file of torch at all.
        ValueError: not a samix checkpoint, or of a newer format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; a run writes last.pt and best.pt into its folder")
    check_seal(path)
    try:
        with warnings.catch_warnings():  # of a foreign pickle's protocol: the error below says enough
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the reader of pickles stumbles over a foreign file in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpoint(f"{path} is damaged or no checkpoint of samix: {reason}") from None
    if not isinstance(state, dict) or not isinstance(state.get("format"), int) or not PARTS <= set(state):
        raise ValueError(f"{path} is no checkpoint of samix; a run writes last.pt and best.pt into its folder")
    if state["format"] > FORMAT:
        raise ValueError(f"{path} has format {state['format']}, this samix reads up to {FORMAT}; update samix")
    return state


def newest_of(path: Path) -> Path:
    """``last.pt`` where a run's folder is given, else the path as it is."""
    return path / LAST if (path / LAST).is_file() else path


class Found(NamedTuple):
    """The newest whole checkpoint of a run: what it holds, where, and which newer files are damaged."""

    state: dict[str, Any]
    path: Path
    damaged: list[Path]
    news: list[str]  # a line for each file that was passed over


def load_last(folder: Path) -> Found:
    """Reads the newest whole checkpoint of a run.

    Raises:
        FileNotFoundError: there is none.
        DamagedCheckpoint: all are damaged; of the newest.
        ValueError: the newest whole one is of something else.
    """
    damaged: dict[Path, DamagedCheckpoint] = {}
    news: list[str] = []
    for path in kept_files(folder / LAST):
        if path.is_file():
            try:
                return Found(load_checkpoint(path), path, list(damaged), news)
            except DamagedCheckpoint as error:
                damaged[path] = error
                news.append(str(error))
        elif path.name == LAST:
            news.append(f"{path} is missing")
    if damaged:
        raise next(iter(damaged.values()))
    raise FileNotFoundError(f"no checkpoint at {folder / LAST}; a run writes last.pt and best.pt into its folder")


def set_aside(damaged: list[Path]) -> None:
    """Renames damaged checkpoints, so that they push no whole one out."""
    for path in damaged:
        path.replace(path.with_name(f"{path.name}.damaged"))


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads weights of a checkpoint into a network or method.

    Raises:
        ValueError: weights of another network; names what differs.
    """
    own = module.state_dict()
    known_later = {"steps"}  # a count that checkpoints of earlier versions lack; it then goes on from the module's own
    missing, extra = sorted(set(own) - set(state) - known_later), sorted(set(state) - set(own))
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or shapes:
        found = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
            if names
        ]
        raise ValueError(
            f"{path} holds weights of another network: {', '.join(found)}; give the recipe it was trained with"
        )
    module.load_state_dict(state)


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("samix", "torch", "torchvision", "timm", "accelerate", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


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


def without_labels(recipe: Recipe) -> bool:
    """Whether a recipe is one of learning without labels."""
    return hasattr(recipe, "method")


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
    if classes:
        title, trained = f"{recipe.model}, {classes} classes", f"Trained {how}."
        trained += "" if score is None else f" Top-1 {score:.2f} % on the held-out images."
    else:
        method: Any = getattr(recipe, "method", "")
        title, trained = f"{recipe.model}, features", f"Trained without labels by `{method}` {how}."
        trained += "" if score is None else f" Nearest neighbours: {score:.2f} % of the held-out images."
    return CARD.format(
        title=title,
        trained=trained,
        load=load,
        size=recipe.size,
        parent=folder.parts[-3] if len(folder.parts) > 2 else ".",
        mean=[round(v, 4) for v in data.mean],
        std=[round(v, 4) for v in data.std],
    )


def checkpoint_recipe(state: dict[str, Any]) -> Recipe:
    """The recipe that a checkpoint was written by."""
    return recipe_of(state["recipe"])


def recipe_of(values: dict[str, Any]) -> Recipe:
    """A recipe from its plain values; one of learning without labels where they name a method."""
    from samix.recipes import from_dict

    if "method" not in values:
        return from_dict(values)
    from samix.pretraining import PretrainRecipe

    return from_dict(values, PretrainRecipe())
