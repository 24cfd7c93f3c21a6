"""A page on which two pictures are mixed by every mixup at once, with a slider for lambda.

All frames are computed beforehand, so the page needs no server and loads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from torch import Tensor

from samix.batch import MixedBatch
from samix.build import METHODS, MIXER, NAMES
from samix.data import denormalize, load_images, normalize
from samix.engine import short_name
from samix.mixups import GUIDED, HANDMADE, HIDDEN, LABEL_SIDE, MIXUPS, OF_TOKENS
from samix.mixups.frozen import DEFAULT
from samix.report import (
    PHOTO_MEAN,
    PHOTO_STD,
    guide_of,
    load_method,
    mixup_at,
    named_mixup,
    preview_of,
    title_of,
)
from samix.webpage import data_uri, escape, page, to_picture, write_page

COLUMNS = 7  # frames side by side in a sheet
LARGEST = 2_800_000  # bytes of the page
TRIES = ((144, 78), (128, 72), (112, 66), (96, 60), (80, 50), (64, 40), (48, 30))  # side of a picture, quality
Scale = tuple[Any, Any]  # mean and std by channel
PAIR = torch.tensor([1, 0])  # each is the other's partner
FAMILIES = (
    ("Learned", ()),
    ("Hand-made", HANDMADE),
    ("Guided by maps", GUIDED),
    ("By patches", OF_TOKENS),
    ("In hidden layers", HIDDEN),
    ("On the label's side", LABEL_SIDE),
)


@dataclass(frozen=True)
class Playground:
    """Writes a page on which two pictures are mixed by every mixup, side by side with the masks, with a slider.

    Args:
        images: two image files; the first is the own image, the second its partner.
        html: the page to write; a folder gets playground.html.
        also: checkpoints of learned mixups (``runs/NAME/best.pt``, or the run's folder) and trained Mixers
            (``mixer:PATH``, or the Mixer's folder), to be shown beside the others.
        mixups: names of those to show; empty takes all that can be painted.
        frames: steps of lambda from 0 to 1.
        size: side in pixels at which pictures are mixed; checkpoints take their own.
        seed: of a mixup's further draws, such as the place of a box.
    """

    images: Annotated[tuple[Path, ...], "positional"] = ()
    html: Path = Path("playground.html")
    also: tuple[str, ...] = ()
    mixups: tuple[str, ...] = ()
    frames: int = 21
    size: int = 224
    seed: int = 0

    def write(self) -> str:
        """Writes the page and says where it is, and what could not be painted.

        Raises:
            FileNotFoundError, ValueError: not two images, unknown mixups, or options out of range.
        """
        self.check()
        path = self.html if self.html.suffix in (".html", ".htm") else self.html / "playground.html"
        found = [self.sheet(source) for source in self.sources()]
        sheets, left_out = [s for s in found if isinstance(s, Sheet)], [s for s in found if isinstance(s, str)]
        if not sheets:
            raise ValueError(f"nothing to show: {'; '.join(left_out)}")
        pair = load_images(self.images, max(self.size, TRIES[0][0])).float() / 255
        text = playground_page(pair, [path.name for path in self.images], self.lams(), sheets, left_out)
        write_page(path, text)
        told = "".join(f"\nnot shown: {line}" for line in left_out)
        return f"{path}: {len(sheets)} mixups, {self.frames} lambdas, {len(text) / 1e6:.1f} MB{told}"

    def check(self) -> None:
        """Raises ValueError for options that make no page."""
        if len(self.images) != 2:
            raise ValueError(f"the page mixes two images, got {len(self.images)}: samix show --html OUT a.jpg b.jpg")
        if not 2 <= self.frames <= 101:
            raise ValueError(f"frames must be in 2 ... 101, got {self.frames}")
        if self.size < 8:
            raise ValueError(f"size must be at least 8 pixels, got {self.size}")
        unknown = [name for name in self.mixups if name not in MIXUPS]
        if unknown:
            known = ", ".join(MIXUPS)
            trained = " (trained ones are given by --also)" if set(unknown) & set(METHODS) else ""
            raise ValueError(f"unknown mixup {', '.join(unknown)}{trained}; choose of {known}")

    def lams(self) -> list[float]:
        """The lambdas of the frames."""
        return [n / (self.frames - 1) for n in range(self.frames)]

    def sources(self) -> list[str]:
        """What is shown: the trained ones first."""
        default = [f"{MIXER}default"] if DEFAULT.is_dir() and not self.mixups else []
        return [*[find_source(source) for source in self.also], *default, *(self.mixups or MIXUPS)]

    def sheet(self, source: str) -> Sheet | str:
        """All frames of a mixup, or why there are none."""
        try:
            title, family, mix, scale = self.mix_of(source)
            batches = [mix(lam) for lam in self.lams()]
            if any(batch is None for batch in batches):
                return f"{source}: it trains without mixing images"
            return new_sheet(title, family, [b for b in batches if b is not None], scale)
        except (ValueError, RuntimeError, OSError) as error:
            return f"{source}: {error}"

    def mix_of(self, source: str) -> tuple[str, str, Callable[[float], MixedBatch | None], Scale]:
        """Its title, its family, lam -> the mix, and mean and std of the pictures."""
        if source in NAMES or source.startswith(MIXER):
            scale: Scale = (PHOTO_MEAN, PHOTO_STD)
            images, labels = self.pair(self.size, scale)
            mixup = named_mixup(source, scale)
            family = next((name for name, kinds in FAMILIES if type(mixup) in kinds), "Learned")
            mix = mixup_at(mixup, images, labels, PAIR, self.seed, guide_of(mixup, images, labels))
            title = title_of(source, mixup).replace("each column", "each λ")
            if source.startswith(MIXER):
                title = f"{short_name(source)}: {title}"
            return title, family, mix, scale
        method, recipe, described = load_method(Path(source))
        scale = (tuple(described["mean"]), tuple(described["std"]))
        images, labels = self.pair(recipe.size, scale)
        mix_trained = preview_of(method, source, images, labels, PAIR, self.seed, scale)
        return (
            f"{recipe.mixup}: {Path(source).parent.name}, trained on {recipe.data}",
            "Learned",
            mix_trained,
            scale,
        )

    def pair(self, size: int, scale: Scale) -> tuple[Tensor, Tensor]:
        """The two pictures as a network sees them, grey where it was trained on one channel, and labels 0 and 1."""
        images = load_images(self.images, size)
        if len(scale[0]) == 1:
            images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
        return normalize(images, *scale), torch.tensor([0, 1])


def find_source(source: str) -> str:
    """A checkpoint's path, or mixer:PATH, of what ``--also`` names: either of them, or a run's or a Mixer's folder.

    Raises:
        ValueError: it is none of these.
    """
    path = Path(source)
    if source.startswith(MIXER) or path.is_file():
        return f"{MIXER}{source}" if path.suffix == ".safetensors" else source
    for name in ("best.pt", "last.pt"):
        if (path / name).is_file():
            return str(path / name)
    if (path / "model.safetensors").is_file():
        return f"{MIXER}{source}"
    raise ValueError(f"--also {source}: neither a checkpoint, a run's folder, nor a Mixer")


@dataclass(frozen=True)
class Sheet:
    """The frames of a mixup.

    Args:
        title: its name, and what it goes by.
        family: heading under which it stands.
        mixed: (F, C, H, W) in [0, 1].
        masks: (F, 1, H, W), or None.
        shares: of own and partner in the label, by frame.
    """

    title: str
    family: str
    mixed: Tensor
    masks: Tensor | None
    shares: list[tuple[float, float]]

    def same_pictures(self, other: Sheet) -> bool:
        """Whether no frame differs."""
        return self.mixed.shape == other.mixed.shape and torch.equal(self.mixed, other.mixed)


def new_sheet(title: str, family: str, batches: Sequence[MixedBatch], scale: Scale) -> Sheet:
    """The first pair of each batch."""
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
    """What own and partner have in the label of the first row, which may be mixed of more than two."""
    pairs = list(zip(batch.labels[0].tolist(), batch.weights[0].tolist(), strict=True))
    own, partner = (sum(weight for label, weight in pairs if label == wanted) for wanted in (0, 1))
    return round(own, 3), round(partner, 3)


def sheet_picture(frames: Tensor, side: int) -> Image.Image:
    """All frames in one picture, row by row, ``COLUMNS`` to a row."""
    tiles = [to_picture(frame).resize((side, side), Image.Resampling.LANCZOS) for frame in frames]
    whole = Image.new("RGB", (side * COLUMNS, side * -(-len(tiles) // COLUMNS)))
    for number, tile in enumerate(tiles):
        whole.paste(tile, (side * (number % COLUMNS), side * (number // COLUMNS)))
    return whole


# ---------------------------------------------------------------------------------------------------------------------


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
    for family, _ in FAMILIES:
        members = [sheet for sheet in sheets if sheet.family == family]
        cards = []
        for sheet in members:
            same = next((number for other, number in stored if other.same_pictures(sheet)), None)
            cards.append(card(sheet, len(data), side))
            data.append(sheet_data(sheet, same, side, quality))
            if same is None:
                stored.append((replace(sheet), len(data) - 1))
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
