"""Readers of data sets in the folder layout in which their authors give them out: folder in, `Splits` out.

Nothing is moved or decoded. Class ids follow the source's own order: `wnids.txt` for Tiny-ImageNet, `classes.txt` for
CUB, the ids of the JSON files for iNaturalist, sorted folder names where nothing else is said.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from samix.data.images import IMAGE_ENDINGS, FileImages, ImageSet, file_names, no_labels
from samix.data.order import stream_seed


class Splits(NamedTuple):
    """What a reader gives back; `class_names[k]` belongs to label k, `labelled` to a train split without labels."""

    train: ImageSet
    val: ImageSet
    class_names: tuple[str, ...]
    labelled: ImageSet | None = None


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder`; hidden ones are no classes.

    Raises:
        ValueError: there is none.
    """
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise ValueError(
            f"{folder} holds no class folders; expected one folder of images per class (without labels, for `samix "
            f"pretrain`: images:{folder})"
        )
    return names


def image_files(folder: Path) -> Iterator[str]:
    """Names of the images in `folder` and below, relative to it, sorted."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.is_dir():
            yield from (f"{entry.name}/{name}" for name in image_files(Path(entry.path)))
        elif entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith("."):
            yield entry.name


def read_classes(folder: Path, classes: Sequence[str], inner: str = "") -> FileImages:
    """Images of folder/CLASS/inner for each class; the label is the class's place in `classes`.

    Raises:
        FileNotFoundError: the folder of a class is missing.
        ValueError: a class has no image.
    """
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = f"{name}/{inner}" if inner else name
        if not (folder / inside).is_dir():
            raise FileNotFoundError(f"{folder / inside} is missing; class {name!r} needs this folder of images")
        found = [f"{inside}/{file}" for file in image_files(folder / inside)]
        if not found:
            raise ValueError(f"class {name!r} is empty: no image in {folder / inside}; add images or remove the folder")
        names += found
        labels += [label] * len(found)
    return FileImages(folder, file_names(names), torch.tensor(labels))


def held_out_folder(folder: Path) -> Path | None:
    """The folder val, or test where there is no val; None without both."""
    return next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)


def read_folder(folder: Path) -> Splits:
    """`folder:DIR`: DIR/train/CLASS/ and DIR/val/CLASS/, or test where there is no val; or DIR/CLASS/ alone."""
    held_out = held_out_folder(folder)
    if held_out is None and not (folder / "train").is_dir():
        return read_undivided(folder)
    if not (folder / "train").is_dir() or held_out is None:
        found = ", ".join(sorted(e.name for e in os.scandir(folder) if e.is_dir())) or "none"
        raise FileNotFoundError(
            f"{folder} must hold the folder train and one of val or test, each with a folder per class; "
            f"folders found: {found}"
        )
    classes = class_folders(folder / "train")
    if (others := class_folders(held_out)) != classes:
        only_train, only_val = sorted({*classes} - {*others})[:5], sorted({*others} - {*classes})[:5]
        raise ValueError(
            f"the classes of {folder / 'train'} and {held_out} differ: only in train {only_train}, "
            f"only in {held_out.name} {only_val}; both need the same class folders"
        )
    return Splits(read_classes(folder / "train", classes), read_classes(held_out, classes), tuple(classes))


def read_undivided(folder: Path) -> Splits:
    """Class folders that nobody has divided: of each class a fifth is held out, at least one image.

    Which ones is a function of the files' names alone, so that images that come or go leave almost all others where
    they are.

    Raises:
        ValueError: no class folders, one that holds folders, or a class has fewer than two images.
    """
    classes = class_folders(folder)
    for name in classes:
        inside = sorted(e.name for e in os.scandir(folder / name) if e.is_dir() and not e.name.startswith("."))
        if inside:  # such as a folder `validation`, which must not become a class
            raise ValueError(
                f"{folder / name} holds folders ({', '.join(inside[:5])}), so it is no class; expected "
                f"{folder}/CLASS/ with images, or {folder}/train/CLASS/ and {folder}/val/CLASS/"
            )
    images = read_classes(folder, classes)
    names = [images.path(row).name for row in range(len(images))]
    train, val = list[int](), list[int]()
    for label, name in enumerate(classes):
        rows = (images.labels == label).nonzero().flatten().tolist()
        if len(rows) < 2:
            raise ValueError(
                f"class {name!r} has one image in {folder / name}; it needs two at least, as one is held out to test on"
            )
        rows.sort(key=lambda row: (stream_seed(names[row]), names[row], row))
        count = max(1, round(len(rows) / 5))
        val += rows[:count]
        train += rows[count:]
    return Splits(images.subset(torch.tensor(sorted(train))), images.subset(torch.tensor(sorted(val))), tuple(classes))


def read_tiny_imagenet(folder: Path) -> Splits:
    """Tiny-ImageNet-200: wnids.txt, train/WNID/images/*, val/images/* and val/val_annotations.txt (file, WNID, box)."""
    folder = _inside(folder, "wnids.txt", "tiny-imagenet-200")
    wnids = _lines(folder / "wnids.txt")
    train = read_classes(folder / "train", wnids, "images")
    ids = {wnid: label for label, wnid in enumerate(wnids)}
    rows = _columns(folder / "val" / "val_annotations.txt", "\t")
    labels = [_known(ids, wnid, folder / "val" / "val_annotations.txt") for _, wnid in rows]
    val = FileImages(folder / "val" / "images", file_names([name for name, _ in rows]), torch.tensor(labels))
    return Splits(train, val, tuple(wnids))


def read_cub(folder: Path) -> Splits:
    """CUB-200-2011: images.txt, image_class_labels.txt and train_test_split.txt joined on the image id; labels - 1."""
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
        targets = torch.tensor([int(labels[i]) - 1 for i in ids], dtype=torch.int64)
        return FileImages(folder / "images", file_names([files[i] for i in ids]), targets)

    return Splits(chosen("1"), chosen("0"), tuple(classes[str(k)] for k in range(1, len(classes) + 1)))


def read_inat2017(folder: Path) -> Splits:
    """INaturalist 2017: train2017.json and val2017.json beside train_val_images/."""
    return _read_inat(folder, "2017")


def read_inat2018(folder: Path) -> Splits:
    """INaturalist 2018: train2018.json and val2018.json beside train_val2018/."""
    return _read_inat(folder, "2018")


def _read_inat(folder: Path, year: str) -> Splits:
    train, val = (_json(folder / f"{split}{year}.json") for split in ("train", "val"))
    names = {c["id"]: str(c["name"]) for c in train["categories"]}
    ids = {category: label for label, category in enumerate(sorted(names))}

    def images(annotations: dict[str, Any], file: str) -> FileImages:
        category = {a["image_id"]: a["category_id"] for a in annotations["annotations"]}
        labels = [_known(ids, category.get(i["id"]), folder / file) for i in annotations["images"]]
        files = file_names([i["file_name"] for i in annotations["images"]])
        return FileImages(folder, files, torch.tensor(labels, dtype=torch.int64))

    # The names of 2018 are hidden behind numbers and may repeat, the ids never do.
    unique = len(set(names.values())) == len(names)
    class_names = tuple(names[i] if unique else str(i) for i in ids)
    return Splits(images(train, f"train{year}.json"), images(val, f"val{year}.json"), class_names)


def read_places205(folder: Path) -> Splits:
    """Places205: images256/LETTER/SCENE/*.jpg with train_places205.csv and val_places205.csv ("path label")."""
    train, val = (read_list(folder / f"{s}_places205.csv", folder / "images256") for s in ("train", "val"))
    names = {int(label): train.path(row).parent for row, label in enumerate(train.labels.tolist())}
    scenes = tuple(names[k].relative_to(train.root).as_posix() for k in sorted(names))
    return Splits(train, val, scenes)


def read_imagenet(folder: Path) -> Splits:
    """ImageNet-1k: train/WNID/* and either val/WNID/* or a flat val/ with the labels beside it; see `_flat_val`."""
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
    val = read_classes(folder / "val", wnids) if foldered else _flat_val(folder, wnids)
    return Splits(read_classes(folder / "train", wnids), val, tuple(wnids))


def _flat_val(folder: Path, wnids: list[str]) -> FileImages:
    """Labels of a flat val folder: val.txt, or the ground truth and meta.mat of the devkit.

    A line of val.txt is a file name and its label: a WNID, or the place of the WNID in sorted order from 0.
    """
    ids = {wnid: label for label, wnid in enumerate(wnids)}
    source, devkit = folder / "val.txt", folder / "ILSVRC2012_devkit_t12" / "data"
    if source.is_file():
        names, tokens = _pairs(source)
        tokens = [wnids[int(t)] if t.isdecimal() and int(t) < len(wnids) else t for t in tokens]
    elif devkit.is_dir():
        from scipy.io import loadmat  # type: ignore[import-untyped]

        source = devkit / "ILSVRC2012_validation_ground_truth.txt"
        synsets = loadmat(devkit / "meta.mat", squeeze_me=True)["synsets"]
        wnid_of = {str(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        names, tokens = list(image_files(folder / "val")), [wnid_of.get(line, line) for line in _lines(source)]
    else:
        raise FileNotFoundError(
            f"{folder / 'val'} is flat and its labels are missing; give {source} (file name and label a line), "
            f"{devkit} (the devkit), or sort the images into WNID folders"
        )
    if len(names) != len(tokens):
        raise ValueError(f"{folder / 'val'} holds {len(names)} images but {source} {len(tokens)} labels")
    labels = torch.tensor([_known(ids, token, source) for token in tokens])
    return FileImages(folder / "val", file_names(names), labels)


def read_lists(place: str) -> Splits:
    """`list:TRAIN.txt,VAL.txt[,DIR[,VALDIR]]`: two list files; their images lie in DIR (VALDIR for the second).

    Without DIR, a name is relative to the folder of its list. The classes are 0 .. the largest label of TRAIN.txt, or
    of VAL.txt where the lines of TRAIN.txt have no labels.
    """
    parts = [Path(part).expanduser() for part in place.split(",")]
    if not 2 <= len(parts) <= 4 or not all(place.split(",")):
        raise ValueError(f"list needs list:TRAIN.txt,VAL.txt[,DIR[,VALDIR]], got list:{place}")
    roots = [parts[2], parts[-1]] if len(parts) > 2 else [parts[0].parent, parts[1].parent]
    train, val = read_list(parts[0], roots[0]), read_list(parts[1], roots[1])
    count = int(train.labels.max()) + 1 or int(val.labels.max()) + 1  # the largest of no labels is -1
    if int(val.labels.max()) >= count:
        raise ValueError(
            f"{parts[1]} has label {int(val.labels.max())}, outside the range 0..{count - 1} of {parts[0]}"
        )
    return Splits(train, val, tuple(str(label) for label in range(count)))


def read_list(path: Path, root: Path) -> FileImages:
    """One image a line: its name relative to `root`, then a space, comma or semicolon, then its label from 0.

    A list whose lines are all names of image files has no labels.

    Raises:
        FileNotFoundError: the list or the folder is missing.
        ValueError: a line of another form, a negative label, or no line at all.
    """
    lines = _lines(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}, the folder of the images of {path}, is missing")
    if all(line.lower().endswith(IMAGE_ENDINGS) for line in lines):
        return FileImages(root, file_names(lines), no_labels(len(lines)))
    names, tokens = _pairs(path)
    bad = next((row for row, token in enumerate(tokens) if not token.isdecimal()), None)
    if bad is not None:
        raise ValueError(f"{path}: the label of {names[bad]!r} must be a whole number from 0, got {tokens[bad]!r}")
    return FileImages(root, file_names(names), torch.tensor([int(token) for token in tokens]))


def _pairs(path: Path) -> tuple[list[str], list[str]]:
    """Names and labels of a list file; a name may hold spaces."""
    names, tokens = [], []
    for line in _lines(path):
        match = re.fullmatch(r"(.*[^\s,;])[\s,;]+([^\s,;]+)", line)
        if match is None:
            raise ValueError(f"{path}: expected lines of 'name label' (space, comma or semicolon), got {line!r}")
        names.append(match[1])
        tokens.append(match[2])
    return names, tokens


def _lines(path: Path) -> list[str]:
    """Lines of a text file without surrounding space; empty ones are left out, but not all may be."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the data set's official layout has it")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; expected one entry a line")
    return lines


def _columns(path: Path, separator: str | None) -> list[tuple[str, str]]:
    """The first two columns of a table; None parts them at space, and the second keeps the rest of the line."""
    rows = []
    for line in _lines(path):
        first, *rest = line.split(separator, -1 if separator else 1)
        if not rest:
            raise ValueError(f"{path}: expected two columns, got {line!r}; unpack the archive again")
        rows.append((first, rest[0]))
    return rows


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the data set's official layout has it")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise ValueError(f"{path} must be an object with images, annotations and categories")
    return content


def _known(ids: dict[Any, int], name: Any, source: Path) -> int:
    if name not in ids:
        raise ValueError(f"{source} has the class {name!r}, which is none of the {len(ids)} classes of the train split")
    return ids[name]


def _inside(folder: Path, marker: str, name: str) -> Path:
    """`folder`, or its sub-folder `name`: whichever holds `marker`."""
    for place in (folder, folder / name):
        if (place / marker).is_file():
            return place
    raise FileNotFoundError(f"no {marker} in {folder} or {folder / name}; give the folder that holds {marker}")
