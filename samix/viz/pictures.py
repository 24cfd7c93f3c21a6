"""Pictures of mixed images, of views, and of a run's course."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from samix.batch import MixedBatch
from samix.viz.figures import COLOURS, bare, figure, label, panels, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mix = Callable[[float], MixedBatch | None]  # the mix of fixed pairs at one lam
ToPixels = Callable[[Tensor], Tensor]  # network input (N, C, H, W) to pixels in [0, 1]
SCALE = 1.15  # inches of an image


def tight(fig: Figure) -> Figure:
    """Puts the axes of a figure close together."""
    engine = fig.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)  # type: ignore[call-arg, unused-ignore]
    return fig


def show_image(ax: Axes, pixels: Tensor, colours: str = "gray") -> None:
    """Draws one image (C, H, W) in [0, 1]; one channel is drawn by a colour map. Small images keep their pixels."""
    array = pixels.float().clamp(0, 1).permute(1, 2, 0).numpy()
    single = array.shape[2] == 1
    cmap = colours if single else None
    ax.imshow(array[..., 0] if single else array, cmap=cmap, vmin=0, vmax=1, interpolation="antialiased")


def mix_grid(
    path: Path,
    images: Tensor,
    partners: Tensor,
    mix: Mix,
    lams: Sequence[float],
    to_pixels: ToPixels,
    title: str = "",
    guides: tuple[Tensor, Tensor] | None = None,
    dpi: int = 110,
) -> None:
    """Writes pairs by lam: for each pair a row of mixed images and, below it, the masks.

    Above each mask stands its mean, and the label where that is neither the mean nor lam: the share of A, and that of B
    too where the two do not sum to 1. Masks are left out where all are constant.

    Args:
        path: the PNG to write.
        images: (N, C, H, W) images A, as the network sees them.
        partners: (N, C, H, W) images B.
        mix: lam -> the batch of the N pairs mixed at lam; its ``mask`` may be None.
        lams: columns, in [0, 1].
        to_pixels: (N, C, H, W) network input -> [0, 1].
        title: above the picture.
        guides: (N, h, w) maps that guided the mix, of A and of B, at least 0; drawn below them.
        dpi: pixels per inch; an image is somewhat larger than an inch.
    """
    batches = [mix(lam) for lam in lams]
    columns = [to_pixels(partners), *[to_pixels(b.images if b else images) for b in batches], to_pixels(images)]
    flat = guides is None and all(b is None or b.mask is None or _is_constant(b.mask) for b in batches)
    lines = 1 if flat else 2  # of axes for each pair
    fig = tight(figure(SCALE * len(columns), (1.0 if flat else 2.12) * SCALE * len(images) + 0.7))
    axes = fig.subplots(lines * len(images), len(columns), squeeze=False)
    for ax in axes.flat:
        bare(ax)
    for row in range(len(images)):
        for ax, pixels in zip(axes[lines * row], columns, strict=True):
            show_image(ax, pixels[row].cpu())
        if not flat:
            below = axes[lines * row + 1]
            for ax, maps in zip((below[-1], below[0]), guides or (None, None), strict=True):
                _draw_guide(ax, None if maps is None else maps[row])
            for ax, batch, lam in zip(below[1:-1], batches, lams, strict=True):
                _draw_mask(ax, batch, row, lam)
    for ax, head in zip(axes[0], ["image B", *[f"λ = {lam:g}" for lam in lams], "image A"], strict=True):
        ax.set_title(head, fontsize=9)
    legend = [] if flat else [_legend([ax.get_title() for ax in axes.flat])]
    fig.suptitle("\n".join([title] * bool(title) + legend), fontsize=8)
    save_png(fig, path, dpi)


def _legend(titles: Sequence[str]) -> str:
    known = "White: pixel from image A. Number: mean of the mask"
    if any("+" in title for title in titles):
        return f"{known} | shares of A + B in the label."
    return f"{known} | share of A in the label." if any("|" in title for title in titles) else f"{known}."


def _is_constant(mask: Tensor) -> bool:
    flat = mask.flatten(1)
    return bool((flat.amax(1) - flat.amin(1) < 1e-6).all())


def _draw_guide(ax: Axes, guide: Tensor | None) -> None:
    """Draws the map that guided a mix, scaled by its largest value."""
    if guide is None:
        ax.set_axis_off()
        return
    values = guide.float().cpu()
    show_image(bare(ax, "map"), (values / values.max().clamp(min=1e-12)).unsqueeze(0), "magma")


def _draw_mask(ax: Axes, batch: MixedBatch | None, row: int, lam: float) -> None:
    """Draws a mask, and above it its mean and the label's shares where neither the mean nor lam gives them."""
    if batch is None or batch.mask is None:
        ax.set_axis_off()
        return
    mask = batch.mask[row].float().cpu().expand(1, *batch.images.shape[2:])
    mean, (a, b) = float(mask.mean()), batch.weights[row, :2].tolist()
    shares = f"{mean:.2f}"
    if abs(a + b - 1.0) > 0.005:
        shares += f" | {a:.2f} + {b:.2f}"
    elif min(abs(a - mean), abs(a - lam)) > 0.005:
        shares += f" | {a:.2f}"
    show_image(bare(ax, shares), mask)


