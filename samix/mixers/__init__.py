"""Mask generators: networks that predict how two images are mixed; a trained one is shared as a folder."""

from samix.mixers.adversarial import AdversarialMixer
from samix.mixers.automix import AutoMixer
from samix.mixers.base import MaskGenerator
from samix.mixers.samix import SAMixer
from samix.mixers.score import ScoreMixer
from samix.runtime.registry import Registry

MASK_GENERATORS: Registry[type[MaskGenerator]] = Registry("mask_generators")
for network in (AutoMixer, SAMixer, AdversarialMixer, ScoreMixer):
    MASK_GENERATORS.register(network.config_class.name, network)
