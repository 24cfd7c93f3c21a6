"""The methods built for mixing in contrastive learning, by one import; see ``docs/methods/contrastive-mix.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samix.methods.contrastive.bsim import BSIM, BSIM_PRESETS, BSIMOptions
from samix.methods.contrastive.dacl import DACL, DACL_PRESETS, DACLOptions
from samix.methods.contrastive.imix import IMIX_PRESETS, IMix, IMixOptions
from samix.methods.contrastive.mixco import MIXCO_PRESETS, MixCo, MixCoOptions
from samix.methods.contrastive.mochi import MOCHI_PRESETS, MoCHi, MoCHiOptions
from samix.methods.contrastive.sdmp import SDMP, SDMP_PRESETS, SDMPOptions
from samix.methods.contrastive.unmix import UNMIX_PRESETS, UnMix, UnMixOptions

__all__ = [
    "BSIM",
    "DACL",
    "MIX_METHODS",
    "MIX_PRESETS",
    "SDMP",
    "BSIMOptions",
    "DACLOptions",
    "IMix",
    "IMixOptions",
    "MixCo",
    "MixCoOptions",
    "MoCHi",
    "MoCHiOptions",
    "SDMPOptions",
    "UnMix",
    "UnMixOptions",
]

MIX_METHODS: dict[str, Any] = {
    "imix": IMix,
    "unmix": UnMix,
    "mixco": MixCo,
    "mochi": MoCHi,
    "bsim": BSIM,
    "dacl": DACL,
    "sdmp": SDMP,
}
MIX_PRESETS: dict[str, Mapping[str, Any]] = {
    "imix": IMIX_PRESETS,
    "unmix": UNMIX_PRESETS,
    "mixco": MIXCO_PRESETS,
    "mochi": MOCHI_PRESETS,
    "bsim": BSIM_PRESETS,
    "dacl": DACL_PRESETS,
    "sdmp": SDMP_PRESETS,
}
