"""Bases of the self-supervised methods: an encoder, a mixup, and what the training loop and the evaluation call."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.methods.base import Method, ParameterGroups, choose_options, detached
from samix.methods.contrastive.clustering import OnlineClusters
from samix.methods.contrastive.mixup import AugmentationMixup, ContrastiveMixup, Views, embed_mixed
from samix.mixers.base import MaskGenerator
from samix.mixups.base import Augmentation, new_generator
from samix.mixups.handmade import NoMixup
from samix.networks.batchnorm import plain_batchnorm
from samix.networks.ema import ema_decay_at, train_norms, update_ema
from samix.networks.encoder import Encoder
from samix.networks.inference import evaluating

Options = TypeVar("Options")
Target = TypeVar("Target")


class ViewMethod(Method):
    """A method whose batch is ``(view_1, view_2)`` or ``(view_1, view_2, ids)``.

    A subclass sets ``options``, ``encoder``, ``mixup`` and ``generator``, and writes ``training_step``. Heads that are
    trained beside the encoder and dropped after training are modules of its own.
    """

    presets: ClassVar[Mapping[str, Any]] = {}  # options by name; the first one is the default
    title: ClassVar[str]  # the method's name in messages
    fixed_mixing: ClassVar[str] = ""  # why the method takes no mixup; empty if it takes one
    trains_mixer: ClassVar[bool] = False  # whether a mixup may be a Mixer that is to be trained, or take clusters
    clean_part: ClassVar[str] = "nce"  # name of the clean loss

    options: Any
    encoder: Encoder
    mixup: ContrastiveMixup | None
    generator: torch.Generator

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step.

        Args:
            batch: two views (B, C, H, W) of the same images, normalised, and, for mixups that need them, the images'
                row numbers (B,) int64.

        Returns:
            Loss, and its parts: the clean loss ``nce`` or ``clean``, those of the mixup, and ``key_std``, the targets'
            spread per dimension times sqrt(D): about 1 when they are healthy, 0 when they have collapsed.

        Raises:
            ValueError: one view only, views of another shape, or a batch that cannot be paired.
        """
        raise NotImplementedError

    @property
    def loss_parts(self) -> tuple[str, ...]:  # type: ignore[override]  # depends on the mixup
        """The clean loss, those of the mixup, and the spread of the keys."""
        return (self.clean_part, *(() if self.mixup is None else self.mixup.loss_parts), "key_std")

    def parameter_version(self) -> int:
        """Counts the changes of the encoder; a step may change other parameters by itself."""
        return next((p._version for p in self.encoder.parameters() if p.requires_grad), 0)

    def generators(self) -> list[torch.Generator]:
        return [self.generator]

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.0, mixer_lr: float | None = None
    ) -> ParameterGroups:
        """The encoder and its heads, then the groups of the mixup, such as a Mixer."""
        mixers = set() if self.mixup is None else {id(p) for p in self.mixup.parameters()}
        network = [p for p in self.parameters() if p.requires_grad and id(p) not in mixers]
        groups: ParameterGroups = [{"name": "network", "params": network, "lr": lr, "weight_decay": weight_decay}]
        if self.mixup is not None:
            groups += self.mixup.parameter_groups(lr if mixer_lr is None else mixer_lr, weight_decay)
        return groups

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F): the features to evaluate, those of the encoder's backbone. Call in eval mode."""
        return self.encoder.features(images)

    @property
    def teacher(self) -> Encoder:
        """The encoder that gives the targets: the encoder itself, or its moving average."""
        return self.encoder

    @property
    def clusters(self) -> OnlineClusters | None:
        """The clusters that the mixup keeps, if it keeps any."""
        return None if self.mixup is None else self.mixup.online_clusters()

    def preview(self, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor) -> MixedBatch | None:
        if self.mixup is None:
            return None
        with evaluating(self):
            return self.mixup.preview(self.encoder, self.teacher, images, labels, lam, index)

    def extra_state(self) -> dict[str, Tensor]:
        return {} if self.mixup is None else self.mixup.extra_state()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        if self.mixup is not None:
            self.mixup.load_extra_state(state)

    def export(self) -> nn.Module:
        """The encoder's backbone, without projector, with plain BatchNorm, in eval mode."""
        return plain_batchnorm(copy.deepcopy(self.encoder.model)).eval()


