"""Every mixup, by kind: hand-made, hidden, learned."""

from samix.mixing import Augmentation
from samix.mixups.handmade import CutMix, FMix, GridMix, MixUp, NoMixup, ResizeMix, SmoothMix
from samix.mixups.hidden import ManifoldMix

_KINDS: tuple[type[Augmentation], ...] = (NoMixup, MixUp, CutMix, ResizeMix, FMix, GridMix, SmoothMix, ManifoldMix)
MIXUPS: dict[str, type[Augmentation]] = {kind.name: kind for kind in _KINDS}
