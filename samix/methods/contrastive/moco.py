"""MoCo v1 and v2: contrast a view's query with the other view's key and with a queue of keys.

MoCo (He et al. 2020, arXiv:1911.05722), MoCo v2 (Chen et al. 2020, arXiv:2003.04297). With any mixup, by the cross-view
pipeline of SAMix (Li et al. 2022, arXiv:2111.15454): the mix of two query views is contrasted with the *key views* of
both sources, and that loss is added to the clean one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from samix.losses.contrastive import info_nce, normalized
from samix.methods.contrastive.base import ViewMethod, check_numbers, choose_options, detached, given_generator, spread
from samix.methods.contrastive.mixup import Seen, check_views, make_mixing
from samix.mixers.learned import MaskGenerator, check_choice
from samix.mixups.base import Augmentation, to_device
from samix.networks.batchnorm import split_batchnorm
from samix.networks.ema import average_buffers, momentum_at, momentum_copy, train_norms, update_momentum
from samix.networks.encoder import Encoder
from samix.networks.heads import linear_projector, mlp_projector, normed_mlp
from samix.networks.queue import Queue, check_queue
from samix.runtime import distributed

KeyBN = Literal["split", "shuffle", "eman", "none"]


@dataclass(frozen=True)
class MoCoOptions:
    """Options of MoCo; the defaults are v2's.

    Args:
        preset: name of the preset these values come from.
        projector: ``mlp`` (v2), ``linear`` (v1), or ``mlp-bn``, with BatchNorm after both layers as SimCLR has it: keys
            then differ from the first step on, which short runs need.
        dim: D of the embedding.
        queue: K, number of keys; a multiple of the batch, below the number of images.
        random_start: fill the queue with random vectors first [released code]; off, it begins empty and grows, which
            keeps a short run from collapsing.
        temperature: of the softmax.
        momentum: coefficient of the momentum encoder, in [0, 1].
        momentum_end: at the end, by a cosine; None keeps it constant.
        key_bn: how query and key are kept from sharing batch statistics: ``split`` takes BatchNorm's statistics over
            ``groups`` parts of the batch, in both networks, the keys in another order; ``shuffle`` exchanges key images
            between processes (needs several); ``eman`` runs the momentum encoder in eval mode with averaged statistics;
            ``none``.
        groups: of ``split``.
        symmetric: contrast both directions; twice the cost.
        mixed_weight: weight of the mixed loss.
    """

    name: ClassVar[str] = "moco"

    preset: str = "v2"
    projector: Literal["mlp", "linear", "mlp-bn"] = "mlp"
    dim: int = 128
    queue: int = 65536
    random_start: bool = True
    temperature: float = 0.2
    momentum: float = 0.999
    momentum_end: float | None = None
    key_bn: KeyBN = "split"
    groups: int = 8
    symmetric: bool = False
    mixed_weight: float = 1.0

    def __post_init__(self) -> None:
        check_choice("projector", self.projector, ("mlp", "linear", "mlp-bn"))
        check_choice("key_bn", self.key_bn, ("split", "shuffle", "eman", "none"))
        check_numbers(
            self,
            counts=("dim", "queue", "groups"),
            positive=("temperature",),
            shares=("momentum", "momentum_end"),
        )


MOCO_PRESETS: dict[str, MoCoOptions] = {
    "v2": MoCoOptions(),
    "v1": MoCoOptions(preset="v1", projector="linear", temperature=0.07),
    "cifar": MoCoOptions(preset="cifar", projector="linear", queue=4096, temperature=0.1, momentum=0.99),
}


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {
    "mlp": mlp_projector,
    "linear": linear_projector,
    "mlp-bn": lambda width, dim: normed_mlp((width, width, dim), last_affine=False),
}


class MoCo(ViewMethod):
    """A query encoder, its momentum copy, and a queue; with a mixup, a mixed loss beside the clean one.

    ``loss, parts = method((view_q, view_k))``.

    Args:
        model: maps (B, C, H, W) to features (B, F): a timm network with ``num_classes=0``, or any ``nn.Module``;
            trained in place.
        options: a :class:`MoCoOptions`, or the name of a preset: ``v2``, ``v1``, ``cifar``.
        mixup: None, any augmentation object, or a learned Mixer (:class:`samix.SAMixer`), which is then trained
            (SAMix-I).
        feature: stage whose map guides a learned Mixer, as for :class:`samix.AutoMix`.
        mixing: options of a learned Mixer's training, :class:`samix.methods.contrastive.samix_i.SAMixIOptions`, or
            with clusters, :class:`samix.methods.contrastive.samix_c.SAMixCOptions`; of another mixup by pseudo labels,
            :class:`samix.methods.contrastive.pseudo_labels.PseudoLabelOptions`.
        images: number of training images, which clusters must know; the queue is then checked to be shorter.
        generator: CPU generator of lam, pairs and orders; None makes one from torch's seed.

    Raises:
        ValueError: unknown preset, or a network or mixup that cannot be used.
    """

    presets: ClassVar[Any] = MOCO_PRESETS

    def __init__(
        self,
        model: nn.Module,
        options: MoCoOptions | str = "v2",
        *,
        mixup: Augmentation | MaskGenerator | None = None,
        feature: int | str | None = None,
        mixing: Any = None,
        images: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        chosen: MoCoOptions = choose_options(options, self.presets)
        self.options = chosen
        if chosen.key_bn == "split":
            split_batchnorm(model, chosen.groups)
        make = PROJECTORS[chosen.projector]
        self.online = Encoder(model, lambda width: make(width, chosen.dim), feature)
        self.momentum = momentum_copy(self.online)
        device = next(model.parameters()).device
        if images is not None:
            check_queue(chosen.queue, images)
        self.queue = Queue(chosen.queue, chosen.dim, random_start=chosen.random_start).to(device)
        self.generator = given_generator(generator)
        self.mixing = make_mixing(mixup, self.online, mixing, self.generator, images, chosen.dim)
        self.train()

    # The step ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step (arXiv:1911.05722, Algorithm 1), and with a mixup the mixed loss (arXiv:2111.15454, section 3.3).

        Args:
            batch: two views (B, C, H, W) of the same images, normalised, and, for methods that need them, the images'
                row numbers (B,) int64.

        Returns:
            Loss, and its parts: ``nce``, those of the mixup, and ``key_std``, the keys' spread per dimension times
            sqrt(D): about 1 for healthy keys, 0 when they have collapsed.

        Raises:
            ValueError: one view only, or views of another shape.
        """
        view_q, view_k, ids = check_views(batch)
        negatives = self.queue.snapshot()
        embedding = self.embeddings(view_k)
        key = normalized(embedding)
        nce = self.contrast(view_q, key, negatives)
        other: Tensor | None = None
        if self.options.symmetric:
            other = self.keys(view_q)
            nce = (nce + self.contrast(view_k, other, negatives)) / 2.0
        loss, parts = nce, {"nce": nce}
        if self.mixing is not None:
            seen = Seen(view_q, view_k, key, embedding, negatives, ids)
            extra, mixed_parts = self.mixing.losses(self, seen)
            loss = loss + extra
            parts.update(mixed_parts)
        if self.training:
            self.queue.enqueue(key)
            if other is not None:
                self.queue.enqueue(other)
        parts["key_std"] = spread(key)
        return loss, detached(parts)

    def contrast(self, view: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        """The clean loss of one direction, a scalar."""
        query = normalized(self.online(view))
        return info_nce(query, key, negatives, self.options.temperature).mean()

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        """Unit keys (B, D) of a view by the momentum encoder, without gradient, the batch in another order."""
        return normalized(self.embeddings(view))

    @torch.no_grad()
    def embeddings(self, view: Tensor) -> Tensor:
        """What the keys are before they are brought to unit length, (B, D)."""
        return self.in_another_order(self.momentum, view)

    @torch.no_grad()
    def guides(self, view: Tensor) -> Tensor:
        """The momentum encoder's feature map (B, C', h, w) of a view, run no further."""
        return self.in_another_order(self.momentum.feature_map, view)

    def in_another_order(self, function: Any, view: Tensor) -> Tensor:
        """Applies a function of images to the batch in a random order, and brings the result back into order."""
        if self.options.key_bn == "shuffle" and distributed.world_size() > 1:
            return self.across_processes(function, view)
        if self.options.key_bn != "split" or not self.training:
            return function(view)  # type: ignore[no-any-return]
        order = to_device(torch.randperm(len(view), generator=self.generator), view.device)
        result: Tensor = function(view[order])
        return torch.empty_like(result).index_copy_(0, order, result)

    def across_processes(self, function: Any, view: Tensor) -> Tensor:
        """The same over the batches of all processes: each works on images of all."""
        everything = distributed.gather(view)
        order = torch.randperm(len(everything), generator=self.generator).to(view.device)
        order = distributed.from_first(order)
        mine = slice(distributed.rank() * len(view), (distributed.rank() + 1) * len(view))
        results = distributed.gather(function(everything[order[mine]]))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return results[back[mine]]

    def after_step(self, progress: float) -> None:
        """Moves the momentum encoder towards the query encoder, and whatever the mixup moves."""
        self.progress = progress
        o = self.options
        momentum = o.momentum if o.momentum_end is None else momentum_at(progress, o.momentum, o.momentum_end, 0.0)
        update_momentum(self.online, self.momentum, momentum)
        if o.key_bn == "eman":
            average_buffers(self.online, self.momentum, momentum)
        if self.mixing is not None:
            self.mixing.after_step(progress)

    def train(self, mode: bool = True) -> MoCo:
        """Train mode; of the momentum encoder only norms that keep statistics, and none of them with ``eman``."""
        super().train(mode)
        train_norms(self.momentum, mode and self.options.key_bn != "eman")
        return self
