"""Mixups of images, by kind and by name: those that a label-side method can be asked to wrap."""

from samix.mixups.align import AlignMix
from samix.mixups.attentive import AttentiveMix, SnapMix
from samix.mixups.base import Augmentation
from samix.mixups.boxes import CutMix, ResizeMix
from samix.mixups.choice import DeiTMix, RSBMix
from samix.mixups.comix import CoMixup
from samix.mixups.fourier import FMix
from samix.mixups.grid import GridMix
from samix.mixups.handmade import MixUp, NoMixup
from samix.mixups.hidden import ManifoldMix
from samix.mixups.maskmix import MaskMix
from samix.mixups.patch_cutmix import PatchCutMix
from samix.mixups.puzzle import PuzzleMix
from samix.mixups.recursive import RecursiveMix
from samix.mixups.salient import GuidedMixup, SaliencyGrafting, SaliencyMix
from samix.mixups.smmix import SMMix
from samix.mixups.smooth import SmoothMix
from samix.mixups.tokenmix import TokenMix

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

IMAGE_SIDE: dict[str, type[Augmentation]] = {kind.name: kind for kind in (*HANDMADE, *GUIDED, *HIDDEN, *OF_TOKENS)}
