"""The playground's page. All frames are computed beforehand, so it needs no server and loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from samix.batch import MixedBatch
from samix.data import denormalize
from samix.viz.webpage import data_uri, render, to_picture

Scale = tuple[Any, Any]  # mean and std by channel, of which a network of grey images has one
COLUMNS = 7  # frames side by side in a sheet
LARGEST = 2_800_000  # bytes of the page
FAMILIES = ("Learned", "Hand-made", "Guided by maps", "By patches", "In hidden layers", "On the label's side")
TRIES = ((144, 78), (128, 72), (112, 66), (96, 60), (80, 50), (64, 40), (48, 30))  # side of an image, quality


@dataclass(frozen=True)
class Sheet:
    """The frames of a mixup on the page."""

    title: str  # its name and a note
    family: str  # heading under which it stands
    mixed: Tensor  # (F, C, H, W) in [0, 1]
    masks: Tensor | None  # (F, 1, H, W), or None
    shares: list[tuple[float, float]]  # of A and B in the label, by frame

    def same_pictures(self, other: Sheet) -> bool:
        """Returns whether no frame differs."""
        return self.mixed.shape == other.mixed.shape and torch.equal(self.mixed, other.mixed)


def new_sheet(title: str, family: str, batches: Sequence[MixedBatch], scale: Scale) -> Sheet:
    """Takes the first pair of each batch."""
    masks = [b.mask[0].float().cpu() for b in batches if b.mask is not None]
    shape = batches[0].images.shape[2:]
    return Sheet(
        title,
        family,
        torch.stack([denormalize(b.images[:1], *scale)[0].float().cpu().clamp(0, 1) for b in batches]),
        torch.stack([mask.expand(1, *shape) for mask in masks]) if len(masks) == len(batches) else None,
        [share_of(b) for b in batches],
    )


def share_of(batch: MixedBatch) -> tuple[float, float]:
    """Returns the shares of A and B in the label of the first row, which may be mixed of more than two."""
    pairs = list(zip(batch.labels[0].tolist(), batch.weights[0].tolist(), strict=True))
    a, b = (sum(weight for label, weight in pairs if label == wanted) for wanted in (0, 1))
    return round(a, 3), round(b, 3)


def playground_page(
    pair: Tensor, names: Sequence[str], lams: Sequence[float], sheets: Sequence[Sheet], left_out: Sequence[str]
) -> str:
    """Returns the page, with images as large as 3 MB allow.

    Args:
        pair: (2, 3, H, W) in [0, 1], images A and B.
        names: of their files.
        lams: of the frames.
        sheets: the frames of each mixup.
        left_out: a line for each mixup that is not shown, with the reason.
    """
    for side, quality in TRIES:
        families, data = cards_of(sheets, side, quality)
        sources = [data_uri(to_picture(one).resize((side, side), Image.Resampling.LANCZOS), 85) for one in pair]
        text = render(
            "playground.html.j2",
            title="Mixup playground",
            images={
                letter: {"source": source, "name": name}
                for letter, source, name in zip("AB", sources, names, strict=True)
            },
            start=len(lams) // 2,
            families=families,
            left_out=left_out,
            facts={"lams": [round(lam, 4) for lam in lams], "columns": COLUMNS, "side": side, "sheets": data},
        )
        if len(text) < LARGEST:
            break
    return text


def cards_of(
    sheets: Sequence[Sheet], side: int, quality: int
) -> tuple[list[tuple[str, list[dict[str, object]]]], list[dict[str, object]]]:
    """Returns the cards by family, and the data of each sheet for the script; equal images are stored once."""
    families, data, stored = [], list[dict[str, object]](), list[tuple[Sheet, int]]()
    for family in FAMILIES:
        cards: list[dict[str, object]] = []
        for sheet in (sheet for sheet in sheets if sheet.family == family):
            number, (name, _, note) = len(data), sheet.title.partition(": ")
            same = next((n for other, n in stored if other.same_pictures(sheet)), None)
            if same is None:
                stored.append((sheet, number))
            cards.append({"name": name, "note": note, "number": number})
            data.append(sheet_data(sheet, same, side, quality))
        if cards:
            families.append((family, cards))
    return families, data


def sheet_data(sheet: Sheet, same: int | None, side: int, quality: int) -> dict[str, object]:
    """Returns images (or the number of a sheet with the same ones), label shares, and the means of the masks."""
    masks = sheet.masks
    return {
        "shares": sheet.shares,
        "means": None if masks is None else [round(float(mask.mean()), 3) for mask in masks],
        "mixed": data_uri(sheet_picture(sheet.mixed, side), quality) if same is None else same,
        "mask": None if masks is None else data_uri(sheet_picture(masks, side), min(quality, 50)),
    }


def sheet_picture(frames: Tensor, side: int) -> Image.Image:
    """Puts all frames into one picture, row by row, ``COLUMNS`` to a row."""
    tiles = [to_picture(frame).resize((side, side), Image.Resampling.LANCZOS) for frame in frames]
    whole = Image.new("RGB", (side * COLUMNS, side * -(-len(tiles) // COLUMNS)))
    for number, tile in enumerate(tiles):
        whole.paste(tile, (side * (number % COLUMNS), side * (number // COLUMNS)))
    return whole
