"""MoCHi: MoCo with harder negatives, mixed in the embedding (Kalantidis et al. 2020, arXiv:2010.01028)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samix.losses.contrastive import info_nce, normalized, similarities
from samix.methods.contrastive.base import fixed_mixup
from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.mixups.base import Augmentation, new_generator, to_device
from samix.runtime.typed_options import Count, CountOr0, Share


@dataclass(frozen=True)
class MoCHiOptions(MoCoOptions):
    """Options of MoCHi; the defaults are its (1024, 1024, 128) on ImageNet.

    Args:
        hardest: N, negatives of a query to mix: those of the queue that are most like it; at most ``queue``.
        pairs: s, mixes of two of them, for each query.
        with_query: s', mixes of one of them with the query itself, for each query.
        start: share of the run after which they are made. About ten epochs are taken from a related method.

    Example:
        >>> samix.MoCHiOptions(temperature=0.5).temperature
        0.5
    """

    preset: str = "imagenet"
    hardest: Count = 1024
    pairs: CountOr0 = 1024
    with_query: CountOr0 = 128
    start: Share = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hardest > self.queue:
            raise ValueError(f"hardest must be at most the queue's {self.queue} keys, got {self.hardest}")


MOCHI_PRESETS: dict[str, MoCHiOptions] = {
    "imagenet": MoCHiOptions(),
    "imagenet-512": MoCHiOptions(preset="imagenet-512", hardest=512, with_query=512),
    "imagenet-256": MoCHiOptions(preset="imagenet-256", hardest=256, pairs=512, with_query=0),
    "imagenet100": MoCHiOptions(preset="imagenet100", queue=16384),
    "cifar": MoCHiOptions(  # ours: the defaults by a sixteenth, as the queue
        preset="cifar",
        projector="linear",
        queue=4096,
        temperature=0.1,
        ema_decay=0.99,
        hardest=64,
        pairs=64,
        with_query=8,
    ),
}


class MoCHi(MoCo):
    """Learns as MoCo, with mixes of embeddings as further hard negatives (MoCHi).

    There is no official code; this is written from the paper's section 4. Where the shares of a query and a negative
    are told in two ways, ours keeps the query's below 1/2: such a point is hard, but still a negative.

    Images are not mixed. A mixup that is given adds its mixed loss, as beside MoCo, against the queue alone.

    Args:
        options: a :class:`MoCHiOptions`, or the name of a preset: ``imagenet``, ``imagenet-512``, ``imagenet-256``,
            ``imagenet100``, ``cifar``.

    Example:
        >>> encoder = timm.create_model("test_resnet", num_classes=0)
        >>> method = samix.MoCHi(encoder, samix.MoCHiOptions(queue=64, groups=2, hardest=16, pairs=8, with_query=4))
        >>> loss, parts = method(torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64))
    """

    presets = MOCHI_PRESETS
    title = "MoCHi"
    trains_mixer = False

    options: MoCHiOptions

    def __init__(
        self,
        model: nn.Module,
        options: MoCHiOptions | str | None = None,
        *,
        mixup: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, options, generator=generator or new_generator())
        self.mixup = fixed_mixup(mixup, self.title, self.generator)

    def contrast(self, view: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        query = normalized(self.encoder(view))
        return info_nce(query, key, negatives, self.options.temperature, self.synthetic(query, negatives)).mean()

    def synthetic(self, query: Tensor, negatives: Tensor) -> Tensor | None:
        """Draws, and mixes negatives of each query (B, s + s', D), without a graph; None where there are none."""
        o = self.options
        hardest = min(o.hardest, len(negatives))  # fewer only while a queue that began empty grows
        if hardest == 0 or o.pairs + o.with_query == 0 or self.progress < o.start:
            return None
        size, g = len(query), self.generator
        draws = (
            torch.randint(hardest, (size, o.pairs, 2), generator=g),
            torch.rand(size, o.pairs, generator=g),
            torch.randint(hardest, (size, o.with_query), generator=g),
            0.5 * torch.rand(size, o.with_query, generator=g),
        )
        pairs, shares, single, query_shares = (to_device(draw, query.device) for draw in draws)
        return mixed_negatives(query, negatives, hardest, pairs, shares, single, query_shares)


@torch.no_grad()
def mixed_negatives(
    query: Tensor,
    negatives: Tensor,
    hardest: int,
    pairs: Tensor,
    shares: Tensor,
    single: Tensor,
    query_shares: Tensor,
) -> Tensor:
    """Points between the hardest negatives of each query, and between them and the query, brought to unit length.

    MoCHi (Kalantidis et al. 2020, arXiv:2010.01028), Eq. (3) and (4): ``a n_i + (1 - a) n_j`` and
    ``b q + (1 - b) n_j``. No gradient reaches the query through them.

    Args:
        query: (B, D) unit vectors.
        negatives: (K, D) unit vectors.
        hardest: N, the negatives with the largest dot products with a query are n_0, ..., n_{N-1}.
        pairs: (B, s, 2) int64 in [0, N), i and j.
        shares: (B, s) a in [0, 1].
        single: (B, s') int64 in [0, N), j.
        query_shares: (B, s') b in [0, 1/2).

    Returns:
        (B, s + s', D), first those of pairs.
    """
    rows = similarities(query, negatives).topk(hardest, dim=1).indices  # (B, N)
    first, second, other = (
        negatives[rows.gather(1, number)] for number in (pairs[..., 0], pairs[..., 1], single)
    )  # (B, s, D), (B, s, D), (B, s', D)
    between = torch.lerp(second, first, shares.to(second.dtype).unsqueeze(2))
    own = query.detach().to(other.dtype).unsqueeze(1).expand_as(other)
    towards = torch.lerp(other, own, query_shares.to(other.dtype).unsqueeze(2))
    return torch.nn.functional.normalize(torch.cat([between, towards], dim=1), dim=2)
