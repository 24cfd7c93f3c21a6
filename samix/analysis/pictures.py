"""Results of the analyses as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samix.analysis.calibration import Calibration
from samix.analysis.cam import MixedCam, enlarge
from samix.analysis.cost import Cost, StepCost
from samix.analysis.information import InformationCurve
from samix.analysis.landscape import MixingLine, WeightLine
from samix.analysis.localisation import Localisation, region_box, scaled
from samix.analysis.masks import MaskHistory, MaskNumbers
from samix.analysis.occlusion import OcclusionCurve
from samix.analysis.prediction import LambdaCurve, chance
from samix.analysis.robustness import AttackCurve, CorruptionTable
from samix.analysis.tsne import FeatureMap
from samix.viz.pictures import draw, figure

OWN, PARTNER, THIRD, GUESS = "#1b6ca8", "#d1495b", "#3a7d44", "0.55"  # one colour for one thing, in all pictures
DPI = 110


def panels(count: int, title: str, width: float = 4.6, height: float = 3.5) -> tuple[Any, list[Any]]:
    """A figure with panels side by side and a title."""
    fig = figure(width * count, height)
    axes = list(fig.subplots(1, count, squeeze=False)[0])
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle(title, fontsize=10)
    return fig, axes


def label(ax: Any, title: str, x: str, y: str = "") -> None:
    """Names of a panel and its axes, and a legend if anything is labelled."""
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False)


def save(fig: Any, path: Path) -> None:
    """Writes the PNG."""
    fig.savefig(path, dpi=DPI, format="png")


def draw_lambda(path: Path, found: LambdaCurve, num_classes: int, title: str) -> None:
    """Who is predicted, and how sure, by lambda."""
    fig, (left, middle, right) = panels(3, title, 3.7)
    either, both = chance(num_classes)
    left.plot(found.lams, found.either, color=OWN, marker=".", label="best is a or b")
    left.plot(found.lams, found.both, color=PARTNER, marker=".", label="two best are a and b")
    left.axhline(either, color=OWN, ls=":", lw=1)
    left.axhline(both, color=PARTNER, ls=":", lw=1)
    left.set_ylim(-3, 103)
    label(left, "who is predicted (dotted: chance)", "λ, share of a", "% of mixed images")
    ideal = [1.0 - lam for lam in found.lams]
    middle.plot(found.lams, found.own, color=OWN, marker=".", label="p(a)")
    middle.plot(found.lams, found.partner, color=PARTNER, marker=".", label="p(b)")
    middle.plot(found.lams, found.lams, color=OWN, ls=":", lw=1)
    middle.plot(found.lams, ideal, color=PARTNER, ls=":", lw=1)
    label(middle, "probabilities (dotted: the label)", "λ, share of a")
    right.plot(found.lams, found.share, color=THIRD, marker=".", label="predicted")
    right.plot(found.lams, found.given, color=GUESS, ls=":", label="in the label")
    label(right, f"share of a: p(a) / (p(a) + p(b)), off by {found.error:.3f}", "λ, share of a")
    for ax in (middle, right):
        ax.set_ylim(-0.03, 1.03)
    save(fig, path)


def draw_calibration(path: Path, found: Calibration, title: str) -> None:
    """Reliability diagram, and how many images each bin has."""
    fig, (left, right) = panels(2, title, 3.9, 3.9)
    width = found.edges[1] - found.edges[0]
    filled = [n for n, count in enumerate(found.bin_count) if count]
    middles = [found.edges[n] + width / 2 for n in filled]
    accuracies, confidences = ([values[n] for n in filled] for values in (found.bin_accuracy, found.bin_confidence))
    gaps = [c - a for a, c in zip(accuracies, confidences, strict=True)]
    left.bar(middles, accuracies, width * 0.94, color=OWN, label="accuracy")
    left.bar(
        middles,
        gaps,
        width * 0.94,
        accuracies,
        color=PARTNER,
        alpha=0.35,
        edgecolor=PARTNER,
        hatch="//",
        label="confidence − accuracy",
    )
    left.plot([0, 1], [0, 1], color=GUESS, ls="--", lw=1)
    left.set(xlim=(0, 1), ylim=(0, 1))
    label(left, f"reliability: ECE {found.ece:.2f} %", "confidence")
    right.bar(middles, [found.bin_count[n] for n in filled], width * 0.94, color=GUESS)
    top = 1.4 * max(found.bin_count)
    lines = (("accuracy", found.accuracy, OWN), ("mean confidence", found.confidence, PARTNER))
    for name, value, colour in lines:
        right.axvline(value / 100.0, ymax=0.76, color=colour, label=f"{name} {value:.1f} %")
    right.set(xlim=(0, 1), ylim=(0, top))
    label(right, f"overconfidence {found.overconfidence:+.2f} %", "confidence", "images")
    right.legend(fontsize=8, frameon=False, loc="upper left")
    save(fig, path)


def draw_robustness(
    path: Path, attack: AttackCurve, descent: AttackCurve | None, table: CorruptionTable, num_classes: int, title: str
) -> None:
    """Accuracy under FGSM and PGD, and by corruption and severity."""
    fig = figure(9.6, 4.6)
    left, right = fig.subplots(1, 2, width_ratios=(1, 1.35))
    left.grid(alpha=0.3)
    left.spines[["top", "right"]].set_visible(False)
    left.plot([255.0 * e for e in attack.epsilons], attack.accuracy, color=PARTNER, marker="o", ms=4, label="FGSM")
    if descent:
        left.plot([255.0 * e for e in descent.epsilons], descent.accuracy, color=OWN, marker="s", ms=4, label="PGD")
    left.axhline(100.0 / num_classes, color=GUESS, ls=":", lw=1)
    left.set_ylim(-3, 103)
    label(left, "attacks (dotted: chance)", "largest change of a pixel, in 1/255", "top-1, %")
    grid = torch.tensor(table.accuracy)
    right.imshow(grid.numpy(), cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, values in enumerate(table.accuracy):
        for column, value in enumerate(values):
            colour = "black" if value > 60 else "white"
            right.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    right.set_xticks(range(5), [str(n) for n in range(1, 6)])
    right.set_yticks(range(len(table.names)), [name.replace("_", " ") for name in table.names])
    label(right, f"corruptions: top-1 %, mean {table.mean:.1f}, clean {table.clean:.1f}", "severity")
    fig.suptitle(title, fontsize=10)
    save(fig, path)


def draw_occlusion(
    path: Path, found: OcclusionCurve, examples: Sequence[Tensor], heads: Sequence[str], kind: str, title: str
) -> None:
    """Accuracy by share dropped, and an image with patches dropped in each way, (3, H, W) in [0, 1]."""
    fig = figure(8.8, 3.7)
    grid = fig.add_gridspec(2, 4, width_ratios=(2.6, 2.6, 1.5, 1.5))
    ax = fig.add_subplot(grid[:, :2])
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    shares = [100.0 * share for share in found.shares]
    ways = (("random", found.random, THIRD), ("most salient first", found.salient, PARTNER))
    for name, values, colour in (*ways, ("least salient first", found.non_salient, OWN)):
        ax.plot(shares, values, color=colour, marker=".", label=name)
    ax.set_ylim(-3, 103)
    label(ax, f"patches dropped; salience by the network's {kind}", "% of patches dropped", "top-1, %")
    for number, (pixels, head) in enumerate(zip(examples, heads, strict=True)):
        one = fig.add_subplot(grid[number // 2, 2 + number % 2])
        one.set(xticks=[], yticks=[])
        draw(one, pixels)
        one.set_title(head, fontsize=7)
    fig.suptitle(title, fontsize=10)
    save(fig, path)


def draw_localisation(path: Path, found: Localisation, pixels: Tensor, maps: Tensor, boxes: Tensor, title: str) -> None:
    """Accuracy by threshold, and images (n, 3, H, W) with map, true box and found box."""
    columns = (len(pixels) + 1) // 2
    fig = figure(4.2 + 1.5 * columns, 3.6)
    grid = fig.add_gridspec(2, 1 + columns, width_ratios=(3.4, *[1.5] * columns))
    ax = fig.add_subplot(grid[:, 0])
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    for overlap, values, best, floor, colour in zip(
        found.overlaps, found.accuracy, found.max_box_acc, found.whole, (OWN, THIRD, PARTNER), strict=False
    ):
        name = f"IoU ≥ {overlap:g}: {best:.1f} % (whole image {floor:.1f})"
        ax.plot(found.thresholds, values, color=colour, label=name)
    ax.set_ylim(-3, 128)
    ax.set_yticks(range(0, 101, 20))
    label(ax, "objects found by the box around the map", "threshold of the map", "%")
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    size = (pixels.shape[2], pixels.shape[3])
    large = scaled(enlarge(maps.cpu(), size))
    for number, (image, one) in enumerate(zip(pixels, large, strict=True)):
        place = fig.add_subplot(grid[number // columns, 1 + number % columns])
        place.set(xticks=[], yticks=[])
        draw(place, image)
        place.imshow(one.numpy(), cmap="magma", alpha=0.35, vmin=0, vmax=1)
        outline(place, boxes[number].tolist(), "#7CFC00")
        outline(place, region_box(one.numpy(), found.best), "white", "--")
    fig.suptitle(f"{title}\ngreen: the object's box, white: found at threshold {found.best:g}", fontsize=9)
    save(fig, path)


def outline(ax: Any, box: Sequence[float], colour: str, style: str = "-") -> None:
    """A box (x0, y0, x1, y1) in pixels."""
    x0, y0, x1, y1 = (value - 0.5 for value in box)
    ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=colour, lw=1.6, ls=style, clip_on=False)


def draw_cam(
    path: Path,
    sources: tuple[Tensor, Tensor],
    mixed: Tensor,
    masks: Tensor | None,
    found: MixedCam,
    names: Sequence[tuple[str, str]],
    title: str,
) -> None:
    """A row for each pair: a, b, mask, mixed image, and where the network sees a and b; pixels (n, 3, H, W)."""
    heads = ["a", "b", "mask (white: a)", "mixed", "sees a", "sees b"]
    fig = figure(1.3 * len(heads), 1.36 * len(mixed) + 0.55)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = fig.subplots(len(mixed), len(heads), squeeze=False)
    size = (mixed.shape[2], mixed.shape[3])
    maps = [enlarge(part, size).cpu() for part in (found.own, found.partner)]
    for row, line in enumerate(axes):
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(color="0.6", linewidth=0.6)
        for ax, pixels in zip((line[0], line[1], line[3]), (*sources, mixed), strict=True):
            draw(ax, pixels[row].cpu())
        if masks is not None:
            draw(line[2], masks[row].float().cpu().expand(1, *size))
        for ax, cams in zip(line[4:], maps, strict=True):
            draw(ax, mixed[row].cpu())
            top = float(cams[row].max())
            shown = (cams[row] / max(top, 1e-12)).numpy()
            ax.imshow(shown, cmap="inferno", alpha=0.55, vmin=0, vmax=1, interpolation="bilinear")
            if top <= 0:
                ax.set_xlabel("nowhere", fontsize=6)
        for ax, name in zip(line[:2], names[row], strict=True):
            ax.set_xlabel(name, fontsize=7)
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(head, fontsize=9)
    fig.suptitle(title, fontsize=9)
    save(fig, path)


def draw_information(path: Path, found: InformationCurve, title: str) -> None:
    """Information by lambda."""
    fig, (ax,) = panels(1, title, 5.2, 3.6)
    ax.plot(found.lams, found.own, color=OWN, marker="o", ms=4, label="mixed and own image")
    ax.plot(found.lams, found.partner, color=PARTNER, marker="o", ms=4, label="mixed image and partner")
    total = [a + b for a, b in zip(found.own, found.partner, strict=True)]
    ax.plot(found.lams, total, color=GUESS, ls="--", label="sum")
    ax.set_ylim(bottom=0)
    label(ax, "mutual information, lower bound", "λ, share of the own image", "nats")
    save(fig, path)


def draw_landscape(path: Path, line: MixingLine, away: Sequence[tuple[str, WeightLine]], title: str) -> None:
    """Loss on the mixing line, and along lines of weights."""
    fig, axes = panels(1 + len(away), title, 4.1)
    axes[0].plot(line.lams, line.own, color=OWN, label="against a")
    axes[0].plot(line.lams, line.partner, color=PARTNER, label="against b")
    axes[0].plot(line.lams, line.mixed, color=THIRD, label="against the mixed label")
    axes[0].plot(line.lams, line.excess, color=THIRD, ls=":", label="... minus its entropy")
    axes[0].set_ylim(bottom=0)
    label(axes[0], f"from b to a; roughness {line.roughness:.4f}", "λ, share of a", "loss, nats")
    for ax, (name, found) in zip(axes[1:], away, strict=True):
        ax.plot(found.places, found.loss, color=OWN, marker=".")
        ax.locator_params(axis="x", nbins=5)
        ax.set_ylim(bottom=0)
        other = ax.twinx()
        other.plot(found.places, found.accuracy, color=GUESS, ls="--", label="top-1")
        other.set_ylim(-3, 103)
        other.set_ylabel("top-1, % (dashed)", fontsize=9)
        other.tick_params(labelsize=8)
        other.spines[["top"]].set_visible(False)
        told = f"barrier {found.barrier:.3f}" if found.places[0] == 0 else f"rise {found.rise:.3f}"
        label(ax, f"{name}; {told}", "place on the line", "loss, nats (line)")
    save(fig, path)


def draw_tsne(path: Path, found: FeatureMap, labels: Tensor, names: Sequence[str], title: str) -> None:
    """Points coloured by class; with up to twenty classes a legend."""
    from matplotlib import colormaps

    fig, (ax,) = panels(1, title, 6.2 if len(names) <= 20 else 5.0, 4.6)
    ax.grid(visible=False)
    colours = colormaps["tab10" if len(names) <= 10 else "tab20" if len(names) <= 20 else "gist_rainbow"]
    y = labels.cpu()
    for number, name in enumerate(names):
        points = found.points[y == number]
        shade = colours(number if len(names) <= 20 else number / len(names))
        ax.scatter(points[:, 0], points[:, 1], s=9, color=shade, linewidths=0, label=name)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(f"silhouette of features {found.silhouette:.3f}, of the map {found.silhouette_map:.3f}", fontsize=9)
    if len(names) <= 20:
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    save(fig, path)


def draw_masks(path: Path, found: Sequence[tuple[str, int, MaskNumbers]], history: MaskHistory, title: str) -> None:
    """Mean of the masks by lambda for each checkpoint, and spread and error by epoch."""
    fig, (left, right) = panels(2, title, 4.4)
    left.plot([0, 1], [0, 1], color=GUESS, ls=":", lw=1)
    for number, (name, _, told) in enumerate(found):
        shade = (OWN, PARTNER, THIRD)[number % 3]
        text = f"{name}: correlation {told.correlation:.3f}, error {told.error:.3f}"
        left.plot(told.lams, told.means, color=shade, ls=("-", "--")[number // 3 % 2], marker=".", label=text)
    left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.25))
    label(left, "masks follow λ", "λ", "mean of the masks")
    left.legend(fontsize=7, frameon=False, loc="upper left")
    if history.epochs:
        right.plot(history.epochs, history.spread, color=OWN, label="spread within a mask, in training")
        right.plot(history.epochs, history.error, color=PARTNER, label="|mean − λ|, in training")
    epochs = [epoch for _, epoch, _ in found]
    right.plot(epochs, [told.spread for *_, told in found], color=OWN, marker="o", ls="", label="spread, checkpoints")
    right.plot(epochs, [told.error for *_, told in found], color=PARTNER, marker="o", ls="", label="error, checkpoints")
    right.set_ylim(bottom=0)
    right.locator_params(axis="x", integer=True)
    label(right, "through training", "epoch")
    right.legend(fontsize=7, frameon=False)
    save(fig, path)


def draw_cost(path: Path, network: Cost, step: StepCost | None, title: str) -> None:
    """Operations and throughput of a forward pass and of a training step, side by side."""
    fig, axes = panels(3, title, 3.1, 3.1)
    names, colours = ["forward"], [OWN]
    parameters, flops, rates = [network.parameters], [network.flops], [network.images_per_second]
    if step is not None:
        names, colours = [*names, "training step"], [OWN, PARTNER]
        parameters, flops, rates = (
            [*parameters, step.trained],
            [*flops, step.flops],
            [*rates, step.images_per_second],
        )
    for ax, values, head in zip(
        axes,
        ([n / 1e6 for n in parameters], [n / 1e9 for n in flops], rates),
        ("parameters, millions", "GFLOPs for one image", f"images/s at batch {network.batch_size}"),
        strict=True,
    ):
        ax.grid(visible=False)
        bars = ax.bar(names, values, 0.6, color=colours)
        ax.bar_label(bars, [f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in values], fontsize=8)
        ax.set_ylim(0, 1.15 * max(values))
        label(ax, head, "")
    axes[0].set_xticks(range(len(names)), ["network", "trained"][: len(names)])
    save(fig, path)