def source_grid(
    path: Path, images: Tensor, batches: Sequence[MixedBatch], to_pixels: ToPixels, title: str = "", dpi: int = 110
) -> None:
    """Writes batches that are mixed of more than two images: the images, numbered, and below them each batch.

    Above each mixed image stand the numbers of its sources and their shares in the label.
    """
    fig = tight(figure(SCALE * len(images), 1.2 * SCALE * (1 + len(batches)) + 0.3))
    axes = fig.subplots(1 + len(batches), len(images), squeeze=False)
    heads = [[f"image {number}" for number in range(1, len(images) + 1)]]
    heads += [[_sources(batch, row) for row in range(len(images))] for batch in batches]
    for line, pixels, names in zip(axes, [images, *[b.images for b in batches]], heads, strict=True):
        for ax, one, name in zip(line, to_pixels(pixels).cpu(), names, strict=True):
            show_image(bare(ax, name, 6), one)
    fig.suptitle("\n".join([title, "below: mixed batches, above each image the shares of its sources"]), fontsize=8)
    save_png(fig, path, dpi)


def _sources(batch: MixedBatch, row: int) -> str:
    """Writes ``number: share`` of each source with a share in a label, the largest first, two to a line."""
    pairs = sorted(zip(batch.weights[row].tolist(), batch.index[row].tolist(), strict=True), reverse=True)
    texts = [f"{index + 1}: {weight:.2f}" for weight, index in pairs if weight > 0.005]
    return "\n".join("   ".join(texts[at : at + 2]) for at in range(0, len(texts), 2))


def view_grid(
    path: Path, views_q: Tensor, views_k: Tensor, to_pixels: ToPixels, originals: Tensor | None = None
) -> None:
    """Writes the views of training without labels: a column for each image, its views below one another.

    Args:
        path: the PNG to write.
        views_q: (N, C, H, W), as the network sees them.
        views_k: (N, C, H, W) other views of the same images.
        to_pixels: (N, C, H, W) network input -> [0, 1].
        originals: (N, C, H', W') in [0, 1], drawn in a row above; None leaves it out.
    """
    rows = [("image", originals)] if originals is not None else []
    rows += [("view q", to_pixels(views_q)), ("view k", to_pixels(views_k))]
    fig = figure(0.95 * len(views_q) + 0.3, 0.95 * len(rows) + 0.1)
    axes = fig.subplots(len(rows), len(views_q), squeeze=False)
    for (name, pixels), line in zip(rows, axes, strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for ax, image in zip(line, pixels.cpu(), strict=True):
            show_image(bare(ax), image)
    save_png(fig, path)


def plot_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes losses, accuracies and mask statistics of a run by epoch."""
    known = dict.fromkeys(key for row in rows for key in row)  # not every epoch is evaluated
    charts: dict[str, list[str]] = {
        "training loss, nats": [k for k in ("clean", "nce", "mixed", "generation", "clusters") if k in known],
        "held-out top-1, %": [k for k in known if k in ("top1", "knn") or k.startswith("top1_")],
        "masks": [k for k in ("mask_std", "mask_error") if k in known],
        "keys": [k for k in ("key_std", "changed") if k in known],
    }
    charts = {title: keys for title, keys in charts.items() if keys} or {"training loss": ["loss"]}
    fig, axes = panels(len(charts), "", 4.6, 3.4)
    for ax, (title, keys) in zip(axes, charts.items(), strict=True):
        for colour, key in zip(itertools.cycle(COLOURS[1:]), keys, strict=False):
            epochs = [row["epoch"] for row in rows if key in row]
            values = [row[key] for row in rows if key in row]
            ax.plot(epochs, values, color=colour, marker="." if len(epochs) < 40 else "", label=LABELS.get(key, key))
        label(ax, title, "epoch")
        if len(rows) == 1:
            ax.set_xlim(rows[0]["epoch"] - 0.5, rows[0]["epoch"] + 0.5)
        ax.locator_params(axis="x", integer=True, nbins=8)
    save_png(fig, path)


LABELS = {
    "clean": "clean images",
    "mixed": "mixed images",
    "nce": "clean views",
    "knn": "nearest neighbours",
    "generation": "Mixer",
    "clusters": "classifier of clusters",
    "key_std": "spread, 0 when collapsed",
    "changed": "share of cluster labels that change",
    "top1": "reported network",
    "top1_ema_mixed_head": "averaged, mixed head",
    "top1_model": "trained, clean head",
    "top1_model_mixed_head": "trained, mixed head",
    "mask_std": "spread within a mask",
    "mask_error": "|mean of mask − λ|",
}
