"""Every mixup by its name. Those that train a Mixer are methods: AutoMix, SAMix, Adversarial AutoMix."""

from samix.mixups.align import AlignMix
from samix.mixups.attentive import AttentiveMix, SnapMix
from samix.mixups.base import MIXUPS
from samix.mixups.boxes import CutMix, ResizeMix
from samix.mixups.choice import DeiTMix, RSBMix
from samix.mixups.comix import CoMixup
from samix.mixups.fourier import FMix
from samix.mixups.grid import GridMix
from samix.mixups.handmade import MixUp, NoMixup
from samix.mixups.hidden import ManifoldMix
from samix.mixups.maskmix import MaskMix
from samix.mixups.mixpro import MixPro
from samix.mixups.patch_cutmix import PatchCutMix
from samix.mixups.puzzle import PuzzleMix
from samix.mixups.recursive import RecursiveMix
from samix.mixups.salient import GuidedMixup, SaliencyGrafting, SaliencyMix
from samix.mixups.smmix import SMMix
from samix.mixups.smooth import SmoothMix
from samix.mixups.sumix import SUMix
from samix.mixups.token_align import TokenLabelAlign
from samix.mixups.tokenmix import TokenMix
from samix.mixups.transmix import TransMix

__all__ = ["MIXUPS"]

for _kind in (
    *(NoMixup, MixUp, CutMix, ResizeMix, FMix, GridMix, SmoothMix, DeiTMix, RSBMix, RecursiveMix),
    *(SaliencyMix, GuidedMixup, SaliencyGrafting, AttentiveMix, SnapMix, PuzzleMix, CoMixup),
    *(ManifoldMix, AlignMix),
    *(PatchCutMix, MaskMix, TokenMix, SMMix),
    *(TransMix, MixPro, TokenLabelAlign, SUMix),
):
    MIXUPS.register(_kind.name, _kind)
