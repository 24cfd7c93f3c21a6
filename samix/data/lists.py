"""Readers of lists of images: `list:TRAIN[,VAL][,DIR[,VALDIR]]`, as text or as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from samix.data.decode import IMAGE_ENDINGS
from samix.data.folders import divide
from samix.data.images import FileImages, file_names, no_labels, none_of
from samix.data.spec import DataLocation, Splits

FIRST = 20  # names of a list, of which one must be a file
# Titles of columns, in the header of a CSV file.
_NAME_TITLES = tuple(
    "image image_id image_name image_path img img_path file file_name filename filepath file_path path id name".split()
)
_LABEL_TITLES = tuple("label labels class class_name class_id category category_id target label_name species".split())


@dataclass(frozen=True)
class ImageList:
    """A list that was read."""

    path: Path
    root: Path
    names: list[str]
    labels: list[str] | None
    notes: tuple[str, ...] = ()

    @property
    def has_numbers(self) -> bool:
        """Whether all labels are whole numbers; without labels, too."""
        return all(label.isdecimal() for label in self.labels or ())

    def numbered(self, classes: Sequence[str] | None = None) -> FileImages:
        """Labels the images by number, or by place in the names of the classes."""
        if self.labels is None:
            labels = no_labels(len(self.names))
        elif classes is not None:
            ids = {name: label for label, name in enumerate(classes)}
            for name, label in zip(self.names, self.labels, strict=True):
                if label not in ids:
                    raise ValueError(f"{self.path}: {name!r} has the label {label!r}, which no training image has")
            labels = torch.tensor([ids[label] for label in self.labels])
        else:
            labels = torch.tensor([self._number(*pair) for pair in zip(self.names, self.labels, strict=True)])
        return FileImages(self.root, file_names(self.names), labels)

    def _number(self, name: str, label: str) -> int:
        if not label.isdecimal():
            raise ValueError(f"{self.path}: the label of {name!r} must be a whole number from 0, got {label!r}")
        if len(label) > 9:
            raise ValueError(f"{self.path}: the label of {name!r}, {label}, is too large; number the classes from 0")
        return int(label)


def read_lists(location: DataLocation) -> Splits:
    """Reads `list:TRAIN[,VAL][,DIR[,VALDIR]]`: one or two lists; their images lie in DIR (VALDIR for the second).

    Without DIR, a name is relative to the folder of its list. Without VAL, a fifth of each class is held out. Labels
    are numbers from 0, or names. The classes are those of TRAIN, or of VAL where TRAIN has no labels.

    Raises:
        FileNotFoundError: a list or folder is missing.
        ValueError: a line of another form, or a label that TRAIN does not have.
    """
    parts = location.place.split(",")
    paths = [Path(part).expanduser() for part in parts]
    lists = 1 if len(paths) == 1 or paths[1].is_dir() else 2
    if not 1 <= len(parts) <= 2 + lists or not all(parts):
        raise ValueError(f"list needs list:TRAIN.txt,VAL.txt[,DIR[,VALDIR]], got list:{location.place}")
    folders = paths[lists:] or [path.parent for path in paths[:lists]]
    train, *held_out = (read_list(paths[k], folders[min(k, len(folders) - 1)]) for k in range(lists))
    val = held_out[0] if held_out else None
    named = train if train.labels is not None or val is None else val
    classes = _classes(named, len(train.names) + (len(val.names) if val else 0))
    numbers = None if named.has_numbers else classes
    images = train.numbered(numbers)
    if val is None and train.labels is None:
        return Splits(images, none_of(images), ())
    if val is None:
        notes = ("without a second list, a fifth of each class is held out by file name", *train.notes)
        return divide(images, [Path(name).name for name in train.names], classes, train.path, notes)
    tested = val.numbered(numbers)
    if int(tested.labels.max()) >= len(classes):
        raise ValueError(
            f"{val.path} has label {int(tested.labels.max())}, outside the range 0..{len(classes) - 1} of {train.path}"
        )
    return Splits(images, tested, classes, notes=train.notes)


def _classes(images: ImageList, count: int) -> tuple[str, ...]:
    """Returns the names of the classes in the order of their labels; all lists together have `count` images."""
    if images.labels is None:
        return ()
    unique = set(images.labels)
    if not images.has_numbers:
        wrong = sorted(label for label in unique if re.fullmatch(r"[-+]\d+", label))
        if wrong:
            name = images.names[images.labels.index(wrong[0])]
            raise ValueError(
                f"{images.path}: the label of {name!r} must be a whole number from 0, or a name as all other labels; "
                f"got {wrong[0]!r}"
            )
        return tuple(sorted(unique))
    if len(unique) > 1 and not (unique & {"0", "00", "000"}):
        lowest = min(unique, key=int)
        raise ValueError(f"{images.path}: no image has label 0, the lowest is {lowest}; number the classes from 0")
    largest = max(unique, key=lambda label: (len(label.lstrip("0")), label))
    if len(largest) > 9 or int(largest) >= count:
        name = images.names[images.labels.index(largest)]
        raise ValueError(
            f"{images.path}: {name!r} has label {largest}, but there are {count} images; number the "
            "classes from 0 without gaps"
        )
    return tuple(map(str, range(int(largest) + 1)))


# One list -------------------------------------------------------------------------------------------------------------


def read_list(path: Path, root: Path) -> ImageList:
    """Reads one list: lines of a name relative to `root`, then a space, comma or semicolon, then a label; or CSV.

    A list whose lines are all names of image files has no labels. A `.csv` or `.tsv` file may have a header, quotes,
    and, where the header names them, further columns. Names may lack their ending if one file fits.
    """
    lines = read_lines(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}, the folder of the images of {path}, is missing")
    labels: list[str] | None
    notes: tuple[str, ...] = ()
    is_table = path.suffix.lower() in (".csv", ".tsv")
    if is_table and (re.search("[,;\t]", lines[0]) or lines[0].strip('"').lower() in _NAME_TITLES):
        names, labels, notes = _read_table(path)
    elif all(map(_is_image, lines)):
        names, labels = lines, None
    else:
        names, labels = read_pairs(path)
    folders: dict[Path, dict[str, list[str]]] = {}
    names = [_with_ending(path, root, name, folders) for name in names]
    if not any((root / name).is_file() for name in names[:FIRST]):
        raise FileNotFoundError(
            f"{path}: {names[0]!r} is not in {root}, nor are the next ones; check the names, or give the folder: "
            f"list:{path},DIR"
        )
    return ImageList(path, root, names, labels, (*notes, *_repeats(path, names, labels)))


def _repeats(path: Path, names: Sequence[str], labels: Sequence[str] | None) -> tuple[str, ...]:
    """Says how many images are listed more than once."""
    labelled: dict[str, str] = {}
    for name, label in zip(names, labels or [""] * len(names), strict=True):
        if labelled.setdefault(name, label) != label:
            raise ValueError(f"{path}: {name!r} has the labels {labelled[name]!r} and {label!r}; keep one of them")
    repeated = len(names) - len(labelled)
    return (f"images listed more than once: {repeated}",) if repeated else ()


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def _read_table(path: Path) -> tuple[list[str], list[str] | None, tuple[str, ...]]:
    """Reads names and labels of a CSV file, and says which columns are not used; labels are None without a column."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        separator = max(",;\t", key=first.count)
        try:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=separator)]
        except csv.Error as error:
            raise ValueError(f"{path} is damaged ({error}); write it again") from None
    rows = [row for row in rows if any(row)]
    titles = [cell.lower() for cell in rows[0]]
    for number, row in enumerate(rows, 1):
        if len(row) != len(titles):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, the first row {len(titles)}; correct the row")
    name_at = next((titles.index(title) for title in _NAME_TITLES if title in titles), None)
    label_at = next((titles.index(title) for title in _LABEL_TITLES if title in titles), None)
    has_header = name_at is not None or label_at is not None
    if len(titles) == 2:
        if not has_header:  # with other titles, or none
            name_at = next((k for k in (0, 1) if _is_image(rows[-1][k])), 0)
            has_header = not _is_image(titles[name_at]) and len(rows) > 1 and _is_image(rows[1][name_at])
        name_at = 1 - label_at if name_at is None and label_at is not None else name_at
        label_at = 1 - name_at if label_at is None and name_at is not None else label_at
    if name_at is None or (label_at is None and len(titles) > 1):
        raise ValueError(
            f"{path} has {len(titles)} columns ({', '.join(rows[0][:6])}); name those to read in a first row: "
            "image and label"
        )
    rows = rows[has_header:]
    if not rows:
        raise ValueError(f"{path} holds a header and no images; add one row an image")
    labels = None if label_at is None else [row[label_at] for row in rows]
    if labels is not None and not all(labels):
        raise ValueError(
            f"{path}: the image {rows[labels.index('')][name_at]!r} has no label; add it or remove the row"
        )
    unused = [title for k, title in enumerate(titles) if title and k not in (name_at, label_at)]
    notes = (f"columns of {path.name} that are not used: {', '.join(unused[:5])}",) if unused and has_header else ()
    return [row[name_at] for row in rows], labels, notes


