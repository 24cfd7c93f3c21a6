"""Readers of published data sets in the folder layout in which their authors give them out: folder in, `Splits` out.

Nothing is moved or decoded, and EXIF rotation is not applied, as in the published results. Class ids follow the
source's own order: `wnids.txt` for Tiny-ImageNet, `classes.txt` for CUB, the ids of the JSON files for iNaturalist.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from samix.data.folders import read_classes
from samix.data.images import FileImages, file_names
from samix.data.lists import read_lines, read_list, read_pairs
from samix.data.spec import Splits
from samix.data.walk import class_folders, image_files
from samix.runtime.checks import Values

T = TypeVar("T", bound=Hashable)


def _stored(root: Path, names: Sequence[str], labels: Sequence[int]) -> FileImages:
    """Makes a set of images that are read as stored, without EXIF rotation."""
    return FileImages(root, file_names(names), torch.tensor(labels, dtype=torch.int64), exif_rotation=False)


def read_tiny_imagenet(folder: Path) -> Splits:
    """Reads Tiny-ImageNet-200: wnids.txt, train/WNID/images/, val/images/ and val/val_annotations.txt."""
    folder = _inside(folder, "wnids.txt", "tiny-imagenet-200")
    wnids = read_lines(folder / "wnids.txt")
    train = read_classes(folder / "train", wnids, "images", exif_rotation=False)
    ids = {wnid: label for label, wnid in enumerate(wnids)}
    rows = _columns(folder / "val" / "val_annotations.txt", "\t")
    labels = [_known(ids, wnid, folder / "val" / "val_annotations.txt") for _, wnid in rows]
    val = _stored(folder / "val" / "images", [name for name, _ in rows], labels)
    return Splits(train, val, tuple(wnids))


def read_cub(folder: Path) -> Splits:
    """Reads CUB-200-2011: images.txt, image_class_labels.txt and train_test_split.txt, joined on the image id."""
    folder = _inside(folder, "images.txt", "CUB_200_2011")
    tables = ("classes", "images", "image_class_labels", "train_test_split")
    classes, files, labels, split = (dict(_columns(folder / f"{table}.txt", None)) for table in tables)
    if not files.keys() == labels.keys() == split.keys():
        raise ValueError(
            f"images.txt, image_class_labels.txt and train_test_split.txt in {folder} name different image ids; "
            "unpack the archive again"
        )

    if classes.keys() != {str(k) for k in range(1, len(classes) + 1)}:
        raise ValueError(
            f"{folder / 'classes.txt'} must number its classes 1..{len(classes)}; unpack the archive again"
        )

    def chosen(flag: str) -> FileImages:
        ids = [i for i in files if split[i] == flag]
        return _stored(folder / "images", [files[i] for i in ids], [int(labels[i]) - 1 for i in ids])

    return Splits(chosen("1"), chosen("0"), tuple(classes[str(k)] for k in range(1, len(classes) + 1)))


def read_inat(folder: Path, year: str) -> Splits:
    """Reads iNaturalist: trainYEAR.json and valYEAR.json beside the images."""
    train, val = (_json(folder / f"{split}{year}.json") for split in ("train", "val"))
    names = {c["id"]: str(c["name"]) for c in train["categories"]}
    ids = {category: label for label, category in enumerate(sorted(names))}

    def images(annotations: Values, file: str) -> FileImages:
        category = {a["image_id"]: a["category_id"] for a in annotations["annotations"]}
        labels = [_known(ids, category.get(i["id"]), folder / file) for i in annotations["images"]]
        return _stored(folder, [i["file_name"] for i in annotations["images"]], labels)

    # The names of 2018 are hidden behind numbers and may repeat, the ids never do.
    unique = len(set(names.values())) == len(names)
    class_names = tuple(names[i] if unique else str(i) for i in ids)
    return Splits(images(train, f"train{year}.json"), images(val, f"val{year}.json"), class_names)


def read_places205(folder: Path) -> Splits:
    """Reads Places205: images256/LETTER/SCENE/*.jpg, train_places205.csv and val_places205.csv ("path label")."""
    train, val = (
        replace(read_list(folder / f"{s}_places205.csv", folder / "images256").numbered(), exif_rotation=False)
        for s in ("train", "val")
    )
    names = {int(label): train.path(row).parent for row, label in enumerate(train.labels.tolist())}
    scenes = tuple(names[k].relative_to(train.root).as_posix() for k in sorted(names))
    return Splits(train, val, scenes)


def read_imagenet(folder: Path) -> Splits:
    """Reads ImageNet-1k: train/WNID/ and either val/WNID/ or a flat val/ with the labels beside it; see `_flat_val`."""
    for name in ("train", "val"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder / name} is missing; imagenet:DIR expects DIR/train/WNID and DIR/val")
    wnids = class_folders(folder / "train")
    with os.scandir(folder / "val") as entries:  # closed even though the first folder ends the search
        foldered = any(entry.is_dir() for entry in entries)
    if foldered and (others := class_folders(folder / "val")) != wnids:
        raise ValueError(
            f"the classes of {folder / 'train'} ({len(wnids)}) and {folder / 'val'} ({len(others)}) differ; "
            "both need the same WNID folders"
        )
    train = read_classes(folder / "train", wnids, exif_rotation=False)
    val = read_classes(folder / "val", wnids, exif_rotation=False) if foldered else _flat_val(folder, wnids)
    return Splits(train, val, tuple(wnids))


def _flat_val(folder: Path, wnids: list[str]) -> FileImages:
    """Reads the labels of a flat val folder: val.txt, or the ground truth and meta.mat of the devkit.

    A line of val.txt is a file name and its label: a WNID, or the index of the WNID in sorted order, from 0.
    """
    ids = {wnid: label for label, wnid in enumerate(wnids)}
    source, devkit = folder / "val.txt", folder / "ILSVRC2012_devkit_t12" / "data"
    if source.is_file():
        names, tokens = read_pairs(source)
        tokens = [wnids[int(t)] if t.isdecimal() and int(t) < len(wnids) else t for t in tokens]
    elif devkit.is_dir():
        from scipy.io import loadmat

        source = devkit / "ILSVRC2012_validation_ground_truth.txt"
        synsets = loadmat(devkit / "meta.mat", squeeze_me=True)["synsets"]
        wnid_of = {str(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        names, tokens = list(image_files(folder / "val")), [wnid_of.get(line, line) for line in read_lines(source)]
    else:
        raise FileNotFoundError(
            f"{folder / 'val'} is flat and its labels are missing; give {source} (file name and label a line), "
            f"{devkit} (the devkit), or sort the images into WNID folders"
        )
    if len(names) != len(tokens):
        raise ValueError(f"{folder / 'val'} holds {len(names)} images but {source} {len(tokens)} labels")
    return _stored(folder / "val", names, [_known(ids, token, source) for token in tokens])


def _columns(path: Path, separator: str | None) -> list[tuple[str, str]]:
    """Reads the first two columns of a table; None splits at space, and the second keeps the rest of the line."""
    rows = []
    for line in read_lines(path):
        first, *rest = line.split(separator, -1 if separator else 1)
        if not rest:
            raise ValueError(f"{path}: expected two columns, got {line!r}; unpack the archive again")
        rows.append((first, rest[0]))
    return rows


def _json(path: Path) -> Values:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the data set's official layout has it")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise ValueError(f"{path} must be an object with images, annotations and categories")
    return content


def _known(ids: Mapping[T, int], name: T, source: Path) -> int:
    if name not in ids:
        raise ValueError(f"{source} has the class {name!r}, which is none of the {len(ids)} classes of the train split")
    return ids[name]


def _inside(folder: Path, marker: str, name: str) -> Path:
    """Returns `folder`, or its sub-folder `name`: whichever holds `marker`."""
    for candidate in (folder, folder / name):
        if (candidate / marker).is_file():
            return candidate
    raise FileNotFoundError(f"no {marker} in {folder} or {folder / name}; give the folder that holds {marker}")
