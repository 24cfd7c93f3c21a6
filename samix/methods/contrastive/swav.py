"""SwAV: from one view's scores, predict which prototypes another view is assigned to.

SwAV (Caron et al. 2020, arXiv:2006.09882), with multi-crop: two large views give the codes, and all others predict
them. With a mixup, the large views are mixed, and predict the codes of the other large views of their sources, in their
shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch, check_images
from samix.losses.contrastive import normalized, similarities, sinkhorn, swapped_prediction
from samix.methods.contrastive.base import FixedMixupMethod
from samix.methods.contrastive.mixup import Views, check_views
from samix.networks.encoder import Encoder
from samix.networks.heads import normed_mlp
from samix.networks.queue import Queue
from samix.runtime import distributed
from samix.runtime.typed_options import CheckedOptions, Count, CountOr0, Positive, Share, Weight


@dataclass(frozen=True)
class SwAVOptions(CheckedOptions):
    """Options of SwAV; the defaults are those for batches of thousands.

    Args:
        preset: name of the preset these values come from.
        hidden: width of the projector's hidden layer.
        dim: D of the embedding.
        prototypes: P.
        temperature: of the prediction's softmax.
        epsilon: how even the codes are.
        iterations: of the Sinkhorn algorithm.
        freeze_steps: steps for which the prototypes are not trained.
        queue: embeddings of earlier steps that share the prototypes out with the batch, for each large view; a multiple
            of the batch; 0 for none.
        queue_from: share of the run after which they do.
        mixed_weight: weight of the mixed loss.

    Example:
        >>> samix.SwAVOptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "imagenet"
    hidden: Count = 2048
    dim: Count = 128
    prototypes: Count = 3000
    temperature: Positive = 0.1
    epsilon: Positive = 0.05
    iterations: Count = 3
    freeze_steps: CountOr0 = 313
    queue: CountOr0 = 0
    queue_from: Share = 0.075
    mixed_weight: Weight = 1.0


SWAV_PRESETS: dict[str, SwAVOptions] = {
    "imagenet": SwAVOptions(),
    "small-batch": SwAVOptions(preset="small-batch", freeze_steps=5005, queue=3840),
    "cifar": SwAVOptions(preset="cifar", freeze_steps=390, queue=3840, queue_from=0.05),
}


class SwAV(FixedMixupMethod[SwAVOptions]):
    """Learns by predicting the prototypes of one view from another (SwAV).

    ``loss, parts = method(view_1, view_2)``, or with further, small views as a tuple at the end:
    ``method(view_1, view_2, ids, (small_1, ...))``.

    Args:
        options: a :class:`SwAVOptions`, or the name of a preset: ``imagenet``, ``small-batch`` (256), ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.SwAV(encoder)
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = SWAV_PRESETS
    title = "SwAV"
    clean_part = "clean"

    def build(self, model: nn.Module) -> None:
        o = self.options
        device = next(model.parameters()).device
        self.encoder = Encoder(model, lambda width: normed_mlp((width, o.hidden, o.dim), bias=True, last_norm=False))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(o.prototypes, o.dim, device=device), dim=1))
        self.queues = nn.ModuleList([Queue(o.queue, o.dim).to(device) for _ in range(2 if o.queue else 0)])

    # The step ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step (arXiv:2006.09882, Algorithm 1).

        Args:
            batch: two large views, and, as a tuple at the end, small ones (B, C, h, w) of any size.
        """
        crops = check_crops(batch)
        centres = self.centres()
        z = self.embed(crops)
        scores = [similarities(view, centres) for view in z]
        codes = [self.codes(number, scores[number], centres) for number in (0, 1)]
        clean = torch.stack([self.swapped(number, scores, codes) for number in (0, 1)]).mean()

        def term(embedding: Tensor, m: MixedBatch, other: Tensor) -> Tensor:
            target = (m.weights.unsqueeze(2) * other[m.index]).sum(1)  # (B, P): the sources' codes, mixed
            mixed_scores = similarities(normalized(embedding), centres)
            return swapped_prediction(mixed_scores, target, self.options.temperature).mean()

        mixed = self.mixed_terms((crops[0], crops[1]), (codes[1], codes[0]), term)
        if self.training:
            for queue, view in zip(self.queues, z[:2], strict=False):
                queue.enqueue(view)  # type: ignore[operator]  # they are Queues
        return self.total(clean, mixed, self.options.mixed_weight, z[1], mean=True)

    def swapped(self, number: int, scores: list[Tensor], codes: list[Tensor]) -> Tensor:
        """How well all other views predict the codes of one large view, a scalar."""
        others = [view for place, view in enumerate(scores) if place != number]
        t = self.options.temperature
        return torch.stack([swapped_prediction(view, codes[number], t).mean() for view in others]).mean()

    def embed(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Unit embeddings (B, D) of every view; neighbours of one size go through the backbone together."""
        groups = [list(group) for _, group in groupby(crops, key=lambda crop: crop.shape)]
        features = torch.cat([self.encoder.features(torch.cat(group)) for group in groups])
        return list(normalized(self.encoder.projector(features)).chunk(len(crops)))

    def centres(self) -> Tensor:
        """The prototypes (P, D), of unit length; in training they are brought back to it first, without gradient.

        In the first steps they have a gradient of 0, not none, as several processes ask for one.
        """
        unit = F.normalize(self.prototypes.detach(), dim=1)
        if not self.training:
            return unit
        with torch.no_grad():
            self.prototypes.copy_(unit)
        return self.prototypes if self.step >= self.options.freeze_steps else unit + 0.0 * self.prototypes

    @torch.no_grad()
    def codes(self, number: int, scores: Tensor, centres: Tensor) -> Tensor:
        """The codes (B, P) of a large view: its share of the prototypes among the images of all processes.

        The queue takes part once it is full, and the run is far enough.

        Args:
            number: of the large view, 0 or 1.
            scores: (B, P) of its embeddings.
            centres: (P, D).
        """
        everyone = distributed.gather(scores.detach())
        full = self.step * len(everyone) >= self.options.queue
        if self.queues and full and self.progress >= self.options.queue_from:
            queue = self.queues[number]
            assert isinstance(queue, Queue)
            everyone = torch.cat([similarities(queue.keys, centres), everyone])
        codes = sinkhorn(everyone, self.options.epsilon, self.options.iterations)
        first = len(codes) - (distributed.world_size() - distributed.rank()) * len(scores)
        return codes[first : first + len(scores)]


def check_crops(batch: Views) -> list[Tensor]:
    """The two large views and, from a tuple or list at the end of the batch, the small ones."""
    small: Views = ()
    if isinstance(batch, tuple | list) and len(batch) > 2 and isinstance(batch[-1], tuple | list):
        *batch, small = batch
    view_1, view_2, _ = check_views(batch)
    for view in small:
        check_images(view)
        if view.shape[:2] != view_1.shape[:2]:
            raise ValueError(
                f"small views must be of the same {len(view_1)} images, (B, C) = {tuple(view_1.shape[:2])}, "
                f"got {tuple(view.shape)}"
            )
    return [view_1, view_2, *small]
