"""Label-side methods: the weights of a mixed label, read from the network that sees the mixed image.

TransMix, MixPro and TL-Align read the attention of a timm ViT, SUMix compares predictions of any network. Each wraps a
mixup of images, any that has a mask, named by ``base`` or handed in as ``mixup``. They act in ``forward_through``;
called on images alone they give the batch of the mixup they wrap. The arithmetic is in plain functions, for a loop of
your own:

    logits, attention = class_attention(model, batch.images)
    lam = transmix_lam(attention, batch.mask)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels, check_range
from samix.mixing import Augmentation, Guides
from samix.networks.attention import (
    attention_layers,
    class_attention,
    patch_grid,
    predicts_from_class_token,
    prefix_tokens,
    watching,
)
from samix.networks.backbone import find_layer, hooked
from samix.networks.modes import unwrap
from samix.switching import SwitchingAugmentation, idle

# ---------------------------------------------------------------------------------------------------------------------
# Wrapping a mixup.


def base_mixup(
    name: str, options: Mapping[str, Any], generator: torch.Generator, ready: Augmentation | None
) -> Augmentation:
    """The mixup that a label-side method wraps; all its draws come from ``generator``.

    Args:
        name: of a mixup.
        options: for it, where it is made by name.
        generator: of the wrapper, the very object: who seeds it seeds both.
        ready: a mixup to be copied instead, with its own options.

    Raises:
        ValueError: unknown name, or a mixup that acts inside or after the forward pass.
    """
    from samix.mixups import MIXUPS  # here, as samix.mixups imports this file
    from samix.mixups.align import AlignMix
    from samix.mixups.handmade import RandomChoice
    from samix.mixups.hidden import ManifoldMix
    from samix.mixups.tokens import MaskMix, PatchCutMix

    if ready is None:
        kinds = {**MIXUPS, MaskMix.name: MaskMix, PatchCutMix.name: PatchCutMix}
        if name not in kinds:
            raise ValueError(f"unknown base {name!r}; choose one of {', '.join(sorted(kinds))}")
        made: Augmentation = kinds[name](generator=generator, **options)
    elif isinstance(ready, RandomChoice):
        made = RandomChoice(ready.choices, ready.weights, generator=generator)
    else:
        made = dataclasses.replace(ready, generator=generator)
    for one in made.choices if isinstance(made, RandomChoice) else (made,):
        if isinstance(one, ManifoldMix | AlignMix | Relabelling):
            raise ValueError(
                f"{type(one).__name__} acts inside or after the forward pass, so it cannot be the mixup of images that "
                "is relabelled; take one that mixes pixels by a mask, such as cutmix, fmix, gridmix or maskmix"
            )
    return made


@dataclass
class Relabelling(SwitchingAugmentation):
    """Base of the label-side methods.

    ``alpha``, ``prob``, ``per_sample`` and ``pairing`` are handed to the mixup that is named by ``base``; a ready
    ``mixup`` keeps its own, and these fields then tell what they are. Draws come from one generator, this object's.
    Only the images of the wrapped mixup are taken: further losses it may have are left out.

    Args:
        base: name of the mixup whose labels are changed; any that mixes pixels by a mask.
        mixup: a ready object instead; it is copied.
    """

    base: str = "cutmix"
    mixup: Augmentation | None = field(default=None, kw_only=True, repr=False)
    inner: Augmentation = field(init=False, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        shared = ("alpha", "prob", "per_sample", "pairing")
        options = {name: getattr(self, name) for name in shared} | self.base_options()
        self.inner = base_mixup(self.base, options, self.generator, self.mixup)
        if self.mixup is not None:
            self.base = self.mixup.name
            for name in shared:
                setattr(self, name, getattr(self.mixup, name))

    def base_options(self) -> dict[str, Any]:
        """Further options for the mixup that is named by ``base``."""
        return {}

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        """Runs the model on the mixed batch and changes its weights; ``images`` are the clean ones."""
        raise NotImplementedError

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes, runs the model, and changes the labels' weights.

        Args:
            model: (B, C, H, W) to (B, K); its hooks are as before afterwards.
            images: (B, C, H, W). Not modified.
            labels: (B,) class ids or values, or (B, K) float targets.

        Returns:
            Logits (B, K), and the batch. Batches left to another mixup (``switch``) keep its labels.

        Raises:
            TypeError, ValueError: wrong images or labels, a mixup without a mask or with more than two sources, or a
                network that cannot be read.
        """
        check_images(images)
        check_labels(labels, len(images))  # a label at each pixel has no single weight
        if self.draw_switch():
            batch = self.instead()(images, labels)
            return model(batch.images), self.untrained(batch)
        batch = self.inner(images, labels, model=model)
        if batch.mask is None or batch.labels.shape[1] != 2 or batch.target is not None:
            raise ValueError(
                f"{type(self).__name__} changes the weights of two labels by the mask that mixed their images; "
                f"{type(self.inner).__name__} gave no mask, more sources, or a label of its own"
            )
        return self.relabel(model, batch, images)

    def untrained(self, batch: MixedBatch) -> MixedBatch:
        """A batch that was left to another mixup."""
        return batch

    # All else is the wrapped mixup's ---------------------------------------------------------------------------------

    def draw_lam(self, batch_size: int) -> Tensor:
        """As the wrapped mixup."""
        return self.inner.draw_lam(batch_size)

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """As the wrapped mixup."""
        return self.inner.draw_extras(shape)

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """As the wrapped mixup."""
        return self.inner.apply(x, partner, lam, guides, **extras)

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        """As the wrapped mixup."""
        return self.inner.mix(images, lam, index)

    def check_batch(self, images: Tensor, labels: Tensor) -> None:
        """As the wrapped mixup."""
        self.inner.check_batch(images, labels)

    def __call__(
        self, images: Tensor, labels: Tensor, *, lam: Tensor | float | None = None, **given: Any
    ) -> MixedBatch:
        """The wrapped mixup's batch, or MixUp's where that is drawn; labels are changed in :meth:`forward_through`."""
        if lam is None and self.draw_switch():
            return self.instead()(images, labels, index=given.get("index"))
        return self.inner(images, labels, lam=lam, **given)

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """Nothing, unless the method says so.

        Raises:
            ValueError: the wrapped mixup wants a head of its own, whose loss is not part of this method.
        """
        if self.inner.attach(model, num_classes) is not None:
            raise ValueError(
                f"{type(self.inner).__name__} trains a head by a further loss, which {type(self).__name__} leaves out; "
                "set that loss to 0 (as cell_weight=0 of gridmix), or take another mixup"
            )
        return None

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Tells the wrapped mixup."""
        self.inner.set_normalization(mean, std)

    def reset(self) -> None:
        """The wrapped mixup forgets."""
        self.inner.reset()

    def state_dict(self) -> dict[str, Tensor]:
        """What the wrapped mixup remembers."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Gives it back to the wrapped mixup."""
        self.inner.load_state_dict(state)


