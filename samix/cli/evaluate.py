"""``samix evaluate``: metrics of a classifier, or one of six evaluations of a representation."""

from __future__ import annotations

import dataclasses

from samix.cli.evaluate_base import Numbers, Options
from samix.cli.evaluate_frozen import Fewshot, Knn, Linear, Svm
from samix.cli.evaluate_trained import Detection, Finetune
from samix.cli.options import read
from samix.eval.held_out import Evaluate
from samix.runtime.checks import Values

KINDS: dict[str, type[Options]] = {
    "knn": Knn,
    "linear": Linear,
    "svm": Svm,
    "fewshot": Fewshot,
    "finetune": Finetune,
    "detection": Detection,
}


EVALUATE = """samix evaluate PATH                  metrics of a classifier: a checkpoint, or an export's folder
samix evaluate KIND SOURCE ...       a representation: {kinds}

SOURCE is a checkpoint, an export's folder, timm:NAME or timm:NAME:pretrained; `samix evaluate KIND --help` has more.
"""


def evaluate(arguments: list[str]) -> int:
    """Runs ``samix evaluate``."""
    if arguments and arguments[0] in KINDS:
        print(read(KINDS[arguments[0]], arguments[1:], f"samix evaluate {arguments[0]}").run()[1])
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(EVALUATE.format(kinds=" | ".join(KINDS)))
    result = read(Evaluate, arguments, "samix evaluate").run()
    skipped = f"; {result.unreadable} could not be read and were left out" if result.unreadable else ""
    print(f"evaluated {result.images} images of {result.data}{skipped}")
    width = max(map(len, result.metrics))
    print(f"{'':{width}}   top-1 %   top-5 %   NLL nats   ECE %")
    for name, row in result.metrics.items():
        print(f"{name:{width}}   {row['top1']:7.2f}   {row['top5']:7.2f}   {row['nll']:8.4f}   {row['ece']:5.2f}")
    return 0


def evaluate_representation(kind: str, source: str, data: str = "", **options: object) -> tuple[Numbers, str]:
    """Evaluates a backbone.

    Args:
        kind: knn, linear, svm, fewshot, finetune or detection.
        source: see :class:`Options`.
        data: see :class:`Options`; detection, and SVMs on images with several labels, take ``voc07:DIR``.
        options: further fields of that kind.

    Returns:
        Numbers by name, and one line to print.

    Raises:
        FileNotFoundError, ValueError: no such kind, source, data or option.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    known = [f.name for f in dataclasses.fields(KINDS[kind])]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{kind} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    values: Values = options
    return KINDS[kind](source=source, data=data, **values).run()
