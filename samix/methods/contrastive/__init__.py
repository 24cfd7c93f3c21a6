"""Self-supervised methods by name: the frameworks, and the methods that fix how images are mixed."""

from samix.methods.contrastive.barlow import BarlowTwins
from samix.methods.contrastive.base import ViewMethod
from samix.methods.contrastive.bsim import BSIM
from samix.methods.contrastive.byol import BYOL
from samix.methods.contrastive.dacl import DACL
from samix.methods.contrastive.imix import IMix
from samix.methods.contrastive.mixco import MixCo
from samix.methods.contrastive.mochi import MoCHi
from samix.methods.contrastive.moco import MoCo
from samix.methods.contrastive.moco_v3 import MoCoV3
from samix.methods.contrastive.sdmp import SDMP
from samix.methods.contrastive.simclr import SimCLR
from samix.methods.contrastive.simsiam import SimSiam
from samix.methods.contrastive.swav import SwAV
from samix.methods.contrastive.unmix import UnMix
from samix.runtime.registry import Registry

__all__ = ["SSL_METHODS"]

SSL_METHODS: Registry[type[ViewMethod]] = Registry(
    "ssl_methods",
    {
        "moco": MoCo,
        "simclr": SimCLR,
        "byol": BYOL,
        "simsiam": SimSiam,
        "mocov3": MoCoV3,
        "swav": SwAV,
        "barlow": BarlowTwins,
        "imix": IMix,
        "unmix": UnMix,
        "mixco": MixCo,
        "mochi": MoCHi,
        "bsim": BSIM,
        "dacl": DACL,
        "sdmp": SDMP,
    },
)
