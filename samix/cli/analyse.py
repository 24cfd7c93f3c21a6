"""``samix analyse``: the analyses by name; each prints a line, writes a picture and the numbers."""

from __future__ import annotations

from samix.analysis import ANALYSES
from samix.cli.options import read

ANALYSE = """samix analyse NAME SOURCE   one line of numbers, a picture, and the numbers as JSON beside it

{kinds}

SOURCE is a run's folder, a checkpoint or an export's folder; `samix analyse NAME --help` lists the options. NAME may be
your own as package.module:Name.
"""


def analyse(arguments: list[str]) -> int:
    """Runs ``samix analyse``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = (f"  {name:13} {(cls.__doc__ or '').partition(chr(10))[0]}" for name, cls in ANALYSES.items())
        print(ANALYSE.format(kinds="\n".join(lines)))
        return 0
    name, *options = arguments
    print(read(ANALYSES.resolve(name, trusted=True), options, f"samix analyse {name}").run())
    return 0