def with_lam(batch: MixedBatch, lam: Tensor, **changes: Any) -> MixedBatch:
    """The batch with weights (lam, 1 - lam)."""
    return dataclasses.replace(batch, weights=torch.stack([lam, 1.0 - lam], dim=1), **changes)


def area(batch: MixedBatch) -> Tensor:
    """(B,) share of own pixels; 1 for a row that is paired with itself."""
    assert batch.mask is not None
    size = batch.mask.shape[2] * batch.mask.shape[3]
    same = batch.index[:, 0] == batch.index[:, 1]
    return torch.where(same, 1.0, batch.mask.sum((1, 2, 3)) / size)


# ---------------------------------------------------------------------------------------------------------------------
# TransMix.


def attention_lam(attention: Tensor, mask: Tensor) -> Tensor:
    """The share of the attention that falls on own pixels.

    TransMix: ``sum(a M) / sum(a)``, with the mask M taken at one pixel of each patch, as "nearest" resizing does.

    Args:
        attention: (B, gh, gw) at least 0, on the patch grid, without a graph.
        mask: (B, 1, H, W) share of the own image.

    Returns:
        (B,) float32 in [0, 1].
    """
    own = F.interpolate(mask.float(), attention.shape[1:], mode="nearest").squeeze(1)
    attention = attention.detach().float()
    total = attention.sum((1, 2))
    share = (attention * own).sum((1, 2)) / torch.where(total > 0.0, total, 1.0)
    return torch.where(total > 0.0, share, own.mean((1, 2))).clamp(0.0, 1.0)


