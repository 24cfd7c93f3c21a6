"""``cost``: parameters, operations, time and memory of a network and of a training step."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from samix.analysis.base import Analysis, Findings
from samix.analysis.subject import Subject
from samix.networks.inference import evaluating, inspecting
from samix.recipes.pretrain_recipe import without_labels
from samix.runtime.typed_options import Count, CountOr0
from samix.viz.figures import IMAGE_A, IMAGE_B, label, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cost:
    """What a network costs."""

    parameters: int  # all of them
    # floating point operations for one image; a multiplication and an addition are two. Papers often count them as
    # one: halve it then. Only matrix products, convolutions and attention are counted
    flops: int
    images_per_second: float  # of the forward pass, without reading images
    batch_size: int  # it was measured at


@dataclass(frozen=True)
class StepCost:
    """What a training step costs."""

    trained: int  # parameters with a gradient, with Mixers and further heads
    flops: int  # floating point operations of forward and backward pass, for one image
    images_per_second: float  # of forward and backward pass
    peak_bytes: int  # largest memory held on a GPU; 0 on a CPU
    batch_size: int  # it was measured at


def network_cost(network: nn.Module, images: Tensor, repeats: int = 10) -> Cost:
    """Measures parameters, operations and throughput of a forward pass, in eval mode and without a gradient.

    Args:
        network: left as it was.
        images: (B, C, H, W).
        repeats: passes of which the median time counts, after one that does not; below 1 raises ValueError.
    """
    with inspecting(network) as net, evaluating(network):
        with FlopCounterMode(display=False) as counter:
            net(images[:1])
        seconds = median_seconds(lambda: net(images), images.device, repeats)
    return Cost(
        sum(p.numel() for p in network.parameters()), counter.get_total_flops(), len(images) / seconds, len(images)
    )


def step_cost(method: nn.Module, images: Tensor, labels: Tensor, repeats: int = 5) -> StepCost:
    """Measures operations, throughput and memory of one training step: both passes, without the optimiser.

    Args:
        method: maps (images, labels) to (loss, parts); a copy is trained, and random states stay as they were.
        images: (B, C, H, W).
        labels: (B,).
        repeats: steps of which the median time counts, after one that does not; below 1 raises ValueError.
    """
    trained = copy.deepcopy(method).train()

    def step() -> None:
        trained.zero_grad(set_to_none=True)
        trained((images, labels))[0].backward()

    device = images.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        with FlopCounterMode(display=False) as counter:
            step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = median_seconds(step, device, repeats)
    return StepCost(
        sum(p.numel() for p in trained.parameters() if p.requires_grad),
        counter.get_total_flops() // len(images),
        len(images) / seconds,
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        len(images),
    )


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Measures the median time of a call, after one that warms up; waits for a GPU."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")

    def once() -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    times = sorted(once() for _ in range(repeats))
    return times[len(times) // 2]


def draw(network: Cost, step: StepCost | None, title: str) -> Figure:
    """Draws the costs of a forward pass and of a training step side by side."""
    fig, axes = panels(3, title, 3.1, 3.1)
    names = ["forward", "training step"]
    parameters, flops, rates = [network.parameters], [network.flops], [network.images_per_second]
    if step:
        parameters, flops, rates = [*parameters, step.trained], [*flops, step.flops], [*rates, step.images_per_second]
    for ax, values, head in (
        (axes[0], [count / 1e6 for count in parameters], "parameters, millions"),
        (axes[1], [count / 1e9 for count in flops], "GFLOPs for one image"),
        (axes[2], rates, f"images/s at batch {network.batch_size}"),
    ):
        ax.grid(visible=False)
        bars = ax.bar(names[: len(values)], values, 0.6, color=[IMAGE_A, IMAGE_B][: len(values)])
        ax.bar_label(bars, [f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in values], fontsize=8)
        ax.set_ylim(0, 1.15 * max(values))
        label(ax, head, "")
    axes[0].set_xticks(range(len(parameters)), ["network", "trained"][: len(parameters)])
    return fig


@dataclass(frozen=True)
class CostAnalysis(Analysis):
    """Parameters, operations and throughput of a network and of one training step.

    Args:
        repeats: timed passes, of which the median counts.
    """

    name: ClassVar[str] = "cost"

    images: CountOr0 = 100
    repeats: Count = 5

    def analyse(self, subject: Subject) -> Findings:
        """Times are meaningful on a quiet machine only; an export has no training step."""
        images, labels = subject.images[: self.batch_size], subject.labels[: self.batch_size]
        network = network_cost(subject.network, images, self.repeats)
        step: StepCost | None = None
        if subject.method is not None and not without_labels(subject.recipe):
            step = step_cost(subject.method, images, labels, self.repeats)
        line = (
            f"{network.parameters / 1e6:.3f} M parameters, {network.flops / 1e9:.4f} GFLOPs an image, "
            f"{network.images_per_second:.0f} images/s at batch {network.batch_size}"
        )
        if step is not None:
            line += f"; training step {step.flops / 1e9:.4f} GFLOPs an image, {step.images_per_second:.0f} images/s"
        figure = draw(network, step, f"{subject.title}, on {images.device}")
        return Findings(line, {"network": network, "step": step}, figure)
