"""The playground's page: cards with pictures and masks, a slider, and the script that moves them.

All frames are computed beforehand, so the page needs no server and loads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from samix.viz.frames import FAMILIES, Sheet
from samix.viz.webpage import data_uri, escape, page, to_picture

COLUMNS = 7  # frames side by side in a sheet
LARGEST = 2_800_000  # bytes of the page
TRIES = ((144, 78), (128, 72), (112, 66), (96, 60), (80, 50), (64, 40), (48, 30))  # side of a picture, quality


def playground_page(
    pair: Tensor, names: Sequence[str], lams: Sequence[float], sheets: Sequence[Sheet], left_out: Sequence[str]
) -> str:
    """The page, with pictures as large as 3 MB allow.

    Args:
        pair: (2, 3, H, W) in [0, 1], the own image and its partner.
        names: of their files.
        lams: of the frames.
        sheets: what is shown.
        left_out: what is not, and why.
    """
    for side, quality in TRIES:
        text = compose(pair, names, lams, sheets, left_out, side, quality)
        if len(text) < LARGEST:
            break
    return text


def compose(
    pair: Tensor,
    names: Sequence[str],
    lams: Sequence[float],
    sheets: Sequence[Sheet],
    left_out: Sequence[str],
    side: int,
    quality: int,
) -> str:
    """The page with pictures of that side and quality."""
    sources = [to_picture(one).resize((side, side), Image.Resampling.LANCZOS) for one in pair]
    figures = [
        f'<figure class="source"><img src="{data_uri(picture, 85)}" alt="{kind} picture">'
        f"<figcaption>{kind}<br><span>{escape(name)}</span></figcaption></figure>"
        for picture, kind, name in zip(sources, ("own", "partner"), names, strict=True)
    ]
    start = len(lams) // 2
    bar = (
        f'<div class="bar">{figures[1]}<div class="control"><label for="lam">λ, the share of the own picture: '
        f'<output for="lam" id="told">{lams[start]:.2f}</output></label><input type="range" id="lam" min="0" '
        f'max="{len(lams) - 1}" step="1" value="{start}" aria-valuetext="{lams[start]:.2f}">'
        f'<button type="button" id="play" aria-pressed="false">▶ play</button></div>{figures[0]}</div>'
    )
    cards, data = card_parts(sheets, side, quality)
    notes = "".join(f"<li>{escape(line)}</li>" for line in left_out)
    parts = [
        "<h1>Mixup playground</h1>",
        f'<p class="soft">Two pictures, mixed by {len(sheets)} mixups. Move λ with the pointer or the arrow keys. '
        "Beside each mixed picture stands its mask: white keeps the own pixel, black shows the partner.</p>",
        bar,
        "<noscript><p>This page needs JavaScript to move its pictures.</p></noscript>",
        cards,
        f'<h2>Not shown</h2><ul class="small">{notes}</ul>' if notes else "",
    ]
    facts = {"lams": [round(lam, 4) for lam in lams], "columns": COLUMNS, "side": side, "sheets": data}
    script = f"const facts = {json.dumps(facts, separators=(',', ':'))};\n{SCRIPT}"
    return page("Mixup playground", "\n".join(part for part in parts if part), STYLE, script)


def card_parts(sheets: Sequence[Sheet], side: int, quality: int) -> tuple[str, list[dict[str, Any]]]:
    """The cards by family, and what the script knows of each sheet; equal pictures are stored once."""
    html, data, stored = [], list[dict[str, Any]](), list[tuple[Sheet, int]]()
    for family in FAMILIES:
        members = [sheet for sheet in sheets if sheet.family == family]
        cards = []
        for sheet in members:
            same = next((number for other, number in stored if other.same_pictures(sheet)), None)
            cards.append(card(sheet, len(data), side))
            data.append(sheet_data(sheet, same, side, quality))
            if same is None:
                stored.append((sheet, len(data) - 1))
        if cards:
            html.append(f'<h2>{escape(family)}</h2><div class="cards">{"".join(cards)}</div>')
    return "\n".join(html), data


def card(sheet: Sheet, number: int, side: int) -> str:
    """One mixup: its name, the mixed picture, its mask, and the label."""
    name, _, note = sheet.title.partition(": ")
    note = f'<p class="soft small">{escape(note)}</p>' if note else ""
    canvases = "".join(
        f'<canvas width="{side}" height="{side}" data-n="{number}" data-kind="{kind}" role="img" '
        f'aria-label="{escape(name)}: {what}"></canvas>'
        for kind, what in (("mixed", "mixed picture"), ("mask", "mask"))
    )
    return (
        f'<article class="card"><h3>{escape(name)}</h3><div class="two">{canvases}</div>'
        f'<p class="small label" data-n="{number}"></p>{note}</article>'
    )


def sheet_data(sheet: Sheet, same: int | None, side: int, quality: int) -> dict[str, Any]:
    """What the script needs: pictures (or the number of a sheet with the same ones), label shares, masks' means."""
    masks = None if sheet.masks is None else [round(float(mask.mean()), 3) for mask in sheet.masks]
    found: dict[str, Any] = {"shares": sheet.shares, "means": masks}
    found["mixed"] = data_uri(sheet_picture(sheet.mixed, side), quality) if same is None else same
    found["mask"] = None if sheet.masks is None else data_uri(sheet_picture(sheet.masks, side), min(quality, 50))
    return found