class FixedMixupMethod(ViewMethod, Generic[Options]):
    """A method whose mixup is not trained. A subclass writes :meth:`build` and ``training_step``.

    Args:
        model: maps (B, C, H, W) to features (B, F): a timm network with ``num_classes=0``, or any ``nn.Module``;
            trained in place. BatchNorm should see the batch of all processes: where there are several, convert the
            method by ``nn.SyncBatchNorm.convert_sync_batchnorm``.
        options: of the method, or the name of a preset; None is the first preset.
        mixup: None, or any augmentation object that needs no labels.
        generator: CPU generator of the mixup's draws; None makes one from torch's seed.
    """

    options: Options
    mixup: AugmentationMixup | None

    def __init__(
        self,
        model: nn.Module,
        options: Options | str | None = None,
        *,
        mixup: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        refuse_mixup(self, mixup)
        self.options = choose_options(options, self.presets)
        self.build(model)
        self.generator = generator or new_generator()  # last: it is seeded by a draw, which comes after the weights'
        self.mixup = fixed_mixup(mixup, self.title, self.generator)
        self.train()

    def build(self, model: nn.Module) -> None:
        """Makes the encoder, and the other networks on the model's device."""
        raise NotImplementedError

    def mix_both(self, view_1: Tensor, view_2: Tensor) -> list[tuple[Tensor, MixedBatch]]:
        """Mixes and embeds either view, by the same draws: ``[(embedding (B, D), batch)] * 2``, not of unit length.

        A mixup that reads the pixels, as SaliencyMix does, reads those of either view.
        """
        assert self.mixup is not None
        state = self.generator.get_state()
        first = embed_mixed(self.mixup.augmentation, self.encoder, view_1)
        self.generator.set_state(state)
        return [first, embed_mixed(self.mixup.augmentation, self.encoder, view_2)]

    def mixed_terms(
        self,
        views: tuple[Tensor, Tensor],
        targets: Sequence[Target],
        term: Callable[[Tensor, MixedBatch, Target], Tensor],
    ) -> list[Tensor]:
        """Mixed losses of both views; empty without a mixup.

        Args:
            views: both, (B, C, H, W).
            targets: for each mixed view, those of the other, clean view.
            term: the mean loss of (embedding (B, D) of a mix, its batch, targets), a scalar.
        """
        if self.mixup is None:
            return []
        both = zip(self.mix_both(*views), targets, strict=True)
        return [term(z, batch, target) for (z, batch), target in both]

    def total(
        self, clean: Tensor, mixed: Sequence[Tensor], mixed_weight: float, key: Tensor, *, mean: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the mixed losses to the clean one.

        Args:
            clean: scalar.
            mixed: scalars, from :meth:`mixed_terms`.
            mixed_weight: of the mixed loss.
            key: (B, D) unit vectors whose spread is reported.
            mean: take the mean over the views, not the sum.

        Returns:
            The loss, and its parts for the log.
        """
        loss, parts = clean, {self.clean_part: clean}
        if mixed:
            terms = torch.stack(list(mixed))
            parts["mixed"] = terms.mean() if mean else terms.sum()
            loss = loss + mixed_weight * parts["mixed"]
        parts["key_std"] = spread(key)
        return loss, detached(parts)


class EMAEncoderMethod(ViewMethod):
    """A method with an exponential moving average of its encoder. Options have ``ema_decay`` and ``ema_decay_end``."""

    ema_encoder: Encoder

    @property
    def teacher(self) -> Encoder:
        return self.ema_encoder

    def ema_decay(self, progress: float) -> float:
        """The decay at this progress: a cosine to ``ema_decay_end``; constant if that is None."""
        start, end = self.options.ema_decay, self.options.ema_decay_end
        return float(start) if end is None else ema_decay_at(progress, start, end, 0.0)

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        update_ema(self.encoder, self.ema_encoder, self.ema_decay(progress))

    def train(self, mode: bool = True) -> EMAEncoderMethod:
        """Sets train mode; of the EMA encoder only norms that keep statistics are in train mode."""
        super().train(mode)
        train_norms(self.ema_encoder, mode)
        return self


def refuse_mixup(method: ViewMethod, mixup: Augmentation | MaskGenerator | None) -> None:
    """Raises ValueError for a mixup beside a method that takes none; no mixing at all is accepted."""
    if method.fixed_mixing and not mixes_nothing(mixup):
        raise ValueError(
            f"{method.title} takes no mixup, as {method.fixed_mixing}; got {type(mixup).__name__}. Leave it out "
            "(samix pretrain: --mixup vanilla), or give it to MoCo, MoCo v3, SimCLR, BYOL, SimSiam or SwAV"
        )


def mixes_nothing(mixup: object) -> bool:
    """Whether this is no mixup at all: None, or the object for no mixing."""
    return mixup is None or isinstance(mixup, NoMixup)


def fixed_mixup(
    mixup: Augmentation | MaskGenerator | None, method: str, generator: torch.Generator
) -> AugmentationMixup | None:
    """The contrastive form of a mixup that is not trained, or None for none."""
    if mixes_nothing(mixup):
        return None
    if isinstance(mixup, MaskGenerator):
        raise ValueError(
            f"{method} trains no Mixer: SAMix without labels is defined beside MoCo, which has the queue its loss "
            'needs; use MoCo, or a Mixer trained before: samix.Mixer.from_pretrained("runs/NAME/mixer")'
        )
    if not isinstance(mixup, Augmentation):
        raise TypeError(f"mixup must be None or an augmentation object, got {type(mixup).__name__}")
    return AugmentationMixup(mixup, generator)


def spread(z: Tensor) -> Tensor:
    """How unit vectors (B, D) spread: std per dimension times sqrt(D), about 1 when healthy, 0 when collapsed."""
    return z.detach().std(dim=0, correction=0).mean() * math.sqrt(z.shape[1])
