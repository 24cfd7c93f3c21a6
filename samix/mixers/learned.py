"""Former place of the mask generators, for files that still import from it."""

from samix.mixers.automix import AutoMixer as AutoMixer
from samix.mixers.base import MaskGenerator as MaskGenerator
from samix.mixers.base import Upsample as Upsample
from samix.mixers.base import adjust_mask as adjust_mask
from samix.mixers.base import margin_mask as margin_mask
from samix.mixers.samix import Attention as Attention
from samix.mixers.samix import Content as Content
from samix.mixers.samix import SAMixer as SAMixer
from samix.runtime.checks import check_choice as check_choice
