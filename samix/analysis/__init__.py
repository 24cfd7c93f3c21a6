"""The papers' analyses: one file each, from tensors to a small frozen result, a picture and a line of numbers.

``samix analyse NAME`` runs them; an analysis of another package is named as ``package.module:Name``.
"""

from samix.analysis.base import Analysis
from samix.analysis.calibration import CalibrationAnalysis
from samix.analysis.cam import Cam
from samix.analysis.cost import CostAnalysis
from samix.analysis.information import InformationAnalysis
from samix.analysis.landscape import Landscape
from samix.analysis.localisation import LocalisationAnalysis
from samix.analysis.masks import Masks
from samix.analysis.occlusion import Occlusion
from samix.analysis.prediction import Lambda
from samix.analysis.robustness import Robustness
from samix.analysis.tsne import Tsne
from samix.runtime.registry import Registry

_BUILT_IN: tuple[type[Analysis], ...] = (
    *(Lambda, CalibrationAnalysis, Robustness, Occlusion, LocalisationAnalysis, Cam, InformationAnalysis, Landscape),
    *(Tsne, Masks, CostAnalysis),
)
ANALYSES: Registry[type[Analysis]] = Registry("analyses", {cls.name: cls for cls in _BUILT_IN})
