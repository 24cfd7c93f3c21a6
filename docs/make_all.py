"""Rebuilds every picture, table and page of the documentation that is made of code or of results.

    python docs/make_all.py                   what is old, in order; slow parts only where their inputs changed
    python docs/make_all.py NAME ...          these parts
    python docs/make_all.py --check           says which parts are older than, or differ from, what makes them

``docs/made.json`` holds a hash of the inputs and outputs of each part, from when it was made. A part is *old* if its
inputs changed, and *edited* if its outputs did. ``--check`` exits with 1 for these. Where only the code of samix has
changed since (without docstrings and comments), it says so and exits with 0: the numbers may be the same.
"""

import argparse
import ast
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs/made.json"
BENCHMARKS = "python benchmarks"
WORTH = (
    "python benchmarks/worth_report.py docs/results/worth.csv "
    "--tuning docs/results/finetune-tuning.jsonl --into README.md docs/which-mixup.md docs/results/README.md"
)


@dataclass(frozen=True)
class Part:
    """A part of the documentation that a command makes.

    Args:
        name: of the part.
        command: makes it; empty for what needs hours, data or machines that are not here.
        inputs: patterns of the files that decide it.
        outputs: patterns of the files that it writes.
        code: patterns of the code that it runs.
        needs: what is not in the repository: ``photos``.
        note: how it was made, where there is no command.
    """

    name: str
    command: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    code: tuple[str, ...] = ()
    needs: str = ""
    note: str = ""


def tutorial(name: str) -> Part:
    """The part of a tutorial."""
    made = (f"docs/tutorials/{name}.md", f"docs/tutorials/{name}-*.png")
    inputs = (f"docs/tutorials/{name}.py", "docs/make_tutorials.py")
    return Part(f"tutorial-{name}", f"python docs/make_tutorials.py {name}", inputs, made, ("samix/**/*.py",))


MIXING = ("samix/mixups/*.py", "samix/mixers/*.py", "samix/viz/*.py")
CARDS = ("docs/cards.py", "docs/make_cards.py", "docs/cards.toml", "docs/results/policies-cpu-32.json")
PARTS = (
    Part(
        "step-cost",
        f"{BENCHMARKS}/counted_cost.py --out docs/methods/step-cost.json",
        ("benchmarks/counted_cost.py",),
        ("docs/methods/step-cost.json",),
        ("samix/methods/**/*.py", "samix/mixups/*.py", "samix/mixers/*.py"),
    ),
    Part(
        "cards",
        "python docs/make_cards.py",
        (*CARDS, "docs/methods/step-cost.json"),
        ("docs/methods/*.md", "zensical.toml"),
        ("samix/methods/**/*.py", "samix/mixups/*.py", "samix/mixers/*.py"),
    ),
    Part("api", "python docs/make_api.py", ("docs/make_api.py", "samix/__init__.py"), ("docs/api/*.md",)),
    Part(
        "figures",
        "python docs/make_figures.py",
        ("docs/make_figures.py", "docs/results/finetune-tuning.jsonl"),
        ("docs/images/finetune-tuning.png",),
    ),
    Part(
        "worth",
        WORTH,
        ("benchmarks/worth_report.py", "benchmarks/worth_tables.py", "docs/results/worth*.csv"),
        ("docs/results/worth.md", "docs/results/worth.png"),
    ),
    *(tutorial(name) for name in ("photos", "own_loop", "without_labels", "mixer")),
    Part(
        "method-pictures",
        "python docs/make_pictures.py {photos} --mixer samix/mixers/slim",
        ("docs/make_pictures.py",),
        ("docs/methods/*.png",),
        MIXING,
        "photos",
    ),
    Part(
        "first-picture",
        "python -m samix show mixer:default {photos}/macaw.jpg {photos}/bald_eagle.jpg {photos}/golden_retriever.jpg "
        "{photos}/daisy.jpg --lams 0.3 0.5 0.7 --out docs/images/mixed.png",
        (),
        ("docs/images/mixed.png",),
        MIXING,
        "photos",
    ),
    Part(
        "analyses",
        "",
        (),
        ("docs/images/analysis-*.png",),
        ("samix/analysis/*.py",),
        note="samix analyse NAME RUN of runs of minutes on digits, CIFAR-10 and Tiny-ImageNet",
    ),
    Part(
        "measurements",
        "",
        (),
        ("docs/results/*.json", "docs/results/*.csv", "docs/results/*.jsonl", "docs/results/cifar10-slim.*"),
        note="the commands stand beside each table in docs/results/*.md",
    ),
)


def files(patterns: Iterable[str]) -> Iterator[Path]:
    """The files of several patterns, in order."""
    for pattern in patterns:
        yield from sorted(path for path in ROOT.glob(pattern) if path.is_file())


def digest(patterns: Sequence[str], code_only: bool = False) -> str:
    """A hash of the names and contents of files; with ``code_only`` of Python without docstrings and comments."""
    total = hashlib.blake2b(digest_size=16)
    for path in files(patterns):
        data = path.read_bytes()
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        total.update(bare(data.decode()).encode() if code_only and path.suffix == ".py" else data)
    return total.hexdigest()


def bare(text: str) -> str:
    """Python as a syntax tree without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return ast.dump(tree)


def fingerprint(part: Part) -> dict[str, str]:
    """The hashes of a part as it is now."""
    return {
        "inputs": digest(part.inputs),
        "code": digest(part.code, code_only=True),
        "outputs": digest(part.outputs),
    }


def state(part: Part, record: dict[str, dict[str, str]]) -> str:
    """Says ``current``, ``old``, ``edited``, ``code changed``, or ``never made``."""
    made, now = record.get(part.name), fingerprint(part)
    if made is None:
        return "never made"
    for key, word in (("inputs", "old"), ("outputs", "edited"), ("code", "code changed")):
        if made[key] != now[key]:
            return word
    return "current"


def make(part: Part, photos: str) -> None:
    """Runs the command of a part."""
    words = shlex.split(part.command.format(photos=photos))
    words[0] = sys.executable
    subprocess.run(words, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def main() -> int:
    """Reads the command line; checks or makes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *(part.name for part in PARTS)], metavar="NAME")
    parser.add_argument("--check", action="store_true", help="say what is old, make nothing")
    parser.add_argument("--record", action="store_true", help="take what is there as made, and make nothing")
    parser.add_argument("--photos", default="", help="folder of the photographs that docs/make_pictures.py names")
    given = parser.parse_args()
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    wrong = False
    for part in PARTS:
        if given.names and part.name not in given.names:
            continue
        found = state(part, record)
        makes = bool(part.command) and (bool(given.names) or found != "current")
        if not (given.check or given.record) and makes and (given.photos or not part.needs):
            print(f"{part.name}: {found}; {part.command}", flush=True)
            make(part, given.photos)
            record[part.name] = fingerprint(part)
        elif given.record:
            record[part.name] = fingerprint(part)
        else:
            by_hand = f"; made by {part.note}" if part.note else ""
            print(f"{part.name}: {found}{by_hand}" + ("; give --photos" if part.needs and makes else ""))
            wrong |= found in ("old", "edited", "never made")
    if not given.check:
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return int(given.check and wrong)


if __name__ == "__main__":
    sys.exit(main())
