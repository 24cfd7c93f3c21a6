"""What methods of learning without labels share: an encoder, a mixup, and what loop and evaluation ask for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.methods.base import Method
from samix.methods.contrastive.mixup import AugmentationMixup, Mixing, embed_mixed
from samix.mixers.learned import MaskGenerator
from samix.mixups.base import Augmentation, new_generator
from samix.mixups.handmade import NoMixup
from samix.networks.batchnorm import plain_batchnorm
from samix.networks.encoder import Encoder
from samix.networks.inference import evaluating

Options = TypeVar("Options")


class ViewMethod(Method):
    """A method whose batch is ``(view_1, view_2)`` or ``(view_1, view_2, ids)``.

    A subclass sets ``options``, ``online``, ``mixing`` and ``generator``, and gives the step. Heads that are trained
    beside the encoder and dropped after training are modules of its own.
    """

    presets: ClassVar[Any] = {}

    options: Any
    online: Encoder
    mixing: Mixing | None
    generator: torch.Generator

    # The step ---------------------------------------------------------------------------------------------------------

    def add_mixed(
        self, loss: Tensor, parts: dict[str, Tensor], mixed: Tensor, weight: float, batches: Sequence[MixedBatch]
    ) -> Tensor:
        """The loss with the mixed one and what the mixup asks for beside it; parts are noted down."""
        parts["mixed"] = mixed
        for batch in batches:
            loss = loss + batch.extra_loss
            parts.update(batch.extra)
        return loss + weight * mixed

    # For the loop, the evaluation and the pictures --------------------------------------------------------------------

    def generators(self) -> list[torch.Generator]:
        """The one generator of all draws."""
        return [self.generator]

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.0, mixer_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """The encoder and its heads; what a mixup trains, as a Mixer, is a second group, or more."""
        mixers = [] if self.mixing is None else [p for p in self.mixing.parameters() if p.requires_grad]
        others = {id(p) for p in mixers}
        network = [p for p in self.parameters() if p.requires_grad and id(p) not in others]
        groups: list[dict[str, Any]] = [
            {"name": "network", "params": network, "lr": lr, "weight_decay": weight_decay},
        ]
        if self.mixing is not None:
            groups += self.mixing.parameter_groups(lr if mixer_lr is None else mixer_lr, weight_decay)
        return groups

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F): what is evaluated, the encoder's backbone. Call in eval mode."""
        return self.online.features(images)

    def extra_state(self) -> dict[str, Tensor]:
        """What the mixup remembers."""
        return {} if self.mixing is None else self.mixing.extra_state()

    def load_extra_state(self, state: Any) -> None:
        """Gives it back."""
        if self.mixing is not None:
            self.mixing.load_extra_state(state)

    def preview(self, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor) -> MixedBatch | None:
        """The mix of these pairs at this lam, by a hand-made mixup or by the Mixer as it is now."""
        if self.mixing is None:
            return None
        with evaluating(self):
            return self.mixing.preview(self, images, labels, lam, index)

    def export(self) -> nn.Module:
        """The encoder's backbone, without projector, with plain BatchNorm, in eval mode."""
        return plain_batchnorm(copy.deepcopy(self.online.model)).eval()


class GivenMixupMethod(ViewMethod, Generic[Options]):
    """A method whose mixup is not trained. A subclass gives :meth:`build` and the step.

    Args:
        model: maps (B, C, H, W) to features (B, F): a timm network with ``num_classes=0``, or any ``nn.Module``;
            trained in place.
        options: of the method, or the name of a preset; None is the first one.
        mixup: None, or any augmentation object that needs no labels.
        generator: CPU generator of the mixup's draws; None makes one from torch's seed.

    Raises:
        ValueError: unknown preset, or a network or mixup that cannot be used.
    """

    title: ClassVar[str]  # in messages

    options: Options
    mixing: AugmentationMixup | None

    def __init__(
        self,
        model: nn.Module,
        options: Options | str | None = None,
        *,
        mixup: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.options = choose_options(next(iter(self.presets)) if options is None else options, self.presets)
        self.build(model)
        self.generator = given_generator(generator)  # last: it is seeded by a draw, which comes after the weights'
        self.mixing = given_mixing(mixup, self.title, self.generator)

    def build(self, model: nn.Module) -> None:
        """Makes the encoder, and what is beside it on the model's device."""
        raise NotImplementedError

    def mix_both(self, view_1: Tensor, view_2: Tensor) -> list[tuple[Tensor, MixedBatch]]:
        """Either view mixed by the same draws, and embedded: ``[(embedding (B, D), batch)] * 2``, not of unit length.

        What a mixup reads off the pixels, as a place that is salient, is read off either view.
        """
        assert self.mixing is not None
        state = self.generator.get_state()
        first = embed_mixed(self.mixing.mixup, self.online, view_1)
        self.generator.set_state(state)
        return [first, embed_mixed(self.mixing.mixup, self.online, view_2)]


def given_mixing(
    mixup: Augmentation | MaskGenerator | None, method: str, generator: torch.Generator
) -> AugmentationMixup | None:
    """The mixing of a mixup that is not trained, or None for none.

    Raises:
        TypeError: not a mixup.
        ValueError: a Mixer that is to be trained, or a mixup that needs labels.
    """
    if isinstance(mixup, MaskGenerator):
        raise ValueError(
            f"{method} trains no Mixer: SAMix without labels is defined beside MoCo, which has the queue its loss "
            'needs; use MoCo, or a Mixer trained before: samix.Mixer.from_pretrained("runs/NAME/mixer")'
        )
    if mixup is not None and not isinstance(mixup, Augmentation):
        raise TypeError(f"mixup must be None or an augmentation object, got {type(mixup).__name__}")
    if mixup is None or isinstance(mixup, NoMixup):
        return None
    return AugmentationMixup(mixup, generator)


def choose_options(options: Options | str, presets: Mapping[str, Options]) -> Options:
    """The options, or the preset of this name.

    Raises:
        ValueError: unknown preset.
    """
    if not isinstance(options, str):
        return options
    if options not in presets:
        raise ValueError(f"unknown preset {options!r}; choose one of {', '.join(presets)}")
    return presets[options]


def given_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or a new one from torch's seed."""
    return new_generator() if generator is None else generator


def spread(z: Tensor) -> Tensor:
    """How unit vectors (B, D) spread: std per dimension times sqrt(D), about 1 when healthy, 0 when collapsed."""
    return z.detach().std(dim=0, correction=0).mean() * math.sqrt(z.shape[1])


def detached(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts of a loss for the log."""
    return {name: part.detach() for name, part in parts.items()}


def check_numbers(
    options: Any, *, counts: Sequence[str] = (), positive: Sequence[str] = (), shares: Sequence[str] = ()
) -> None:
    """Raises ValueError unless these options are at least 1, above 0, or in [0, 1]; None is let through."""
    rules: tuple[tuple[Sequence[str], str, Callable[[float], bool]], ...] = (
        (counts, "at least 1 and below 2^31", lambda value: 1 <= value < 2**31),
        (positive, "positive", lambda value: value > 0),
        (positive, "below 1e18", lambda value: value < 1e18),
        (shares, "in [0, 1]", lambda value: 0.0 <= value <= 1.0),
    )
    for names, what, holds in rules:
        for name in names:
            value = getattr(options, name)
            if value is not None and not holds(value):
                raise ValueError(f"{name} must be {what}, got {value}")
