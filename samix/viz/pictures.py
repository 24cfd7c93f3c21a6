"""Tensors into pictures; the only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from samix.batch import MixedBatch

Mix = Callable[[float], MixedBatch | None]  # the mix of fixed pairs at one lam

PNG_METADATA = {"Software": "samix"}  # by which a picture of ours is known before it is replaced


def figure(width: float, height: float) -> Any:
    """A figure without a window, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def mix_grid(
    path: Path,
    images: Tensor,
    partners: Tensor,
    mix: Mix,
    lams: Sequence[float],
    to_pixels: Callable[[Tensor], Tensor],
    title: str = "",
    guides: tuple[Tensor, Tensor] | None = None,
    dpi: int = 110,
) -> None:
    """Paints pairs by lam: for each pair a row of mixed images and, under it, the masks (white keeps the own pixel).

    Above each mask stands its mean, and the label where that is neither the mean nor lam: the own label's share, and
    the partner's too where the two do not sum to 1. Masks are left out where all are constant.

    Args:
        path: the PNG to write.
        images: (N, C, H, W) own images, as the network sees them.
        partners: (N, C, H, W).
        mix: lam -> the batch of the N pairs mixed at lam; its ``mask`` may be None.
        lams: columns, in [0, 1].
        to_pixels: (N, C, H, W) network input -> [0, 1].
        title: above the picture.
        guides: (N, h, w) maps that guided the mix, of images and of partners, at least 0; painted under them.
        dpi: pixels per inch; an image is somewhat larger than an inch.
    """
    batches = [mix(lam) for lam in lams]
    columns = [
        to_pixels(partners),
        *[to_pixels(b.images) if b else to_pixels(images) for b in batches],
        to_pixels(images),
    ]
    flat = guides is None and all(b is None or b.mask is None or _is_constant(b.mask) for b in batches)
    lines = 1 if flat else 2  # of axes for each pair
    scale = 1.15
    fig = figure(scale * len(columns), (1.0 if flat else 2.12) * scale * len(images) + 0.7)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = fig.subplots(lines * len(images), len(columns), squeeze=False)
    for ax in axes.flat:
        _frame(ax)
    for row in range(len(images)):
        for col, pixels in enumerate(columns):
            draw(axes[lines * row, col], pixels[row].cpu())
        if not flat:
            below = axes[lines * row + 1]
            _draw_guides(below[0], below[-1], guides, row)
            for ax, batch, lam in zip(below[1:-1], batches, lams, strict=True):
                _draw_mask(ax, batch, row, lam)
    heads = ["partner", *[f"λ = {lam:g}" for lam in lams], "own"]
    for col, head in enumerate(heads):
        axes[0, col].set_title(head, fontsize=9)
    fig.suptitle("\n".join([title] * bool(title) + ([] if flat else [_legend(axes)])), fontsize=8)
    fig.savefig(path, dpi=dpi, format="png", metadata=PNG_METADATA)


def _legend(axes: Any) -> str:
    """What the masks and the numbers above them say."""
    known = "white keeps the own pixel; above a mask its mean"
    titles = [ax.get_title() for ax in axes.flat]
    if any("+" in title for title in titles):
        return f"{known} | the shares of own + partner in the label"
    return f"{known} | the own share in the label" if any("|" in title for title in titles) else known


def _is_constant(mask: Tensor) -> bool:
    """Whether each sample's mask (B, 1, H, W) has one value."""
    flat = mask.flatten(1)
    return bool((flat.amax(1) - flat.amin(1) < 1e-6).all())


def _draw_guides(left: Any, right: Any, guides: tuple[Tensor, Tensor] | None, row: int) -> None:
    """Under a pair, the maps that guided its mix, each scaled by its largest value: the partner's left, own right."""
    for ax, guide in zip((right, left), guides or (None, None), strict=True):
        if guide is None:
            ax.set_axis_off()
        else:
            found = guide[row].float().cpu()
            draw(ax, (found / found.max().clamp(min=1e-12)).unsqueeze(0), "magma")
            ax.set_title("map", fontsize=7, pad=1)


def _draw_mask(ax: Any, batch: MixedBatch | None, row: int, lam: float) -> None:
    """A mask, and above it its mean and what the label makes of it."""
    if batch is None or batch.mask is None:
        ax.set_axis_off()
        return
    mask = batch.mask[row].float().cpu().expand(1, *batch.images.shape[2:])
    draw(ax, mask)
    ax.set_title(_shares(float(mask.mean()), batch.weights[row].tolist(), lam), fontsize=7, pad=1)


def _shares(mean: float, weights: list[float], lam: float) -> str:
    """A mask's mean, and the label's shares where they are not told by it or by lam."""
    own, other = weights[:2]
    if abs(own + other - 1.0) > 0.005:
        return f"{mean:.2f} | {own:.2f} + {other:.2f}"
    if min(abs(own - mean), abs(own - lam)) > 0.005:
        return f"{mean:.2f} | {own:.2f}"
    return f"{mean:.2f}"


