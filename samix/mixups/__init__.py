"""Every mixup by its name. Those that train a Mixer are methods: AutoMix, SAMix, Adversarial AutoMix."""

from samix.mixups.base import Augmentation
from samix.mixups.image_side import IMAGE_SIDE
from samix.mixups.mixpro import MixPro
from samix.mixups.sumix import SUMix
from samix.mixups.token_align import TokenLabelAlign
from samix.mixups.transmix import TransMix

LABEL_SIDE: tuple[type[Augmentation], ...] = (TransMix, MixPro, TokenLabelAlign, SUMix)

MIXUPS: dict[str, type[Augmentation]] = {**IMAGE_SIDE, **{kind.name: kind for kind in LABEL_SIDE}}
