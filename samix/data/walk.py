"""Files and folders: which files are images, which folders are classes, and which are splits.

Hidden files and folders and the caches of other programs are never read. Files that are left out are counted by reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from samix.data.decode import IMAGE_ENDINGS, one_line

TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing")  # first match is taken
CACHES = ("__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
# Endings of images that Pillow, or this build of it, does not read.
_OTHER_IMAGES = (".heic", ".heif", ".avif", ".webp", ".jp2", ".jxl", ".svg", ".psd", ".eps", ".tga", ".ico", ".dng")


def is_hidden(name: str) -> bool:
    """Returns whether a name is hidden or another program's cache, such as `.ipynb_checkpoints` or `__MACOSX`."""
    return name.startswith(".") or name.lower() in CACHES


def image_files(folder: Path, left_out: Counter[str] | None = None) -> Iterator[str]:
    """Yields the names of the images in `folder` and below, relative to it, sorted; counts what it leaves out."""
    left_out = Counter() if left_out is None else left_out
    for entry in _entries(folder):
        if is_hidden(entry.name):
            left_out["hidden"] += 1
        elif _is_folder(entry):
            if entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve()):
                left_out["linking to a folder above"] += 1
            else:
                yield from (f"{entry.name}/{name}" for name in image_files(Path(entry.path), left_out))
        elif reason := _reason_against(entry):
            left_out[reason] += 1
        else:
            yield entry.name


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        raise PermissionError(f"folder {folder} cannot be read; change its permissions, or move it away") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _reason_against(entry: os.DirEntry[str]) -> str:
    """Says why a file is left out; empty if it is an image by its name."""
    if entry.name.lower().endswith(IMAGE_ENDINGS):
        try:
            regular = entry.is_file()
        except OSError:
            regular = False
        return "" if regular else "broken link" if entry.is_symlink() else "not a regular file"
    ending = Path(entry.name).suffix.lower()
    if ending in _OTHER_IMAGES:
        return f"ending in {ending}, which is not read (convert to PNG or JPEG)"
    return f"ending in {one_line(ending)}" if ending else "without an ending"


def class_folders(folder: Path, left_out: Counter[str] | None = None) -> list[str]:
    """Lists the visible folders in `folder`, sorted; counts images that lie beside them."""
    entries = [entry for entry in _entries(folder) if not is_hidden(entry.name)]
    names = [entry.name for entry in entries if _is_folder(entry)]
    images = sum(not _is_folder(entry) and not _reason_against(entry) for entry in entries)
    if not names:
        beside = f"{images} images but " if images else ""
        raise ValueError(
            f"{folder} holds {beside}no class folders; expected one folder of images per class (without labels, for "
            f"`samix pretrain`: images:{folder})"
        )
    if images and left_out is not None:
        left_out["beside the class folders"] += images
    return names


def split_folders(folder: Path) -> tuple[Path | None, Path | None, list[str]]:
    """Finds the folders to train on and to test on, by name in any capitals; and lists all other visible folders.

    Names are `train`, `training`; `val`, `valid`, `validation`, `dev`, `eval`, `evaluation`, `test`, `testing`; each
    also with an ending such as `_images`, `_set` or `_data`. Of several, the first in this order is taken.
    """
    names = [entry.name for entry in _entries(folder) if not is_hidden(entry.name) and _is_folder(entry)]
    train, held_out = (_first_split(folder, names, words) for words in (TRAIN_NAMES, HELD_OUT_NAMES))
    others = [name for name in names if name not in (train, held_out)]
    return folder / train if train else None, folder / held_out if held_out else None, others


def _first_split(folder: Path, names: list[str], words: Sequence[str]) -> str | None:
    ranked = sorted((rank, len(name), name) for name in names if (rank := split_rank(name, words)) is not None)
    if len(ranked) > 1 and ranked[0][2].lower() == ranked[1][2].lower():
        raise ValueError(f"{folder} holds {ranked[0][2]} and {ranked[1][2]}; rename or remove one of them")
    return ranked[0][2] if ranked else None


def split_rank(name: str, words: Sequence[str]) -> int | None:
    """Returns the rank of a folder's name among the names of a split; None for another name."""
    stem = re.sub(r"[ _-]?(images?|imgs?|set|data|split)$", "", name.lower())
    return words.index(stem) if stem in words else None


def is_flat(folder: Path) -> bool:
    """Returns whether a folder holds images and no visible folder."""
    entries = [entry for entry in _entries(folder) if not is_hidden(entry.name)]
    return not any(map(_is_folder, entries)) and any(not _reason_against(entry) for entry in entries)