def source_grid(
    path: Path,
    images: Tensor,
    batches: Sequence[MixedBatch],
    to_pixels: Callable[[Tensor], Tensor],
    title: str = "",
    dpi: int = 110,
) -> None:
    """Paints batches that are mixed of more than two images: the images, numbered, and under them each batch.

    Above each mixed image stand the numbers of its sources and their shares in the label.

    Args:
        path: the PNG to write.
        images: (B, C, H, W), as the network sees them.
        batches: mixed from these images.
        to_pixels: (B, C, H, W) network input -> [0, 1].
        title: above the picture.
        dpi: pixels per inch; an image is somewhat larger than an inch.
    """
    scale = 1.15
    fig = figure(scale * len(images), 1.2 * scale * (1 + len(batches)) + 0.3)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = fig.subplots(1 + len(batches), len(images), squeeze=False)
    heads = [[f"image {number}" for number in range(1, len(images) + 1)]]
    heads += [[_sources(batch, row) for row in range(len(images))] for batch in batches]
    for line, pixels, names in zip(axes, [images, *[b.images for b in batches]], heads, strict=True):
        for ax, one, name in zip(line, to_pixels(pixels).cpu(), names, strict=True):
            _frame(ax)
            draw(ax, one)
            ax.set_title(name, fontsize=6, pad=2)
    fig.suptitle("\n".join([title, "below: mixed batches, above each image the shares of its sources"]), fontsize=8)
    fig.savefig(path, dpi=dpi, format="png", metadata=PNG_METADATA)


def _sources(batch: MixedBatch, row: int) -> str:
    """``number: share`` of each source with a share in a label, the largest first, two to a line."""
    pairs = sorted(zip(batch.weights[row].tolist(), batch.index[row].tolist(), strict=True), reverse=True)
    told = [f"{index + 1}: {weight:.2f}" for weight, index in pairs if weight > 0.005]
    return "\n".join("   ".join(told[at : at + 2]) for at in range(0, len(told), 2))


def _frame(ax: Any) -> None:
    """A thin grey frame and no ticks."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="0.6", linewidth=0.6)


def view_grid(
    path: Path,
    views_q: Tensor,
    views_k: Tensor,
    to_pixels: Callable[[Tensor], Tensor],
    originals: Tensor | None = None,
) -> None:
    """Paints what training without labels sees: a column for each image, its views under one another.

    Args:
        path: the PNG to write.
        views_q: (N, C, H, W), as the network sees them.
        views_k: (N, C, H, W) other views of the same images.
        to_pixels: (N, C, H, W) network input -> [0, 1].
        originals: (N, C, H', W') in [0, 1], painted in a row above; None leaves it out.
    """
    rows = [("image", originals)] if originals is not None else []
    rows += [("view q", to_pixels(views_q)), ("view k", to_pixels(views_k))]
    fig = figure(0.95 * len(views_q) + 0.3, 0.95 * len(rows) + 0.1)
    axes = fig.subplots(len(rows), len(views_q), squeeze=False)
    for (name, pixels), line in zip(rows, axes, strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for ax, image in zip(line, pixels.cpu(), strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(color="0.6", linewidth=0.6)
            draw(ax, image)
    fig.savefig(path, dpi=110, format="png", metadata=PNG_METADATA)


def draw(ax: Any, pixels: Tensor, colours: str = "gray") -> None:
    """One image (C, H, W) in [0, 1] on an axis; one channel is painted by a colour map.

    Images that are painted smaller than they are, or not much larger, are smoothed; small ones keep their pixels.
    """
    array = pixels.float().clamp(0, 1).permute(1, 2, 0).numpy()
    single = array.shape[2] == 1
    ax.imshow(
        array[..., 0] if single else array,
        cmap=colours if single else None,
        vmin=0,
        vmax=1,
        interpolation="antialiased",
    )


def plot_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Losses, accuracies and mask statistics of a run by epoch.

    Args:
        path: the PNG to write.
        rows: lines of ``metrics.jsonl``.
    """
    epochs = [row["epoch"] for row in rows]
    known = dict.fromkeys(key for row in rows for key in row)  # not every epoch is evaluated
    panels: list[tuple[str, list[str]]] = [
        ("training loss, nats", [k for k in ("clean", "nce", "mixed", "generation", "clusters") if k in known]),
        ("held-out top-1, %", [k for k in known if k in ("top1", "knn") or k.startswith("top1_")]),
        ("masks", [k for k in ("mask_std", "mask_error") if k in known]),
        ("keys", [k for k in ("key_std", "changed") if k in known]),
    ]
    panels = [(title, keys) for title, keys in panels if keys] or [("training loss", ["loss"])]
    fig = figure(4.6 * len(panels), 3.4)
    axes: Any = fig.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, keys) in zip(axes, panels, strict=True):
        for key in keys:
            points = [(e, row[key]) for e, row in zip(epochs, rows, strict=True) if key in row]
            ax.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=LABELS.get(key, key))
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, frameon=False)
    fig.savefig(path, dpi=110, format="png", metadata=PNG_METADATA)


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
