"""Checkpoints: written whole or not at all, sealed with a hash, and checked when they are read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import torch
from torch import Tensor, nn

from samix.networks.untrusted import check_architecture, check_model_args
from samix.runtime.atomic_files import make_temporary, sync_folder, writing
from samix.runtime.checks import IMAGE_SIDE, Options, Values, check_number
from samix.train.metrics import LossState

FORMAT = 2


class _Progress(LossState):
    """The state that steps change, in every checkpoint."""

    method: dict[str, Tensor]
    extra: dict[str, Tensor] | None
    optimizer: Values
    step: int
    best: float
    rows: list[dict[str, float]]
    seconds: float
    skips: list[int]
    bad_images: list[int]


class Progress(_Progress, total=False):
    """The state that steps change; ``scaler`` in fp16 alone."""

    scaler: Values


class State(Progress):
    """A checkpoint."""

    recipe: Values
    data: Values
    versions: dict[str, str]
    by_class: dict[str, float | None]


PARTS: dict[str, type | tuple[type, ...]] = {  # of every checkpoint
    "recipe": dict,
    "data": dict,
    "method": dict,
    "extra": dict,
    "optimizer": dict,
    "step": int,
    "best": (int, float),
    "rows": list,
    "sums": dict,
    "counts": dict,
    "seconds": (int, float),
    "skips": list,
    "bad_images": list,
}
LAST = "last.pt"  # the newest checkpoint of a run; the ones before are last-1.pt, last-2.pt, ...

# A checkpoint is a zip archive, which ends with a record whose last field is the length of a comment, and the comment.
ZIP_END, ZIP_END_BYTES = b"PK\x05\x06", 22
HASH_BYTES, HASH_TAG = 32, b"samix blake2b "
SEAL_BYTES = len(HASH_TAG) + 2 * HASH_BYTES
BLOCK = 1 << 20
DEPTH = 16  # of nested dictionaries and lists in a checkpoint
PLAIN = (str, int, float, bool, type(None))


class DamagedCheckpoint(ValueError):
    """A file that is not a whole checkpoint: cut, changed, or never one."""


def save_checkpoint(path: Path, state: State, keep: int = 1) -> None:
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
        temporary = make_temporary(path, lambda temporary: write_sealed(temporary, {"format": FORMAT, **state}))
        push_back(path, keep)
        temporary.replace(path)
        sync_folder(path.parent)


def kept_files(path: Path, keep: int = 100) -> list[Path]:
    """Returns ``last.pt``, ``last-1.pt``, ...: the newest first, whether they exist or not."""
    return [path, *(path.with_name(f"{path.stem}-{age}{path.suffix}") for age in range(1, keep))]


def push_back(path: Path, keep: int) -> None:
    """Renames each kept file to the name of the one before it; the oldest goes, the newest keeps its name too."""
    files = kept_files(path, keep)
    for older, newer in reversed(list(zip(files[1:], files, strict=False))):
        if not newer.is_file():
            continue
        if newer != path:
            newer.replace(older)
            continue
        link = path.with_name(f".{path.name}.{os.getpid()}.link.tmp")
        try:
            link.unlink(missing_ok=True)
            os.link(path, link)
        except OSError:  # a file system without links: for a moment there is no file of the newest name
            path.replace(older)
        else:
            link.replace(older)


class WatchedFile:
    """A file to write to that remembers an error of the disk, which torch hides behind another error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes to the file, and remembers its error."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flushes the file."""
        self.file.flush()


def write_sealed(path: Path, state: Mapping[str, object]) -> None:
    """Writes a file of torch with a seal: a comment at its end with the hash of all before it."""
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
    """Returns BLAKE2b of the first ``length`` bytes, in hexadecimal, and leaves the file at their end."""
    file.seek(0)
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    while length > 0:
        block = file.read(min(BLOCK, length))
        if not block:
            break
        digest.update(block)
        length -= len(block)
    return digest.hexdigest().encode()


def check_seal(path: Path) -> None:
    """Compares a checkpoint's bytes with the hash at its end."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - ZIP_END_BYTES - 0xFFFF))
        tail = file.read()
        at = tail.rfind(ZIP_END)
        seal = tail[at + ZIP_END_BYTES :]
        if at < 0:
            raise DamagedCheckpoint(f"{path} is damaged or not a samix checkpoint: it is not a torch archive")
        if not seal.startswith(HASH_TAG):
            raise DamagedCheckpoint(
                f"{path} has no hash: it is damaged, of an older version of samix, or was not written by samix"
            )
        if seal != HASH_TAG + hash_of(file, length - len(seal)):
            raise DamagedCheckpoint(f"{path} is damaged: its bytes are not those that were written (hash)")


def check_archive(path: Path) -> None:
    """Checks that an archive expands to no more than its own bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise DamagedCheckpoint(f"{path} is damaged or not a samix checkpoint: {error}") from None
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise DamagedCheckpoint(f"{path} is compressed; samix writes checkpoints that are not, and reads no others")
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise DamagedCheckpoint(f"{path} is damaged: it would expand to more than its own size")


