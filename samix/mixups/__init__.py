"""Every mixup by its name. Those that train a Mixer are methods: AutoMix, SAMix, Adversarial AutoMix."""

from samix.mixing import Augmentation
from samix.mixups.align import AlignMix
from samix.mixups.attentive import AttentiveMix, SnapMix
from samix.mixups.choice import DeiTMix, RSBMix
from samix.mixups.comix import CoMixup
from samix.mixups.handmade import CutMix, FMix, GridMix, MixUp, NoMixup, ResizeMix, SmoothMix
from samix.mixups.hidden import ManifoldMix
from samix.mixups.puzzle import PuzzleMix
from samix.mixups.recursive import RecursiveMix
from samix.mixups.salient import GuidedMixup, SaliencyGrafting, SaliencyMix
from samix.mixups.tokens import MaskMix, PatchCutMix, SMMix, TokenMix
from samix.relabel import MixPro, SUMix, TokenLabelAlign, TransMix

HANDMADE: tuple[type[Augmentation], ...] = (
    NoMixup,
    MixUp,
    CutMix,
    ResizeMix,
    FMix,
    GridMix,
    SmoothMix,
    DeiTMix,
    RSBMix,
    RecursiveMix,
)
GUIDED: tuple[type[Augmentation], ...] = (
    SaliencyMix,
    GuidedMixup,
    SaliencyGrafting,
    AttentiveMix,
    SnapMix,
    PuzzleMix,
    CoMixup,
)
HIDDEN: tuple[type[Augmentation], ...] = (ManifoldMix, AlignMix)
OF_TOKENS: tuple[type[Augmentation], ...] = (PatchCutMix, MaskMix, TokenMix, SMMix)
LABEL_SIDE: tuple[type[Augmentation], ...] = (TransMix, MixPro, TokenLabelAlign, SUMix)

MIXUPS: dict[str, type[Augmentation]] = {
    kind.name: kind for kind in (*HANDMADE, *GUIDED, *HIDDEN, *OF_TOKENS, *LABEL_SIDE)
}
