"""``samix analyse``: the analyses by name; each prints a line, writes a picture and the numbers."""

from __future__ import annotations

from samix.analysis.base import Analysis
from samix.analysis.command_maps import Cam, LocalisationAnalysis
from samix.analysis.command_mixes import InformationAnalysis, Masks
from samix.analysis.command_networks import CostAnalysis, Landscape, Tsne
from samix.analysis.command_predictions import CalibrationAnalysis, Lambda, Occlusion, Robustness
from samix.cli.options import read

KINDS: dict[str, type[Analysis]] = {
    kind.name: kind
    for kind in (
        Lambda,
        CalibrationAnalysis,
        Robustness,
        Occlusion,
        LocalisationAnalysis,
        Cam,
        InformationAnalysis,
        Landscape,
        Tsne,
        Masks,
        CostAnalysis,
    )
}

ANALYSE = """samix analyse NAME SOURCE   one line of numbers, a picture, and the numbers as JSON beside it

{kinds}

SOURCE is a run's folder, a checkpoint or an export's folder; `samix analyse NAME --help` lists the options.
"""


def analyse(arguments: list[str]) -> int:
    """``samix analyse``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        kinds = (f"  {name:13} {(kind.__doc__ or '').partition(chr(10))[0]}" for name, kind in KINDS.items())
        print(ANALYSE.format(kinds="\n".join(kinds)))
        return 0
    if arguments[0] not in KINDS:
        raise ValueError(f"unknown analysis {arguments[0]!r}; choose one of {', '.join(KINDS)}")
    print(read(KINDS[arguments[0]], arguments[1:], f"samix analyse {arguments[0]}").run())
    return 0
