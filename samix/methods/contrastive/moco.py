"""MoCo v1 and v2: contrast a view's query with the other view's key and with a queue of keys.

MoCo (He et al. 2020, arXiv:1911.05722), MoCo v2 (Chen et al. 2020, arXiv:2003.04297). With any mixup, by the cross-view
pipeline of SAMix (Li et al. 2022, arXiv:2111.15454): the mix of two query views is contrasted with the *key views* of
both sources, and that loss is added to the clean one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from samix.losses.contrastive import info_nce, normalized
from samix.methods.base import choose_options, detached
from samix.methods.contrastive.base import (
    EMAEncoderMethod,
    mixes_nothing,
    refuse_mixup,
    spread,
)
from samix.methods.contrastive.mixup import (
    Attachment,
    AugmentationMixup,
    ContrastiveMixup,
    ContrastiveMixupOptions,
    MoCoStep,
    Views,
    check_views,
)
from samix.methods.contrastive.samix_i import SAMIX_I_PRESETS
from samix.mixers.base import MaskGenerator
from samix.mixups.base import Augmentation, new_generator, to_device
from samix.networks.batchnorm import split_batchnorm
from samix.networks.ema import ema_copy, train_norms, update_ema_buffers
from samix.networks.encoder import Encoder
from samix.networks.heads import mlp_projector, normed_mlp
from samix.networks.queue import Queue, check_queue
from samix.runtime import distributed
from samix.runtime.typed_options import CheckedOptions, Count, Positive, Share, Weight


@dataclass(frozen=True)
class MoCoOptions(CheckedOptions):
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
        ema_decay: of the EMA encoder (the papers' momentum m), in [0, 1].
        ema_decay_end: its value at the end, by a cosine; None keeps it constant.
        key_bn: how query and key are kept from sharing batch statistics: ``split`` takes BatchNorm's statistics over
            ``groups`` parts of the batch, in both networks, the keys in another order; ``shuffle`` exchanges key images
            between processes (needs several); ``eman`` runs the EMA encoder in eval mode with averaged statistics;
            ``none``.
        groups: of ``split``.
        symmetric: contrast both directions; twice the cost.
        mixed_weight: weight of the mixed loss.

    Example:
        >>> samix.MoCoOptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "v2"
    projector: Literal["mlp", "linear", "mlp-bn"] = "mlp"
    dim: Count = 128
    queue: Count = 65536
    random_start: bool = True
    temperature: Positive = 0.2
    ema_decay: Share = 0.999
    ema_decay_end: Share | None = None
    key_bn: Literal["split", "shuffle", "eman", "none"] = "split"
    groups: Count = 8
    symmetric: bool = False
    mixed_weight: Weight = 1.0


MOCO_PRESETS: dict[str, MoCoOptions] = {
    "v2": MoCoOptions(),
    "v1": MoCoOptions(preset="v1", projector="linear", temperature=0.07),
    "cifar": MoCoOptions(preset="cifar", projector="linear", queue=4096, temperature=0.1, ema_decay=0.99),
}


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {
    "mlp": mlp_projector,
    "linear": nn.Linear,
    "mlp-bn": lambda width, dim: normed_mlp((width, width, dim), last_affine=False),
}


class MoCo(EMAEncoderMethod):
    """Learns by comparing a view with a queue of earlier keys (MoCo v1 and v2); takes a mixup or trains a Mixer.

    Args:
        model: maps (B, C, H, W) to features (B, F): a timm network with ``num_classes=0``, or any ``nn.Module``;
            trained in place.
        options: a :class:`MoCoOptions`, or the name of a preset: ``v2``, ``v1``, ``cifar``.
        mixup: None, any augmentation object, or a learned Mixer (:class:`samix.SAMixer`), which is then trained
            (SAMix-I).
        feature: stage whose map a learned Mixer reads, as for :class:`samix.AutoMix`.
        mixup_options: of a learned Mixer's training, :class:`samix.SAMixIOptions`, with clusters
            :class:`samix.SAMixCOptions`, or the name of a preset of SAMix-I; of another mixup by pseudo labels,
            :class:`samix.PseudoLabelOptions`.
        images: number of training images, which clusters must know; the queue is then checked to be shorter.
        generator: CPU generator of lam, pairs and orders; None makes one from torch's seed.

    Raises:
        ValueError: unknown preset, or a network or mixup that cannot be used.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.MoCo(encoder, samix.MoCoOptions(queue=64, groups=2))
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
        >>> loss.backward()  # then optimizer.step(), optimizer.zero_grad(), method.after_step(progress)
    """

    presets: ClassVar[Mapping[str, MoCoOptions]] = MOCO_PRESETS
    title = "MoCo"
    trains_mixer = True

    def __init__(
        self,
        model: nn.Module,
        options: MoCoOptions | str | None = None,
        *,
        mixup: Augmentation | MaskGenerator | None = None,
        feature: int | str | None = None,
        mixup_options: ContrastiveMixupOptions | str | None = None,
        images: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        refuse_mixup(self, mixup)
        chosen: MoCoOptions = choose_options(options, self.presets)
        self.options = chosen
        if chosen.key_bn == "split":
            split_batchnorm(model, chosen.groups)
        make = PROJECTORS[chosen.projector]
        self.encoder = Encoder(model, lambda width: make(width, chosen.dim), feature)
        self.ema_encoder = ema_copy(self.encoder)
        device = next(model.parameters()).device
        if images is not None:
            check_queue(chosen.queue, images)
        self.queue = Queue(chosen.queue, chosen.dim, random_start=chosen.random_start).to(device)
        self.generator = generator or new_generator()
        self.mixup = contrastive_mixup(
            mixup, mixup_options, Attachment(self.encoder, self.generator, images, chosen.dim)
        )
        self.train()

    # The step ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step (arXiv:1911.05722, Algorithm 1), with a mixup its mixed loss (arXiv:2111.15454, 3.3)."""
        step = self.new_step(batch)
        nce = self.contrast(step.view_q, step.key, step.negatives)
        other: Tensor | None = None
        if self.options.symmetric:
            other = self.keys(step.view_q)
            nce = (nce + self.contrast(step.view_k, other, step.negatives)) / 2.0
        loss, parts = nce, {"nce": nce}
        if self.mixup is not None:
            extra, mixed_parts = self.mixup.losses(step)
            loss = loss + extra
            parts.update(mixed_parts)
        if self.training:
            self.queue.enqueue(step.key)
            if other is not None:
                self.queue.enqueue(other)
        parts["key_std"] = spread(step.key)
        return loss, detached(parts)

    def new_step(self, batch: Views) -> MoCoStep:
        """The keys and negatives for this batch, and what a mixup needs besides."""
        view_q, view_k, ids = check_views(batch)
        negatives = self.queue.snapshot()
        embedding = self.embeddings(view_k)
        return MoCoStep(
            view_q=view_q,
            view_k=view_k,
            ids=ids,
            embedding=embedding,
            key=normalized(embedding),
            negatives=negatives,
            encoder=self.encoder,
            ema_encoder=self.ema_encoder,
            keys=self.keys,
            feature_maps=self.feature_maps,
            temperature=self.options.temperature,
            mixed_weight=self.options.mixed_weight,
            progress=self.progress,
            done=self.step,
            training=self.training,
        )

    def contrast(self, view: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        """The clean loss of one direction, a scalar."""
        query = normalized(self.encoder(view))
        return info_nce(query, key, negatives, self.options.temperature).mean()

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        """Unit keys (B, D) of a view by the EMA encoder, without gradient, computed in another order of the batch."""
        return normalized(self.embeddings(view))

    @torch.no_grad()
    def embeddings(self, view: Tensor) -> Tensor:
        """The keys before they are brought to unit length, (B, D)."""
        return self.in_another_order(self.ema_encoder, view)

    @torch.no_grad()
    def feature_maps(self, view: Tensor) -> Tensor:
        """The EMA encoder's feature map (B, C', h, w) of a view; the layers behind it do not run."""
        return self.in_another_order(self.ema_encoder.feature_map, view)

    def in_another_order(self, function: Callable[[Tensor], Tensor], view: Tensor) -> Tensor:
        """Applies a function of images to the batch in a random order, and restores the order of the result."""
        if self.options.key_bn == "shuffle" and distributed.world_size() > 1:
            return self.across_processes(function, view)
        if self.options.key_bn != "split" or not self.training:
            return function(view)
        order = to_device(torch.randperm(len(view), generator=self.generator), view.device)
        result = function(view[order])
        return torch.empty_like(result).index_copy_(0, order, result)

    def across_processes(self, function: Callable[[Tensor], Tensor], view: Tensor) -> Tensor:
        """The same over the batches of all processes: each process works on images of all."""
        everything = distributed.gather(view)
        order = torch.randperm(len(everything), generator=self.generator).to(view.device)
        order = distributed.from_first(order)
        mine = slice(distributed.rank() * len(view), (distributed.rank() + 1) * len(view))
        results = distributed.gather(function(everything[order[mine]]))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return results[back[mine]]

    def after_step(self, progress: float) -> None:
        """Moves the EMA encoder towards the query encoder, and updates the mixup."""
        super().after_step(progress)
        if self.options.key_bn == "eman":
            update_ema_buffers(self.encoder, self.ema_encoder, self.ema_decay(progress))
        if self.mixup is not None:
            self.mixup.after_step(progress)

    def train(self, mode: bool = True) -> MoCo:
        """Sets train mode; of the EMA encoder for norms that keep statistics, and with ``eman`` for none."""
        super().train(mode)
        train_norms(self.ema_encoder, mode and self.options.key_bn != "eman")
        return self


def contrastive_mixup(
    mixup: Augmentation | MaskGenerator | None,
    options: ContrastiveMixupOptions | str | None,
    to: Attachment,
) -> ContrastiveMixup | None:
    """The contrastive form of a mixup, or None for none; see :class:`MoCo` for the arguments."""
    if mixes_nothing(mixup):
        return None
    if not isinstance(mixup, Augmentation | MaskGenerator):
        raise TypeError(f"mixup must be an augmentation object or a learned Mixer, got {type(mixup).__name__}")
    if options is None and isinstance(mixup, Augmentation):
        return AugmentationMixup(mixup, to.generator)
    if options is None or isinstance(options, str):
        options = choose_options(options, SAMIX_I_PRESETS)
    return options.attach(mixup, to)
