"""What mixups make of wrong input: timm, torchvision, kornia and samix side by side.

Each input goes through MixUp and CutMix of each library, and what comes back is put in one of four classes:

- right: the result is what the input means (no error was due, or the library can make sense of it);
- error: an error whose words name what is wrong;
- unreadable: an error from the inside, or in words that do not name what the caller gave;
- SILENT: a wrong result without an error, found by comparing with the sources of each mixed row.

    python benchmarks/bad_input.py --out docs/results/bad-input.json --table docs/results/bad-input.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import samix

B, K, SIZE = 6, 7, 12
SEEDS = 8  # a wrong box may be empty in one draw
KINDS = ("MixUp", "CutMix")
WORSE = ("n/a", "right", "error", "unreadable", "SILENT")
INSIDE = (AttributeError, IndexError, KeyError, NameError)  # these speak of the library's code, not of the input

Call = Callable[[str, "Case"], tuple[Any, Any]]


class Outcome(NamedTuple):
    """A class (right, error, unreadable, SILENT, or n/a) and what was said or found."""

    kind: str
    words: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# The inputs.


def plain_images(batch: int = B) -> Tensor:
    """One grey value per image, (i + 1) * 20: the mean of a mixed image tells the shares of its sources."""
    return (torch.arange(batch) + 1.0).mul(20.0).view(-1, 1, 1, 1).repeat(1, 3, SIZE, SIZE)


def ids(batch: int = B) -> Tensor:
    """One class for each image."""
    return torch.arange(batch) % K


@dataclass
class Case:
    """A wrong, or odd, input.

    Args:
        name: as printed.
        names: words of which a readable error has one.
        images: as given to the mixup.
        labels: as given to the mixup.
        truth: (B, K) what the labels mean; None where they mean nothing, so that only an error is right.
        alpha: as given to the mixup.
        lam: share of the own image, where the library lets the caller give it.
        no: libraries that do not take what is wrong here.
        unchanged: the question is whether the input is written to.
        spoilt: the image with a NaN pixel.
        channels_last: channels are the last axis, so a box must not cut through it.
    """

    name: str
    names: tuple[str, ...]
    images: Any = field(default_factory=plain_images)
    labels: Any = field(default_factory=ids)
    truth: Tensor | None = None
    alpha: float = 1.0
    lam: float | None = None
    no: tuple[str, ...] = ()
    unchanged: bool = False
    spoilt: int | None = None
    channels_last: bool = False


def one_hot(labels: Tensor) -> Tensor:
    """(B, K) float32."""
    return F.one_hot(labels.long(), K).float()


def cases() -> list[Case]:
    """All inputs, made anew."""
    about_labels, about_images = ("label", "target", "class"), ("image", "input", "pixel", "shape", "dim")
    types = ("dtype", "byte", "long", "int", "float", "uint8", "type")
    truth, multi = one_hot(ids()), one_hot(ids()) + one_hot((ids() + 2) % K)
    spoilt = plain_images()
    spoilt[2, 1, 5, 5] = torch.nan
    last = plain_images().permute(0, 2, 3, 1)
    not_bool = {"labels": (ids() % 2).bool(), "truth": one_hot(ids() % 2)}
    return [
        Case("one-hot labels in int64 where ids are expected", about_labels, labels=truth.long(), truth=truth),
        Case("class id too large", about_labels, labels=ids() + 3, no=("kornia",)),
        Case("negative class id", about_labels, labels=ids() - 1, no=("kornia",)),
        Case("class ids as floats", (*about_labels, "long"), labels=ids().float(), truth=truth),
        Case("class ids as uint8", (*about_labels, "long"), labels=ids().byte(), truth=truth),
        Case("class ids as bool", (*about_labels, "long"), **not_bool),
        Case("class ids of shape (B, 1)", about_labels, labels=ids().unsqueeze(1), truth=truth),
        Case("one label missing", (*about_labels, "batch"), labels=ids()[:-1]),
        Case("multi-hot float labels", about_labels, labels=multi, truth=multi),
        Case("one-hot labels of another width", about_labels, labels=truth[:, :6], no=("kornia",)),
        Case("images in uint8", (*about_images, *types), images=plain_images().byte(), truth=truth),
        Case("images in int64", (*about_images, *types), images=plain_images().long(), truth=truth),
        Case("images as (B, H, W, C)", about_images, images=last.contiguous(), truth=truth, channels_last=True),
        Case("one image (C, H, W), one label", about_images, images=plain_images()[0], labels=ids(1), truth=truth[:1]),
        Case("NumPy arrays", ("tensor", "numpy", "ndarray"), images=plain_images().numpy(), labels=ids().numpy()),
        Case("empty batch", (*about_images, "batch"), images=plain_images(0), labels=ids(0), truth=truth[:0]),
        Case("batch of one", ("batch",), images=plain_images(1), labels=ids(1), truth=truth[:1]),
        Case("odd batch", ("batch",), images=plain_images(5), labels=ids(5), truth=truth[:5]),
        Case("a NaN pixel", about_images, images=spoilt, truth=truth, spoilt=2),
        Case("input that must stay as it is", (), truth=truth, unchanged=True),
        Case("images not contiguous", (), images=plain_images().transpose(2, 3)[:, :, ::2], truth=truth),
        Case("alpha = -1", ("alpha", "concentration", "beta"), truth=truth, alpha=-1.0),
        Case("alpha = NaN", ("alpha", "concentration", "beta"), alpha=float("nan")),
        Case("alpha = infinity", ("alpha", "concentration", "beta"), truth=truth, alpha=float("inf")),
        Case("lam = 1.5", ("lam", "cut_size"), lam=1.5, no=("timm", "torchvision")),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The libraries. Each gives (images, targets (B, K)).


def by_samix(kind: str, case: Case) -> tuple[Any, Any]:
    """``batch = MixUp()(images, labels)``, and its targets."""
    mix = getattr(samix, kind)(alpha=case.alpha)
    batch = mix(case.images, case.labels, lam=case.lam)
    return batch.images, batch.soft_targets(K)


def by_timm(kind: str, case: Case) -> tuple[Any, Any]:
    """``timm.data.Mixup`` in mode batch, without smoothing."""
    from timm.data.mixup import Mixup

    alphas = (case.alpha, 0.0) if kind == "MixUp" else (0.0, case.alpha)
    return Mixup(*alphas, label_smoothing=0.0, num_classes=K)(case.images, case.labels)  # type: ignore[no-any-return]


def by_torchvision(kind: str, case: Case) -> tuple[Any, Any]:
    """v2.MixUp, v2.CutMix."""
    from torchvision.transforms import v2

    return getattr(v2, kind)(alpha=case.alpha, num_classes=K)(case.images, case.labels)  # type: ignore[no-any-return]


def by_kornia(kind: str, case: Case) -> tuple[Any, Any]:
    """RandomMixUpV2, RandomCutMixV2; their (own label, other label, lam) made into targets."""
    import kornia.augmentation as K_

    keys: dict[str, Any] = {"data_keys": ["input", "class"]}
    if kind == "MixUp":
        given = None if case.lam is None else torch.tensor([case.lam, case.lam])
        images, out = K_.RandomMixUpV2(lambda_val=given, **keys)(case.images, case.labels)
        own = 1.0 - out[:, 2]
    else:
        given = None if case.lam is None else torch.tensor([case.lam, case.lam])
        mix = K_.RandomCutMixV2(beta=case.alpha, cut_size=given, use_correct_lambda=True, **keys)
        images, out = mix(case.images, case.labels)
        out = out[0]
        own = out[:, 2]
    first, second = one_hot(out[:, 0]), one_hot(out[:, 1])
    return images, own.unsqueeze(1) * first + (1.0 - own).unsqueeze(1) * second


LIBRARIES: dict[str, Call] = {
    "timm": by_timm,
    "torchvision": by_torchvision,
    "kornia": by_kornia,
    "samix": by_samix,
}


# ---------------------------------------------------------------------------------------------------------------------
# The verdict.


def judge(call: Call, library: str, kind: str, number: int) -> Outcome:
    """Calls a library with an input, under several seeds, and says what the worst is that came of it."""
    outcomes = [judge_once(call, library, kind, cases()[number], seed) for seed in range(SEEDS)]
    return max(outcomes, key=lambda outcome: WORSE.index(outcome.kind))


def judge_once(call: Call, library: str, kind: str, case: Case, seed: int) -> Outcome:
    """Calls a library and says what came of it."""
    takes_alpha = not (library == "kornia" and kind == "MixUp")
    if library in case.no or (case.alpha != 1.0 and not takes_alpha):
        return Outcome("n/a", "takes no such input")
    before = case.images.clone() if isinstance(case.images, Tensor) else None
    original = case.images
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # timm draws from NumPy's global generator
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images, targets = call(kind, case)
    except Exception as error:  # whatever it is, it is the finding
        words = str(error).strip().split("\n")[0]
        said = f"{type(error).__name__}: {words}"
        named = any(name.lower() in words.lower() for name in case.names)
        return Outcome("error" if named and not isinstance(error, INSIDE) else "unreadable", said)
    if case.unchanged:
        assert before is not None
        same = torch.equal(original, before)
        return Outcome("right") if same else Outcome("SILENT", "the caller's images are overwritten")
    wrong = find_wrong(case, before, images, targets)
    return Outcome("SILENT", wrong) if wrong else Outcome("right")


def find_wrong(case: Case, before: Tensor | None, images: Any, targets: Any) -> str:
    """What is wrong with a result, in words; empty for nothing."""
    if not isinstance(images, Tensor) or not isinstance(targets, Tensor):
        return f"gives {type(images).__name__} and {type(targets).__name__}"
    if case.truth is None or before is None:
        return f"no error; images {tuple(images.shape)}, targets {tuple(targets.shape)}"
    if before.dim() == 3:
        before = before.unsqueeze(0)  # a library may take one image for a batch of one
    if images.shape != before.shape or targets.shape != case.truth.shape:
        return f"images {tuple(images.shape)}, targets {tuple(targets.shape)}, expected {tuple(case.truth.shape)}"
    rows = [i for i in range(len(images)) if not images[i].isnan().any()]
    if not targets.isfinite().all() or len(images) - len(rows) > (0 if case.spoilt is None else 2):
        return "NaN in images or targets"
    if case.channels_last and (images != images[..., :1]).any():
        return "the box is cut across width and channels"
    lost = [i for i in rows if not explained(case, before, images[i], targets[i], i)]
    return f"{len(lost)} of {len(images)} rows do not fit their targets" if lost else ""


def explained(case: Case, before: Tensor, image: Tensor, target: Tensor, row: int) -> bool:
    """Whether a row is a mix of its own image and another, and its target the same mix of their labels."""
    assert case.truth is not None
    values = before.flatten(1).nan_to_num(60.0).double().mean(1)
    tolerance = 1e-3 if image.is_floating_point() else 1.0
    for partner in range(len(before)):
        apart = float(values[row] - values[partner])
        lam = 1.0 if apart == 0.0 else float(image.double().mean() - values[partner]) / apart
        slack = tolerance / max(abs(apart), 1.0)
        expected = lam * case.truth[row] + (1.0 - lam) * case.truth[partner]
        if -slack <= lam <= 1.0 + slack and (target - expected).abs().max() <= max(1e-4, slack):
            return True
    return False


def judge_all(call: Call, library: str, number: int) -> dict[str, Outcome]:
    """The outcome of one input by MixUp and by CutMix."""
    return {kind: judge(call, library, kind, number) for kind in KINDS}


def as_cell(outcomes: dict[str, Outcome]) -> str:
    """Both outcomes in one cell of the table."""
    if len({outcome.kind for outcome in outcomes.values()}) == 1:
        outcomes = {"": outcomes["MixUp"]}
    parts = []
    for kind, outcome in outcomes.items():
        words = outcome.words if len(outcome.words) <= 100 else outcome.words[:97] + "..."
        verdict = f"**{outcome.kind}**" if outcome.kind == "SILENT" else outcome.kind
        parts.append(
            (f"{kind}: " if kind else "") + verdict + (f": {words}" if words and outcome.kind != "n/a" else "")
        )
    return "; ".join(parts).replace("|", "\\|").replace("<", "&lt;")


def markdown(results: dict[str, dict[str, dict[str, Outcome]]], versions: dict[str, str]) -> str:
    """The page docs/results/bad-input.md."""
    lines = [
        "# Wrong input",
        "",
        "Each input goes through MixUp and CutMix of each library. How results are judged is said in, and made by,",
        "`benchmarks/bad_input.py`. *right*: the result is what the input means. *error*: the words name what is",
        "wrong. *unreadable*: an error that does not. **SILENT**: a wrong result and no error. *n/a*: the library does",
        "not take what is wrong here.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        "| input | " + " | ".join(LIBRARIES) + " |",
        "|---|" + "---|" * len(LIBRARIES),
    ]
    for name, row in results.items():
        cells = [as_cell(row[library]) if library in row else "not installed" for library in LIBRARIES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Number of outcomes, MixUp and CutMix counted each:", "", "| | " + " | ".join(LIBRARIES) + " |"]
    lines.append("|---|" + "---|" * len(LIBRARIES))
    for kind in (*WORSE[1:], "n/a"):
        counts = [
            sum(outcome.kind == kind for row in results.values() for outcome in row.get(library, {}).values())
            for library in LIBRARIES
        ]
        lines.append(f"| {kind} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs all, prints the table, writes JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    parser.add_argument("--table", type=Path, default=None, help="Markdown")
    arguments = parser.parse_args()
    present = {name: call for name, call in LIBRARIES.items() if importlib.util.find_spec(name) is not None}
    names = [case.name for case in cases()]
    results = {
        name: {library: judge_all(call, library, number) for library, call in present.items()}
        for number, name in enumerate(names)
    }
    versions = {name: importlib.metadata.version(name) for name in ("torch", *present)}
    page = markdown(results, versions)
    print(page)
    if arguments.table is not None:
        arguments.table.write_text(page, encoding="utf-8")
    if arguments.out is not None:
        plain = {
            name: {library: {k: o._asdict() for k, o in row[library].items()} for library in row}
            for name, row in results.items()
        }
        arguments.out.write_text(json.dumps({"versions": versions, "results": plain}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
