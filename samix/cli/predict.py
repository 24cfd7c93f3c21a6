"""``samix predict``: names the classes of new images; and ``samix export``: an export out of a checkpoint."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import TextIO

from tyro.conf import Positional

from samix.cli.options import read
from samix.data.decode import IMAGE_ENDINGS
from samix.data.replacements import OnBadImage
from samix.data.walk import image_files as images_below
from samix.runtime.console import printable, say, tell
from samix.runtime.typed_options import CheckedOptions, Count

CSV_HEAD = b"file,class,probability"
FEW = 100  # images without a progress bar


@dataclasses.dataclass(frozen=True)
class Predict(CheckedOptions):
    """Classifies images with a trained network; prints one line per image.

    Args:
        source: a run's folder, a checkpoint, an export's folder, a timm name, hf-hub:owner/name, or lite0.
        images: files, folders (every image below them) or patterns such as "new/*.jpg".
        top: number of classes to print for each image.
        csv: file for the predictions as CSV, or - for the terminal.
        batch_size: images in one pass.
        on_bad_image: stop at a file that cannot be read, or skip it.
        device: auto, cpu, cuda, cuda:1 or mps.
        quiet: no progress bar.
    """

    source: Positional[str]
    images: Positional[tuple[str, ...]]
    top: Count = 1
    csv: str = ""
    batch_size: Count = 64
    on_bad_image: OnBadImage = "stop"
    device: str = "auto"
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes the network of a checkpoint as an export: weights, config and card.

    Args:
        checkpoint: last.pt, best.pt, or a run's folder.
        folder: where to write; a new or empty folder.
    """

    checkpoint: Positional[Path]
    folder: Positional[Path]


def predict(arguments: list[str]) -> int:
    """Runs ``samix predict SOURCE FILES|DIR|PATTERN``."""
    options: Predict = read(Predict, arguments, "samix predict")
    files = image_files(options.images)
    check_csv(options.csv)
    from samix.hub.load import load
    from samix.runtime.environment import pick_device

    net = load(options.source, device=pick_device(options.device))
    top = min(options.top, net.config.num_classes or options.top)
    predictions = net.predictions(files, top=top, batch_size=options.batch_size, on_bad_image=options.on_bad_image)
    if not options.quiet and len(files) > FEW and options.csv != "-":
        from tqdm import tqdm

        predictions = iter(tqdm(predictions, total=len(files), unit="image", file=sys.stderr, leave=False))
    count = 0
    if options.csv and options.csv != "-":
        from samix.runtime.atomic_files import write_text

        text = io.StringIO()
        count = write_csv(text, predictions, top)
        write_text(Path(options.csv), text.getvalue())
        say(f"{count} predictions: {options.csv}")
    elif options.csv:
        count = write_csv(sys.stdout, predictions, top)
    else:
        for prediction in predictions:
            count += 1
            classes = zip(prediction.names, prediction.probabilities, strict=True)
            say(f"{prediction.path}: " + ", ".join(f"{name} {value:.1%}" for name, value in classes))
    if count < len(files):
        tell(f"samix: {len(files) - count} of {len(files)} files could not be read and were skipped")
    return 0 if count else 1


def write_csv(file: TextIO, predictions: Iterator[object], top: int) -> int:
    """Writes ``file,class,probability`` and, for more classes, ``class_2,probability_2``, ...; returns the count."""
    from samix.hub.classifier import Prediction

    writer = csv.writer(file, lineterminator="\n")
    numbers = ["", *(f"_{k}" for k in range(2, top + 1))]
    writer.writerow(["file", *(column for n in numbers for column in (f"class{n}", f"probability{n}"))])
    count = 0
    for prediction in predictions:
        assert isinstance(prediction, Prediction)
        pairs = zip(prediction.names, prediction.probabilities, strict=True)
        cells = [cell for name, value in pairs for cell in (printable(name), f"{value:.6f}")]
        writer.writerow([printable(prediction.path), *cells])
        count += 1
    return count


def check_csv(name: str) -> None:
    """Refuses a file for predictions that cannot be written, or that something else than predictions is in.

    Raises:
        FileExistsError, FileNotFoundError, IsADirectoryError: says what is there.
    """
    path = Path(name)
    if name in ("", "-"):
        return
    if path.is_dir():
        raise IsADirectoryError(f"--csv {name} is a folder; give a file, or - for the terminal")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--csv {name}: there is no folder {path.parent}; make it first")
    if path.exists() or path.is_symlink():
        with path.open("rb") as file:
            known = path.is_file() and not path.is_symlink() and file.read(len(CSV_HEAD)) in (CSV_HEAD, b"")
        if not known:
            raise FileExistsError(f"--csv {name} exists and holds no predictions; move it, or give another name")


def image_files(given: Sequence[str]) -> list[str]:
    """Returns the image files that are meant by files, folders and patterns, without repeats, in order."""
    files: dict[str, None] = {}
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = [str(path / image) for image in images_below(path)]
            if not inside:
                raise FileNotFoundError(f"{name} holds no images ({', '.join(IMAGE_ENDINGS[:4])}, ...)")
            files.update(dict.fromkeys(inside))
        elif path.exists():
            files[name] = None
        elif matches := sorted(glob(name, recursive=True)):  # noqa: PTH207  # a pattern may start at the root
            files.update(dict.fromkeys(m for m in matches if Path(m).is_file()))
        else:
            raise FileNotFoundError(f"no file, folder or pattern of files {name!r}; check the path")
    if not files:
        raise FileNotFoundError("no images were named; give files, a folder or a pattern such as 'new/*.jpg'")
    return list(files)


def export(arguments: list[str]) -> int:
    """Runs ``samix export CHECKPOINT FOLDER``."""
    options: Export = read(Export, arguments, "samix export")
    from samix.hub.checkpoints import load_export_of
    from samix.hub.export import describe, write_export
    from samix.recipes.pretrain_recipe import recipe_of
    from samix.train.checkpoint import newest_of

    folder = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} {'is not empty' if folder.is_dir() else 'is a file'}; give a new folder")
    network, config, values = load_export_of(newest_of(options.checkpoint))
    write_export(folder, network, config, values, describe(recipe_of(values), config, None))
    say(f"{folder}: {config.architecture}, {config.num_classes} classes; load it: samix.load({str(folder)!r})")
    return 0
