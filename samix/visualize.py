"""Tensors into pictures; the only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samix.batch import MixedBatch

Mix = Callable[[float], MixedBatch | None]  # the mix of fixed pairs at one lam


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
) -> None:
    """Paints pairs by lam: for each pair a row of mixed images and, under it, the masks (white keeps the own pixel).

    Args:
        path: the PNG to write.
        images: (N, C, H, W) own images, as the network sees them.
        partners: (N, C, H, W).
        mix: lam -> the batch of the N pairs mixed at lam; its ``mask`` may be None.
        lams: columns, in [0, 1].
        to_pixels: (N, C, H, W) network input -> [0, 1].
        title: above the picture.
    """
    batches = [mix(lam) for lam in lams]
    columns = [
        to_pixels(partners),
        *[to_pixels(b.images) if b else to_pixels(images) for b in batches],
        to_pixels(images),
    ]
    masks = [
        b.mask.expand(len(images), 1, *images.shape[2:]) if b is not None and b.mask is not None else None
        for b in batches
    ]
    scale = 1.15
    fig = figure(scale * len(columns), 2 * scale * len(images) + 0.5)
    axes = fig.subplots(2 * len(images), len(columns), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color="0.6", linewidth=0.6)
    for ax in (*axes[1::2, 0], *axes[1::2, -1]):  # nothing under the sources
        ax.set_axis_off()
    for row in range(len(images)):
        for col, pixels in enumerate(columns):
            draw(axes[2 * row, col], pixels[row].cpu())
        for col, mask in enumerate(masks):
            if mask is None:
                axes[2 * row + 1, col + 1].set_axis_off()
            else:
                draw(axes[2 * row + 1, col + 1], mask[row].cpu())
                axes[2 * row + 1, col + 1].set_title(f"{float(mask[row].mean()):.2f}", fontsize=7, pad=1)
    heads = ["partner", *[f"λ = {lam:g}" for lam in lams], "own"]
    for col, head in enumerate(heads):
        axes[0, col].set_title(head, fontsize=9)
    fig.suptitle(title or "mixed images and masks; under λ, the mask's mean", fontsize=10)
    fig.savefig(path, dpi=110, format="png")


def draw(ax: Any, pixels: Tensor) -> None:
    """One image (C, H, W) in [0, 1] on an axis; one channel is grey."""
    array = pixels.float().clamp(0, 1).permute(1, 2, 0).numpy()
    grey = array.shape[2] == 1
    ax.imshow(array[..., 0] if grey else array, cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")


def plot_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Losses, accuracies and mask statistics of a run by epoch.

    Args:
        path: the PNG to write.
        rows: lines of ``metrics.jsonl``.
    """
    epochs = [row["epoch"] for row in rows]
    known = dict.fromkeys(key for row in rows for key in row)  # not every epoch is evaluated
    panels: list[tuple[str, list[str]]] = [
        ("training loss, nats", [k for k in ("clean", "mixed", "generation") if k in known]),
        ("held-out top-1, %", [k for k in known if k == "top1" or k.startswith("top1_")]),
        ("masks", [k for k in ("mask_std", "mask_error") if k in known]),
    ]
    panels = [(title, keys) for title, keys in panels if keys]
    fig = figure(4.6 * len(panels), 3.4)
    axes: Any = fig.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, keys) in zip(axes, panels, strict=True):
        for key in keys:
            points = [(e, row[key]) for e, row in zip(epochs, rows, strict=True) if key in row]
            ax.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=LABELS.get(key, key))
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, frameon=False)
    fig.savefig(path, dpi=110, format="png")


LABELS = {
    "clean": "clean images",
    "mixed": "mixed images",
    "generation": "Mixer",
    "top1": "reported network",
    "top1_momentum_mixed": "averaged, mixed head",
    "top1_online": "online, clean head",
    "top1_online_mixed": "online, mixed head",
    "mask_std": "spread within a mask",
    "mask_error": "|mean of mask − λ|",
}


@torch.no_grad()
def mask_statistics(batches: Sequence[MixedBatch]) -> dict[str, float]:
    """How masks behave over a sweep of lam.

    Args:
        batches: previews of the same pairs, each at one lam; all have masks.

    Returns:
        ``std``: standard deviation within a mask, averaged; ``correlation`` of the masks' means with lam, 0 where
        either is constant.
    """
    means = torch.cat([b.mask.mean(dim=(1, 2, 3)) for b in batches if b.mask is not None]).double()
    lams = torch.cat([b.lam for b in batches if b.mask is not None]).double()
    spread = torch.cat([b.mask.std(dim=(1, 2, 3)) for b in batches if b.mask is not None])
    vary = len(means) > 1 and bool(means.std() > 0) and bool(lams.std() > 0)
    correlation = float(torch.corrcoef(torch.stack([means, lams]))[0, 1]) if vary else 0.0
    return {"std": float(spread.mean()), "correlation": correlation}