def transmix_lam(attention: Tensor, mask: Tensor, lam_area: Tensor | None = None, ratio: float = 0.5) -> Tensor:
    """The label's lam, between the share of pixels and the share of attention.

    TransMix (Chen et al., CVPR 2022, arXiv:2111.09833): ``(1 - ratio) lam_area + ratio lam_attention``.

    Args:
        attention: as :func:`attention_lam`, see :func:`samix.networks.attention.class_attention`.
        mask: as :func:`attention_lam`.
        lam_area: (B,); None takes the mask's mean.
        ratio: 0 the area alone, 1 the attention alone; 1/2 as published.

    Returns:
        (B,) float32 in [0, 1].
    """
    lam_area = mask.float().mean((1, 2, 3)) if lam_area is None else lam_area
    return torch.lerp(lam_area, attention_lam(attention, mask), ratio)


@dataclass
class TransMix(Relabelling):
    """TransMix, see :func:`transmix_lam`, on a timm ViT: labels follow the attention of the mixed image's own pass.

    Args:
        switch: as released: CutMix for 0.8 of the batches, MixUp for the rest, which keep their labels.
        ratio: share of the attention in lam, the rest is area; in [0, 1].
    """

    name: ClassVar[str] = "transmix"

    switch: float = 0.2
    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"ratio must be in [0, 1], got {self.ratio}")

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        """Reads the attention of the pass that is trained."""
        logits, attention = class_attention(model, batch.images)
        assert batch.mask is not None
        return logits, with_lam(batch, transmix_lam(attention, batch.mask, area(batch), self.ratio))


# ---------------------------------------------------------------------------------------------------------------------
# MixPro.


def progress_factor(logits: Tensor, target: Tensor) -> Tensor:
    """How far the network has come with each sample: the cosine of its prediction and the label.

    MixPro's progressive attention labelling. The released code lets the gradient through; this is a weight, so here
    there is none.

    Args:
        logits: (B, K).
        target: (B, K) mixed label, at least 0.

    Returns:
        (B,) float32 in [0, 1].
    """
    prediction = logits.detach().float().softmax(dim=1)
    return F.cosine_similarity(prediction, target.float(), dim=1).clamp(0.0, 1.0)


def mixpro_lam(attention_share: Tensor, lam_area: Tensor, progress: Tensor) -> Tensor:
    """The label's lam: the area early in training, the attention later.

    MixPro (Zhao et al., ICLR 2023, arXiv:2304.12043): ``progress lam_attention + (1 - progress) lam_area``.

    Args:
        attention_share: (B,), see :func:`attention_lam`.
        lam_area: (B,).
        progress: (B,) in [0, 1], see :func:`progress_factor`.

    Returns:
        (B,) float32, between the two.
    """
    return torch.lerp(lam_area, attention_share, progress)


@dataclass
class MixPro(Relabelling):
    """MixPro: MaskMix, and labels that follow the attention the more the better the network predicts them.

    See :func:`samix.mixups.tokens.maskmix`, :func:`mixpro_lam`. Without the labels' part it is MaskMix.

    Args:
        base: MaskMix, or another.
        switch: probability, per batch, of MixUp or CutMix (half and half) instead, as released.
        smoothing: label smoothing of the label that the prediction is compared with.
    """

    name: ClassVar[str] = "mixpro"

    switch: float = 0.5
    base: str = "maskmix"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")

    def instead(self) -> Augmentation:
        """MixUp or CutMix, half and half, as timm's."""
        from samix.mixups.handmade import CutMix, RandomChoice

        shared: dict[str, Any] = {"per_sample": self.per_sample, "pairing": self.pairing}
        other = CutMix(prob=self.prob, generator=self.generator, **shared)
        return RandomChoice([super().instead(), other], generator=self.generator)

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        """Reads the attention and the prediction of the pass that is trained."""
        logits, attention = class_attention(model, batch.images)
        assert batch.mask is not None
        by_area = with_lam(batch, area(batch))
        progress = progress_factor(logits, by_area.soft_targets(logits.shape[1], self.smoothing))
        lam = mixpro_lam(attention_lam(attention, batch.mask), by_area.lam, progress)
        return logits, with_lam(batch, lam)