def sheet_picture(frames: Tensor, side: int) -> Image.Image:
    """All frames in one picture, row by row, ``COLUMNS`` to a row."""
    tiles = [to_picture(frame).resize((side, side), Image.Resampling.LANCZOS) for frame in frames]
    whole = Image.new("RGB", (side * COLUMNS, side * -(-len(tiles) // COLUMNS)))
    for number, tile in enumerate(tiles):
        whole.paste(tile, (side * (number % COLUMNS), side * (number // COLUMNS)))
    return whole


STYLE = """
.bar{position:sticky;top:0;z-index:1;display:grid;grid-template-columns:auto 1fr auto;gap:.8rem;align-items:center;
background:var(--paper);border-bottom:1px solid var(--line);padding:.6rem 0;margin:.6rem 0}
.source{margin:0;width:76px;text-align:center}.source img{display:block;width:76px;height:76px;border-radius:6px}
.source figcaption{font-size:.75rem;line-height:1.25}
.source span{display:block;color:var(--soft);overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.control{display:grid;gap:.35rem;min-width:0}.control label{font-size:.9rem}
output{font-weight:700;font-variant-numeric:tabular-nums}
input[type=range]{width:100%;margin:0;height:28px;accent-color:var(--accent)}
button{justify-self:start;font:inherit;font-size:.85rem;color:inherit;background:var(--card);
border:1px solid var(--line);border-radius:99px;padding:.2rem .9rem;cursor:pointer;min-width:6rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,240px),1fr));gap:.8rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem}
.card h3{font-size:1rem;margin:0 0 .4rem}.card p{margin:.3rem 0 0}
.two{display:grid;grid-template-columns:1fr 1fr;gap:4px}
canvas{width:100%;height:auto;aspect-ratio:1;border-radius:4px;border:1px solid var(--line)}
.label{font-variant-numeric:tabular-nums}
@media (max-width:480px){.source,.source img{width:56px}.source img{height:56px}.source span{display:none}
h1{font-size:1.3rem}.cards{grid-template-columns:repeat(auto-fill,minmax(min(100%,158px),1fr));gap:.5rem}
.card{padding:.5rem}.card .soft{display:none}}
"""


SCRIPT = """
const slider = document.getElementById("lam"), told = document.getElementById("told");
const play = document.getElementById("play"), loaded = new Map();
function picture(number, kind) {
  const found = facts.sheets[number][kind];
  if (found === null) return null;
  if (typeof found === "number") return picture(found, kind);
  const key = number + kind;
  if (!loaded.has(key)) {
    const image = new Image();
    image.onload = draw;
    image.src = found;
    loaded.set(key, image);
  }
  return loaded.get(key);
}
let asked = false;
function draw() {  // once for each frame of the screen
  if (asked) return;
  asked = true;
  requestAnimationFrame(paint);
}
function paint() {
  asked = false;
  const at = Number(slider.value), side = facts.side;
  told.textContent = facts.lams[at].toFixed(2);
  slider.setAttribute("aria-valuetext", told.textContent);
  for (const canvas of document.querySelectorAll("canvas")) {
    const image = picture(Number(canvas.dataset.n), canvas.dataset.kind);
    if (image === null) canvas.style.visibility = "hidden";
    else if (image.complete && image.naturalWidth)
      canvas.getContext("2d").drawImage(image, side * (at % facts.columns), side * Math.floor(at / facts.columns),
        side, side, 0, 0, side, side);
  }
  for (const label of document.querySelectorAll(".label")) {
    const sheet = facts.sheets[label.dataset.n], [own, partner] = sheet.shares[at];
    const mean = sheet.means === null ? "" : " · mask " + sheet.means[at].toFixed(2);
    label.textContent = "label " + own.toFixed(2) + " + " + partner.toFixed(2) + mean;
  }
}
slider.addEventListener("input", () => { stop(); draw(); });
let timer = 0, way = 1;
function stop() {
  clearInterval(timer);
  timer = 0;
  play.textContent = "▶ play";
  play.setAttribute("aria-pressed", "false");
}
play.addEventListener("click", () => {
  if (timer) return stop();
  play.textContent = "❚❚ pause";
  play.setAttribute("aria-pressed", "true");
  timer = setInterval(() => {
    const at = Number(slider.value);
    if (at + way < 0 || at + way >= facts.lams.length) way = -way;
    slider.value = at + way;
    draw();
  }, 90);
});
draw();
"""