def load_checkpoint(path: Path) -> State:
    """Reads a checkpoint; nothing in it is executed, and nothing of it is built.

    Raises:
        FileNotFoundError: no such file.
        DamagedCheckpoint: damaged, compressed, or no file of torch.
        ValueError: not a checkpoint of samix, of another version, or with values that none has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; a run writes last.pt and best.pt into its folder")
    check_seal(path)
    check_archive(path)
    try:
        with warnings.catch_warnings():  # of a foreign pickle's protocol: the error below says enough
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file fails in the unpickler in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpoint(f"{path} is damaged or not a samix checkpoint: {reason}") from None
    check_state(state, path)
    return cast(State, state)


def check_state(content: object, path: Path) -> None:
    """Checks format, types and values of the content of a checkpoint."""
    state = check_version(content, path)
    for name, expected in PARTS.items():
        if not isinstance(state.get(name), expected) or isinstance(state[name], bool):
            content = type(state[name]).__name__ if name in state else "missing"
            raise ValueError(f"{path} is not a samix checkpoint: its {name} is {content}")
    for name in ("step", "seconds"):
        if not (math.isfinite(state[name]) and state[name] >= 0):
            raise ValueError(f"{path} is not a samix checkpoint: its {name} is {state[name]}")
    for where, value in leaves(state, ""):
        if isinstance(value, Tensor):
            check_tensor(value, where, path)
        elif type(value) not in PLAIN:
            raise ValueError(f"{path} is not a samix checkpoint: {where} is a {type(value).__name__}")
    check_recipe(state["recipe"], path)
    check_weights_of(state["method"], path)


def check_recipe(recipe: Options, path: Path) -> None:
    """Raises ValueError where a checkpoint's recipe names files for a network to read, or sizes that none has."""
    check_architecture(str(recipe.get("model", "")).partition(".")[0], str(path))
    try:
        arguments = json.loads(recipe.get("model_args", "{}"))
    except (TypeError, ValueError):
        raise ValueError(f"{path} is not a samix checkpoint: its model_args are not JSON") from None
    check_model_args(arguments, str(path))
    check_number(f"size in {path}", recipe.get("size"), **IMAGE_SIDE._asdict(), integer=True)


def check_version(state: object, path: Path) -> Values:
    """Returns the content of a checkpoint; raises ValueError unless it is one in the format that is written now."""
    version = state.get("format") if isinstance(state, dict) else None
    if type(version) is not int:
        raise ValueError(f"{path} is not a samix checkpoint; a run writes last.pt and best.pt into its folder")
    if version < FORMAT:
        raise ValueError(
            f"{path} is of an older version of samix (format {version}, this one reads {FORMAT}); train the run again, "
            "or read it with that version"
        )
    if version > FORMAT:
        raise ValueError(f"{path} has format {version}, this samix reads up to {FORMAT}; update samix")
    return cast(Values, state)


def check_weights_of(weights: Mapping[object, object], path: Path) -> None:
    """Raises ValueError unless these are finite tensors by name."""
    for name, value in weights.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"{path} is not a samix checkpoint: the weight {name!r} is a {type(value).__name__}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{path} holds weights that are not finite (first: {name}); use an earlier checkpoint")


def leaves(value: object, where: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yields the values in nested dictionaries, lists and tuples with their paths, down to 16 levels."""
    if isinstance(value, dict) and depth < DEPTH:
        for key, part in value.items():
            yield from leaves(part, f"{where}/{key}", depth + 1)
    elif isinstance(value, list | tuple) and depth < DEPTH:
        for number, part in enumerate(value):
            yield from leaves(part, f"{where}/{number}", depth + 1)
    else:
        yield where, value


def check_tensor(value: Tensor, where: str, path: Path) -> None:
    """Raises ValueError unless a tensor is plain, and as large in memory as it says: an expanded one would grow."""
    plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and not value.is_quantized
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{path} is not a samix checkpoint: {where} is not a plain tensor")


def newest_of(path: Path) -> Path:
    """Returns ``last.pt`` of a run's folder; any other path as it is."""
    return path / LAST if (path / LAST).is_file() else path


class LastCheckpoint(NamedTuple):
    """The newest whole checkpoint of a run: what it holds, where it is, and which newer files are damaged."""

    state: State
    path: Path
    damaged: list[Path]
    messages: list[str]  # a line for each file that was passed over


def load_last(folder: Path) -> LastCheckpoint:
    """Reads the newest whole checkpoint of a run."""
    damaged: dict[Path, DamagedCheckpoint] = {}
    messages: list[str] = []
    for path in kept_files(folder / LAST):
        if path.is_file():
            try:
                return LastCheckpoint(load_checkpoint(path), path, list(damaged), messages)
            except DamagedCheckpoint as error:
                damaged[path] = error
                messages.append(str(error))
        elif path.name == LAST:
            messages.append(f"{path} is missing")
    if damaged:
        raise next(iter(damaged.values()))
    raise FileNotFoundError(f"no checkpoint at {folder / LAST}; a run writes last.pt and best.pt into its folder")


def set_aside(damaged: list[Path]) -> None:
    """Renames damaged checkpoints, so that they push no whole one out."""
    for path in damaged:
        path.replace(path.with_name(f"{path.name}.damaged"))


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads weights of a checkpoint into a network or method."""
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [k for k in own if k in state and (own[k].shape != state[k].shape or own[k].dtype != state[k].dtype)]
    if missing or extra or shapes:
        differing = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("unknown", extra), ("of another shape or type", shapes))
            if names
        ]
        raise ValueError(
            f"{path} holds weights of another network: {', '.join(differing)}; give the recipe it was trained with"
        )
    module.load_state_dict(state)