# ---------------------------------------------------------------------------------------------------------------------
# TL-Align.


def align_labels(attentions: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Takes the tokens' labels through the network, block by block, as attention takes the tokens.

    TL-Align (Xiao et al., ICCV 2023, arXiv:2210.06455): ``Y <- (Y + A Y) / 2``, where the half that stays mirrors the
    skip connection.

    Args:
        attentions: of each block, (B, T, T), mean over heads, rows sum to 1; see
            :func:`samix.networks.attention.capture_attention`.
        labels: (B, T, k) of each token: k = K classes, or k = 2 shares of the own and of the partner's image, which
            say the same, as all steps are linear.

    Returns:
        (B, T, k) float32, of the last block's tokens.
    """
    labels = labels.float()
    for attention in attentions:
        labels = align_step(attention, labels)
    return labels


def align_step(attention: Tensor, labels: Tensor) -> Tensor:
    """One block of :func:`align_labels`, in float32 also under autocast."""
    with torch.autocast(labels.device.type, enabled=False):
        return torch.lerp(labels, attention.detach().float() @ labels, 0.5)


def token_shares(mask: Tensor, lam: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """The share of own and partner in each token.

    Args:
        mask: (B, 1, H, W) share of the own image.
        lam: (B,) share of the own image in the class token, and in all tokens before the patches.
        grid: rows and columns of the patches.
        prefix: number of tokens before the patches.

    Returns:
        (B, T, 2) float32; rows sum to 1. A patch's share is the mean of its pixels: 0 or 1 where the mask keeps to the
        patches' borders.
    """
    patches = F.adaptive_avg_pool2d(mask.float(), grid).flatten(1)
    own = torch.cat([lam.unsqueeze(1).expand(-1, prefix), patches], dim=1)
    return torch.stack([own, 1.0 - own], dim=2)


@dataclass
class TokenLabelAlign(Relabelling):
    """TL-Align on a timm ViT: the label is what attention has made of the tokens' labels, see :func:`align_labels`.

    The label is read where the classifier reads: at the class token, or as the mean of the tokens that are pooled.

    Args:
        base: CutMix by whole patches, so that every token is pure; with another, border tokens count by their pixels.
        patch: side of the network's patches in pixels, for that box.
    """

    name: ClassVar[str] = "tla"

    base: str = "patchcutmix"
    patch: int = 16

    def base_options(self) -> dict[str, Any]:
        """The patch, where the base is drawn on the grid."""
        return {"patch": self.patch} if self.base == "patchcutmix" else {}

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        """Takes the tokens' shares along while the network runs; no attention is kept."""
        attention_layers(model)
        assert batch.mask is not None
        grid = patch_grid(model, (images.shape[2], images.shape[3]))
        lam, prefix = area(batch), prefix_tokens(model)
        shares = [token_shares(batch.mask, lam, grid, prefix)]

        def step(attention: Tensor) -> None:
            shares.append(align_step(attention.mean(1), shares.pop()))

        with watching(model, step):
            logits = model(batch.images)
        read = shares[0][:, _read_tokens(model)].mean(1)  # (B, 2)
        # Rows of attention sum to 1 but for rounding, so an unmixed row is told apart
        aligned = torch.where((lam == 0.0) | (lam == 1.0), lam, read[:, 0] / read.sum(1))
        return logits, with_lam(batch, aligned)


def _read_tokens(model: nn.Module) -> slice:
    """The tokens that the classifier of a timm ViT reads."""
    net: Any = unwrap(model)
    prefix = prefix_tokens(model)
    if predicts_from_class_token(model):
        return slice(0, 2 if hasattr(net, "head_dist") else 1)  # the mean of class and distillation token
    return slice(0 if getattr(net, "pool_include_prefix", False) else prefix, None)


# ---------------------------------------------------------------------------------------------------------------------
# SUMix.


def sumix_distance(clean: Tensor, mixed: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """How the prediction of the mixed image differs from that of one of its two images.

    SUMix: ``l2norm(softmax(p_mixed - p))``, p the clean prediction without the class of the other image.

    Args:
        clean: (B, K) logits of the clean image.
        mixed: (B, K) logits of the mixed image.
        own: (B,) class id of the clean image.
        other: (B,) class id of the other image; where it is the same class, nothing is taken out.

    Returns:
        (B, K) float32, rows of length 1, without a graph.
    """
    p, q = clean.detach().float().softmax(dim=1), mixed.detach().float().softmax(dim=1)
    classes = torch.arange(p.shape[1], device=p.device)
    taken = (other.unsqueeze(1) == classes) & (own != other).unsqueeze(1)
    return F.normalize((q - torch.where(taken, 0.0, p)).softmax(dim=1), dim=1)


def sumix_lam(lam: Tensor, own_distance: Tensor, partner_distance: Tensor, labels: Tensor, kappa: float) -> Tensor:
    """The label's lam: smaller for the image that the mix has less to do with.

    SUMix (Qin et al., ECCV 2024, arXiv:2407.07805): ``lam g_a / (lam g_a + (1 - lam) g_b)`` with ``g = exp(-kappa d)``
    at the true class; as ``sigmoid(logit(lam) + kappa (d_b - d_a))``, which never divides 0 by 0.

    Args:
        lam: (B,) share of the own image.
        own_distance: (B, K), see :func:`sumix_distance`.
        partner_distance: (B, K).
        labels: (B, 2) class ids; where they are the same, lam stays.
        kappa: at least 0.

    Returns:
        (B,) float32 in [0, 1].
    """
    gap = partner_distance.gather(1, labels[:, 1:]) - own_distance.gather(1, labels[:, :1])
    moved = torch.sigmoid(torch.logit(lam) + kappa * gap.squeeze(1))
    keep = (labels[:, 0] == labels[:, 1]) | (lam == 0.0) | (lam == 1.0) | (gap.squeeze(1) == 0.0)
    return torch.where(keep, lam, moved)


def uncertainty_loss(
    distances: tuple[Tensor, Tensor], uncertainty: tuple[Tensor, Tensor, Tensor], batch: MixedBatch, kappa: float
) -> Tensor:
    """What trains the uncertainty head: cross-entropies of ``exp(-(u + u_mixed + kappa d))``, taken as logits.

    SUMix's second loss, each image's by its share.

    Args:
        distances: (B, K) of the own image and of the partner, see :func:`sumix_distance`.
        uncertainty: (B, K) of the own image, the partner and the mix.
        batch: with class ids and the mixup's own weights.
        kappa: as :func:`sumix_lam`.

    Returns:
        Scalar, in nats.
    """
    total = torch.zeros_like(batch.lam)
    for source in (0, 1):
        value = torch.exp(-(uncertainty[source] + uncertainty[2] + kappa * distances[source]))
        total = total + batch.weights[:, source] * F.cross_entropy(value, batch.labels[:, source], reduction="none")
    return total.mean()


@dataclass
class SUMix(Relabelling):
    """SUMix, for any network with a linear classifier: labels follow how the mix is predicted.

    Each step also runs the network on the clean images, as part of training (with a gradient, in the mode it is in).

    Args:
        alpha: 0.2 as published with CutMix and FMix, 1 with ResizeMix.
        kappa: how much the distances count, at least 0. In the released code it is the batch size, so
            100 is what it does for batches of 100.
        gamma: weight of the loss of the uncertainty head; without that head, see :meth:`attach`, it is left out.
        classifier: dotted name of the last linear layer; empty takes timm's, or the last one of the network.
        head: of the uncertainty; made by :meth:`attach`.
    """

    name: ClassVar[str] = "sumix"

    alpha: float = 0.2
    kappa: float = 100.0
    gamma: float = 0.5
    classifier: str = ""
    head: nn.Module | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.kappa < float("inf") or not 0.0 <= self.gamma < float("inf"):
            raise ValueError(f"kappa and gamma must be finite and at least 0, got {self.kappa} and {self.gamma}")

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """Makes the uncertainty head, (B, F) -> (B, K).

        Raises:
            ValueError: no linear classifier of num_classes outputs is found, or the wrapped mixup wants a head.
        """
        super().attach(model, num_classes)
        linear = find_classifier(model, self.classifier, num_classes)
        self.head = nn.Linear(linear.in_features, num_classes, device=linear.weight.device)
        return self.head

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        """Runs mixed and clean images, and compares."""
        if batch.labels.is_floating_point():
            raise ValueError("SUMix compares predictions at the true class: give class ids (B,), not float targets")
        batch = with_lam(batch, area(batch))
        layer = None if self.head is None else find_classifier(model, self.classifier, None)
        logits, mixed_features = _with_features(model, batch.images, layer)
        clean, clean_features = _with_features(unwrap(model), images, layer)
        check_range(batch.labels, logits.shape[1])
        partner = batch.index[:, 1]
        own_label, partner_label = batch.labels.unbind(1)
        distances = (
            sumix_distance(clean, logits, own_label, partner_label),
            sumix_distance(clean[partner], logits, partner_label, own_label),
        )
        lam = sumix_lam(batch.lam, *distances, batch.labels, self.kappa)
        if clean_features is None or mixed_features is None:
            return logits, with_lam(batch, lam)
        own, mixed = self._uncertainty(clean_features), self._uncertainty(mixed_features)
        term = self.gamma * uncertainty_loss(distances, (own, own[partner], mixed), batch, self.kappa)
        return logits, with_lam(batch, lam, extra={**batch.extra, "uncertainty": term})

    def _uncertainty(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, K) float32, rows of length 1: ``l2norm(softmax(W f))``."""
        head: Any = self.head
        return F.normalize(head(features.to(head.weight.dtype)).float().softmax(dim=1), dim=1)

    def untrained(self, batch: MixedBatch) -> MixedBatch:
        """The head is part of every step's graph, as DistributedDataParallel asks."""
        return batch if self.head is None else dataclasses.replace(batch, extra={"uncertainty": idle(self.head)})


def find_classifier(model: nn.Module, name: str, num_classes: int | None) -> nn.Linear:
    """The last linear layer of a network.

    Args:
        model: any; timm's classifier is asked for, otherwise the last ``nn.Linear`` is taken.
        name: dotted, or empty.
        num_classes: what it must give; None does not ask.

    Raises:
        ValueError: there is none, or it gives another number of outputs.
    """
    net: Any = unwrap(model)
    if name:
        found: Any = find_layer(net, name, "classifier")
    elif hasattr(net, "get_classifier"):
        found = net.get_classifier()
    else:
        found = next((m for m in reversed(list(net.modules())) if isinstance(m, nn.Linear)), None)
    if not isinstance(found, nn.Linear) or num_classes not in (None, found.out_features):
        got = f"Linear of {found.out_features} outputs" if isinstance(found, nn.Linear) else type(found).__name__
        raise ValueError(
            f"SUMix reads the input of the last linear layer, (B, F) to {num_classes or 'the'} classes; found {got}; "
            'name it: classifier="layer.name"'
        )
    return found


def _with_features(model: nn.Module, images: Tensor, layer: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """The logits, and the input (B, F) of a layer, both with their graph."""
    if layer is None:
        return model(images), None
    kept: list[Tensor] = []
    with hooked(layer.register_forward_pre_hook(lambda _layer, args: kept.append(args[0]))):
        logits = model(images)
    if len(kept) != 1 or kept[0].dim() != 2:
        raise ValueError(f"the classifier must run once, on (B, F), in each pass; it ran {len(kept)} times")
    return logits, kept[0]
