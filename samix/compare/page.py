"""report.html: the results of a comparison as one page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from samix.compare.charts import COLOURS, Curve, Gain, curve_chart, gain_chart
from samix.compare.previews import SHOWN, STRIPS
from samix.compare.results import BASELINE, Found
from samix.compare.tables import (
    ablation_lines,
    about,
    cells_of,
    failures,
    heading,
    rows_of,
    score_name,
    variants,
)
from samix.viz.webpage import data_uri, escape, page

PANELS = (
    ("top1", "Held-out {score}"),
    ("nll", "Held-out NLL, nats"),
    ("ece", "Calibration error, %"),
    ("loss", "Training loss"),
    ("mask_std", "Spread within a mask, in training"),
)
SMALL = 64  # sides up to this are kept pixel by pixel
LARGEST = 2_800_000  # bytes of the page

STYLE = """
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--card)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap;min-width:100%;font-size:.94rem}
th,td{padding:.45rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
tr:last-child th,tr:last-child td{border-bottom:0}
thead th{font-weight:600;font-size:.82rem;color:var(--soft)}
tbody th,thead th:first-child{text-align:left;position:sticky;left:0;background:var(--card)}
tbody th{font-weight:600;max-width:11rem;overflow:hidden;text-overflow:ellipsis}
.dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;background:var(--c);margin-right:.5em}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1rem}
figure{margin:0;padding:.8rem;border:1px solid var(--line);border-radius:8px;background:var(--card)}
figcaption{font-weight:600;font-size:.9rem;margin-bottom:.3rem}
svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}
svg text{fill:var(--soft)}svg .own{fill:var(--ink);font-size:12px;font-weight:600}
.grid{stroke:var(--line);fill:none}.zero{stroke:var(--soft);fill:none;stroke-dasharray:3 3}
.last{fill:var(--soft);opacity:.1}
.line{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round;stroke-linecap:round}
.band{fill:var(--c);opacity:.16}.s circle{fill:var(--c)}
.published{fill:none;stroke:var(--soft);stroke-width:1.5}
.s{transition:opacity .15s}.dim{opacity:.1}
.gains{max-width:640px}
.keys{display:flex;flex-wrap:wrap;gap:.4rem;margin:.2rem 0 .8rem}
.keys button{font:inherit;font-size:.9rem;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:99px;padding:.25rem .8rem;cursor:pointer}
.keys button[aria-pressed=true]{border-color:var(--c);box-shadow:inset 0 0 0 1px var(--c)}
.strips{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:.4rem 1rem}
.strips img{display:block;width:100%;height:auto;border-radius:4px}.crisp{image-rendering:pixelated}
.lams{display:grid;grid-template-columns:repeat(7,1fr);text-align:center;font-size:.75rem;color:var(--soft)}
.method{margin:0 0 1rem}.method h3{font-size:.95rem;margin:.6rem 0 .3rem}
.rows{display:grid;grid-template-columns:auto 1fr;gap:.2rem .8rem}.rows dd{margin:0;overflow-wrap:anywhere}
.failed{border-left:4px solid var(--c2);padding:.2rem .8rem;background:var(--card);overflow-wrap:anywhere}
"""

SCRIPT = """
const keys = [...document.querySelectorAll(".keys button")], on = new Set();
function paint(only) {
  const shown = only === undefined ? on : new Set([only]);
  for (const g of document.querySelectorAll(".s"))
    g.classList.toggle("dim", shown.size > 0 && !shown.has(g.dataset.s));
}
for (const key of keys) {
  key.addEventListener("click", () => {
    on.has(key.dataset.s) ? on.delete(key.dataset.s) : on.add(key.dataset.s);
    key.setAttribute("aria-pressed", on.has(key.dataset.s));
    paint();
  });
}
for (const row of document.querySelectorAll("tbody tr[data-s]")) {
  row.addEventListener("pointerenter", () => paint(row.dataset.s));
  row.addEventListener("pointerleave", () => paint());
}
"""


def report_page(results: Found, command: str) -> str:
    """The page, below 3 MB: where there are many pictures they get coarser."""
    for quality in (82, 60, 35, 0):
        text = compose(results, command, quality)
        if len(text) < LARGEST:
            break
    return text


def compose(results: Found, command: str, quality: int) -> str:
    """The page with pictures of a quality; 0 leaves them out."""
    styles = number_styles(list(results["mixups"]))
    runs = sum(len(found["runs"]) for found in results["mixups"].values())
    parts = [
        f'<p class="soft small">samix compare</p><h1>{escape(title_of(results))}</h1>',
        f"<p>{escape(heading(results))}.</p>",
        f'<p class="soft small">{runs} runs on {escape(results["device"] or "no device yet")}.</p>',
        failed_part(results),
        "".join(f'<p class="small">{escape(line)}</p>' for line in ablation_lines(results)),
        gain_part(results, styles),
        table_part(results, styles),
        curves_part(results, styles),
        pictures_part(results, quality) if quality else "",
        "<h2>How it was measured</h2>",
        "".join(f"<p>{escape(line)}</p>" for line in about(results)),
        f"<p>Command: <code>{escape(command)}</code></p>",
        f'<p class="soft small">{escape(", ".join(f"{k} {v}" for k, v in results["versions"].items()))}</p>',
    ]
    return page(title_of(results), "\n".join(part for part in parts if part), STYLE, SCRIPT)


def title_of(results: Found) -> str:
    """What is compared, in a few words."""
    seeds = results["seeds"]
    return f"{len(results['mixups'])} mixups on {results['recipe']}, {seeds} seed{'s' if seeds > 1 else ''}"


def number_styles(labels: Sequence[str]) -> dict[str, int]:
    """A colour for each: grey for the baseline, the others in turn, dashed from the second round on."""
    others = [label for label in labels if label != BASELINE]
    per_round = COLOURS - 1
    told = {label: (n // per_round) * COLOURS + n % per_round + 1 for n, label in enumerate(others)}
    return {**told, BASELINE: 0}


def failed_part(results: Found) -> str:
    """What went wrong, if anything."""
    lines = failures(results)
    if not lines:
        return ""
    return '<div class="failed"><strong>Failed</strong>' + "".join(f"<p>{escape(x)}</p>" for x in lines) + "</div>"


def gain_part(results: Found, styles: Mapping[str, int]) -> str:
    """The chart of gains over vanilla."""
    base = results["mixups"].get(BASELINE, {}).get("published")
    gains = [
        Gain(
            label,
            styles[label],
            found["gain"]["mean"],
            None if found["gain"]["high"] is None else found["gain"]["high"] - found["gain"]["mean"],
            None if base is None or found["published"] is None else found["published"] - base,
        )
        for label, found in results["mixups"].items()
        if found["gain"] is not None
    ]
    if not gains:
        return ""
    notes = ["bars: 95 % intervals, paired by seed"] if any(g.error is not None for g in gains) else []
    notes += ["◇: published gain"] if any(g.published is not None for g in gains) else []
    told = f' <span class="soft small">({"; ".join(notes)})</span>' if notes else ""
    return (
        f'<h2>Gain over vanilla</h2><figure class="gains"><figcaption>{results["score"]}, points'
        f"{told}</figcaption>{gain_chart(gains)}</figure>"
    )


def table_part(results: Found, styles: Mapping[str, int]) -> str:
    """The table; wide ones scroll, with the names in place."""
    columns = cells_of(results)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name, _ in columns)
    lines = []
    for row in rows_of(columns):
        style = styles[row[0]]
        dot = f'<span class="dot" style="--c:var(--c{style % COLOURS})"></span>'
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        name = escape(row[0])
        lines.append(f'<tr data-s="{style}"><th scope="row" title="{name}">{dot}{name}</th>{cells}</tr>')
    return (
        '<h2>Table</h2><div class="wide" tabindex="0" role="region" aria-label="Table of results"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{variants_part(results)}"
    )


def variants_part(results: Found) -> str:
    """What the rows with names of their own are."""
    rows = [f"<dt>{escape(label)}</dt><dd><code>{escape(spec)}</code></dd>" for label, spec in variants(results)]
    return f'<dl class="rows small">{"".join(rows)}</dl>' if rows else ""


def curves_part(results: Found, styles: Mapping[str, int]) -> str:
    """Learning curves: the mean over seeds, in a band from the lowest to the highest seed."""
    panels = []
    for name, panel in PANELS:
        title = panel.format(score=score_name(results))
        if name == "loss" and results["score"] != "kNN":  # losses of different mixups are of different things
            continue
        curves = [c for label, found in results["mixups"].items() if (c := curve_of(label, found, styles, name))]
        if curves:
            last = results["median_of_last"] if name not in ("mask_std", "loss") else 0
            panels.append(f"<figure><figcaption>{title}</figcaption>{curve_chart(curves, title, last)}</figure>")
    if not panels:
        return ""
    keys = "".join(
        f'<button type="button" aria-pressed="false" data-s="{styles[label]}" '
        f'style="--c:var(--c{styles[label] % COLOURS})"><span class="dot"></span>{escape(label)}</button>'
        for label in results["mixups"]
    )
    return (
        '<h2>Learning curves</h2><p class="soft small">Line: mean over seeds. Band: lowest to highest seed. Grey: the '
        "epochs of the median. The axes fit the later two thirds; what is below is cut. Press a name to see it "
        f'alone.</p><div class="keys">{keys}</div><div class="panels">{"".join(panels)}</div>'
    )


def curve_of(label: str, found: Found, styles: Mapping[str, int], name: str) -> Curve | None:
    """The curve of a mixup over those epochs that all its runs have; None where it is not known."""
    known = [run["curves"] for run in found["runs"] if name in run["curves"]]
    runs = [dict(zip(curve["epoch"], curve[name], strict=True)) for curve in known]
    if not runs:
        return None
    epochs = sorted(set.intersection(*[set(run) for run in runs]))
    values = [[run[epoch] for run in runs] for epoch in epochs]
    means = [statistics.fmean(v) for v in values]
    return Curve(label, styles[label], epochs, means, [min(v) for v in values], [max(v) for v in values])


def pictures_part(results: Found, quality: int) -> str:
    """A row of mixed pictures for each mixup, with the masks under them."""
    heads = ["partner", *[f"λ {lam:g}" for lam in SHOWN], "own"]
    lams = '<div class="lams">' + "".join(f"<span>{head}</span>" for head in heads) + "</div>"
    methods = []
    for label, found in results["mixups"].items():
        folder = Path(found["runs"][0]["folder"]) if found["runs"] else None
        strips = [folder / name for name in STRIPS if (folder / name).is_file()] if folder else []
        pictures = [f"<div>{lams}{image_of(path, label, quality)}</div>" for path in strips]
        if pictures:
            shown = "".join(pictures)
            methods.append(f'<div class="method"><h3>{escape(label)}</h3><div class="strips">{shown}</div></div>')
    if not methods:
        return ""
    return (
        '<h2>Mixed pictures</h2><p class="soft small">Held-out pairs, mixed at five λ by the method at the end of its '
        "first seed. λ is the share of the own picture, on the right. Under them the masks: white keeps the own "
        f"pixel.</p>{''.join(methods)}"
    )


def image_of(path: Path, label: str, quality: int) -> str:
    """A strip as an ``img``; small ones keep their pixels."""
    with Image.open(path, formats=("PNG",)) as opened:
        picture = opened.convert("RGBA")
    small = picture.width // (len(SHOWN) + 2) <= SMALL
    source = data_uri(picture, "lossless" if small else quality)
    kind = ' class="crisp"' if small else ""
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img{kind} {size} alt="{escape(label)}: a pair mixed at five lambdas" src="{source}">'