def _with_ending(path: Path, root: Path, name: str, folders: dict[Path, dict[str, list[str]]]) -> str:
    """Adds the ending of its file to a name that has none; `folders` caches the files of each folder by stem."""
    if _is_image(name):
        return name
    folder, stem = (root / name).parent, Path(name).name
    if folder not in folders:
        folders[folder] = {}
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if _is_image(file.name):
                folders[folder].setdefault(file.stem, []).append(file.name)
    files = folders[folder].get(stem, [])
    if len(files) != 1:
        raise ValueError(
            f"{path}: {name!r} fits {', '.join(files)} in {folder}; write the ending, too"
            if files
            else f"{path}: {name!r} is the name of no image, and no image in {folder} is named so with an ending "
            f"({', '.join(IMAGE_ENDINGS)}); check the names, or give the folder: list:{path},DIR"
        )
    return str(Path(name).parent / files[0])


def read_pairs(path: Path) -> tuple[list[str], list[str]]:
    """Reads names and labels of a list; a name may hold spaces."""
    names, tokens = [], []
    for line in read_lines(path):
        match = re.fullmatch(r"(.*[^\s,;])[\s,;]+([^\s,;]+)", line)
        if match is None or _is_image(match[2]):
            raise ValueError(f"{path}: expected lines of 'name label' (space, comma or semicolon), got {line!r}")
        names.append(match[1])
        tokens.append(match[2])
    return names, tokens


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file without surrounding space; empty ones are left out, but not all may be."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; check the path, or unpack the data set again")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8; save it as one") from None
    if "\0" in text:
        raise ValueError(f"{path} is damaged or no text file: it holds NUL bytes; write it again")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; expected one entry a line")
    return lines
