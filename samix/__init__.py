"""samix: learned mixup for image networks, and the mixups it is compared with.

Names are imported when first used, so that ``import samix`` costs little beyond torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_HOMES = {
    "samix.runtime.registry": ["allow"],
    "samix.cli.fit": ["FitResult", "fit", "pretrain"],
    "samix.batch": ["Mixed", "MixedBatch"],
    "samix.mixups.base": ["Augmentation", "blend", "sample_lam", "sample_partners"],
    "samix.mixups.handmade": [
        "CutMix",
        "FMix",
        "GridMix",
        "MixUp",
        "NoMixup",
        "RandomChoice",
        "ResizeMix",
        "SmoothMix",
    ],
    "samix.mixups.recursive": ["RecursiveMix"],
    "samix.mixups.salient": ["GuidedMixup", "SaliencyGrafting", "SaliencyMix"],
    "samix.mixups.attentive": ["AttentiveMix", "SnapMix"],
    "samix.mixups.puzzle": ["PuzzleMix"],
    "samix.mixups.comix": ["CoMixup"],
    "samix.mixups.hidden": ["ManifoldMix"],
    "samix.mixups.align": ["AlignMix"],
    "samix.mixups.maskmix": ["MaskMix"],
    "samix.mixups.patch_cutmix": ["PatchCutMix"],
    "samix.mixups.smmix": ["SMMix"],
    "samix.mixups.tokenmix": ["TokenMix"],
    "samix.mixups.mixpro": ["MixPro"],
    "samix.mixups.sumix": ["SUMix"],
    "samix.mixups.token_align": ["TokenLabelAlign"],
    "samix.mixups.transmix": ["TransMix"],
    "samix.mixers.automix": ["AutoMixer"],
    "samix.mixers.samix": ["SAMixer"],
    "samix.mixers.score": ["ScoreMixer"],
    "samix.mixers.adversarial": ["AdversarialMixer"],
    "samix.mixers.pretrained": ["Mixer"],
    "samix.methods.automix": ["AutoMix", "AutoMixOptions"],
    "samix.methods.samix": ["SAMix", "SAMixOptions"],
    "samix.methods.score": ["ScoreMix", "ScoreMixOptions"],
    "samix.methods.adautomix": ["AdAutoMix", "AdAutoMixOptions"],
    "samix.methods.supervised": ["Supervised"],
    "samix.hub.load": ["load"],
    "samix.hub.init": ["load_init"],
    "samix.hub.classifier": ["Classifier", "Prediction"],
    "samix.methods.contrastive.moco": ["MoCo", "MoCoOptions"],
    "samix.methods.contrastive.moco_v3": ["MoCoV3", "MoCoV3Options"],
    "samix.methods.contrastive.simclr": ["SimCLR", "SimCLROptions"],
    "samix.methods.contrastive.byol": ["BYOL", "BYOLOptions"],
    "samix.methods.contrastive.simsiam": ["SimSiam", "SimSiamOptions"],
    "samix.methods.contrastive.swav": ["SwAV", "SwAVOptions"],
    "samix.methods.contrastive.barlow": ["BarlowTwins", "BarlowTwinsOptions"],
    "samix.methods.contrastive.imix": ["IMix", "IMixOptions"],
    "samix.methods.contrastive.unmix": ["UnMix", "UnMixOptions"],
    "samix.methods.contrastive.mixco": ["MixCo", "MixCoOptions"],
    "samix.methods.contrastive.mochi": ["MoCHi", "MoCHiOptions"],
    "samix.methods.contrastive.bsim": ["BSIM", "BSIMOptions"],
    "samix.methods.contrastive.dacl": ["DACL", "DACLOptions"],
    "samix.methods.contrastive.sdmp": ["SDMP", "SDMPOptions"],
    "samix.methods.contrastive.samix_i": ["SAMixIOptions"],
    "samix.methods.contrastive.samix_c": ["SAMixCOptions"],
    "samix.methods.contrastive.pseudo_labels": ["PseudoLabelOptions"],
    "samix.methods.contrastive": ["SSL_METHODS"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


if not TYPE_CHECKING:  # type checkers read the imports below, and refuse any other name

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"samix has no {name!r}; it has {', '.join(sorted(_HOME_OF))}")
        return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from samix.batch import Mixed as Mixed
    from samix.batch import MixedBatch as MixedBatch
    from samix.cli.fit import FitResult as FitResult
    from samix.cli.fit import fit as fit
    from samix.cli.fit import pretrain as pretrain
    from samix.hub.classifier import Classifier as Classifier
    from samix.hub.classifier import Prediction as Prediction
    from samix.hub.init import load_init as load_init
    from samix.hub.load import load as load
    from samix.methods.adautomix import AdAutoMix as AdAutoMix
    from samix.methods.adautomix import AdAutoMixOptions as AdAutoMixOptions
    from samix.methods.automix import AutoMix as AutoMix
    from samix.methods.automix import AutoMixOptions as AutoMixOptions
    from samix.methods.contrastive import SSL_METHODS as SSL_METHODS
    from samix.methods.contrastive.barlow import BarlowTwins as BarlowTwins
    from samix.methods.contrastive.barlow import BarlowTwinsOptions as BarlowTwinsOptions
    from samix.methods.contrastive.bsim import BSIM as BSIM
    from samix.methods.contrastive.bsim import BSIMOptions as BSIMOptions
    from samix.methods.contrastive.byol import BYOL as BYOL
    from samix.methods.contrastive.byol import BYOLOptions as BYOLOptions
    from samix.methods.contrastive.dacl import DACL as DACL
    from samix.methods.contrastive.dacl import DACLOptions as DACLOptions
    from samix.methods.contrastive.imix import IMix as IMix
    from samix.methods.contrastive.imix import IMixOptions as IMixOptions
    from samix.methods.contrastive.mixco import MixCo as MixCo
    from samix.methods.contrastive.mixco import MixCoOptions as MixCoOptions
    from samix.methods.contrastive.mochi import MoCHi as MoCHi
    from samix.methods.contrastive.mochi import MoCHiOptions as MoCHiOptions
    from samix.methods.contrastive.moco import MoCo as MoCo
    from samix.methods.contrastive.moco import MoCoOptions as MoCoOptions
    from samix.methods.contrastive.moco_v3 import MoCoV3 as MoCoV3
    from samix.methods.contrastive.moco_v3 import MoCoV3Options as MoCoV3Options
    from samix.methods.contrastive.pseudo_labels import PseudoLabelOptions as PseudoLabelOptions
    from samix.methods.contrastive.samix_c import SAMixCOptions as SAMixCOptions
    from samix.methods.contrastive.samix_i import SAMixIOptions as SAMixIOptions
    from samix.methods.contrastive.sdmp import SDMP as SDMP
    from samix.methods.contrastive.sdmp import SDMPOptions as SDMPOptions
    from samix.methods.contrastive.simclr import SimCLR as SimCLR
    from samix.methods.contrastive.simclr import SimCLROptions as SimCLROptions
    from samix.methods.contrastive.simsiam import SimSiam as SimSiam
    from samix.methods.contrastive.simsiam import SimSiamOptions as SimSiamOptions
    from samix.methods.contrastive.swav import SwAV as SwAV
    from samix.methods.contrastive.swav import SwAVOptions as SwAVOptions
    from samix.methods.contrastive.unmix import UnMix as UnMix
    from samix.methods.contrastive.unmix import UnMixOptions as UnMixOptions
    from samix.methods.samix import SAMix as SAMix
    from samix.methods.samix import SAMixOptions as SAMixOptions
    from samix.methods.score import ScoreMix as ScoreMix
    from samix.methods.score import ScoreMixOptions as ScoreMixOptions
    from samix.methods.supervised import Supervised as Supervised
    from samix.mixers.adversarial import AdversarialMixer as AdversarialMixer
    from samix.mixers.automix import AutoMixer as AutoMixer
    from samix.mixers.pretrained import Mixer as Mixer
    from samix.mixers.samix import SAMixer as SAMixer
    from samix.mixers.score import ScoreMixer as ScoreMixer
    from samix.mixups.align import AlignMix as AlignMix
    from samix.mixups.attentive import AttentiveMix as AttentiveMix
    from samix.mixups.attentive import SnapMix as SnapMix
    from samix.mixups.base import Augmentation as Augmentation
    from samix.mixups.base import blend as blend
    from samix.mixups.base import sample_lam as sample_lam
    from samix.mixups.base import sample_partners as sample_partners
    from samix.mixups.comix import CoMixup as CoMixup
    from samix.mixups.handmade import CutMix as CutMix
    from samix.mixups.handmade import FMix as FMix
    from samix.mixups.handmade import GridMix as GridMix
    from samix.mixups.handmade import MixUp as MixUp
    from samix.mixups.handmade import NoMixup as NoMixup
    from samix.mixups.handmade import RandomChoice as RandomChoice
    from samix.mixups.handmade import ResizeMix as ResizeMix
    from samix.mixups.handmade import SmoothMix as SmoothMix
    from samix.mixups.hidden import ManifoldMix as ManifoldMix
    from samix.mixups.maskmix import MaskMix as MaskMix
    from samix.mixups.mixpro import MixPro as MixPro
    from samix.mixups.patch_cutmix import PatchCutMix as PatchCutMix
    from samix.mixups.puzzle import PuzzleMix as PuzzleMix
    from samix.mixups.recursive import RecursiveMix as RecursiveMix
    from samix.mixups.salient import GuidedMixup as GuidedMixup
    from samix.mixups.salient import SaliencyGrafting as SaliencyGrafting
    from samix.mixups.salient import SaliencyMix as SaliencyMix
    from samix.mixups.smmix import SMMix as SMMix
    from samix.mixups.sumix import SUMix as SUMix
    from samix.mixups.token_align import TokenLabelAlign as TokenLabelAlign
    from samix.mixups.tokenmix import TokenMix as TokenMix
    from samix.mixups.transmix import TransMix as TransMix
    from samix.runtime.registry import allow as allow
