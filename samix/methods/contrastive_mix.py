"""The methods built for mixing in contrastive learning, by one import; see ``docs/methods/contrastive-mix.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samix.methods.bsim import BSIM, BSIM_PRESETS, BSIMOptions
from samix.methods.dacl import DACL, DACL_PRESETS, DACLOptions
from samix.methods.imix import IMIX_PRESETS, IMix, IMixOptions
from samix.methods.mixco import MIXCO_PRESETS, MixCo, MixCoOptions
from samix.methods.mochi import MOCHI_PRESETS, MoCHi, MoCHiOptions
from samix.methods.sdmp import SDMP, SDMP_PRESETS, SDMPOptions
from samix.methods.unmix import UNMIX_PRESETS, UnMix, UnMixOptions

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
