"""Callbacks that export a run's network and its Mixer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from samix.hub.export import export_network
from samix.hub.mixer_export import figures_of, has_mixer, write_mixer
from samix.runtime.checks import Options
from samix.train.callbacks import Callback
from samix.train.folder import describe_data
from samix.train.steps import Training


class ExportNetwork(Callback):
    """Writes ``export/``, the network to keep, at the end of the run."""

    required: ClassVar[bool] = True

    def on_fit_end(self, run: Training, summary: Options) -> None:
        score = summary.get("top1", summary.get("knn"))
        export_network(run.folder / "export", run.method.export(), run.recipe, run.data, score)


class ExportMixer(Callback):
    """Writes ``mixer/`` at the end of a run that trained a Mixer."""

    required: ClassVar[bool] = True

    def on_fit_end(self, run: Training, summary: Options) -> None:
        """Exports the Mixer with the accuracy of its network and the figures of its masks."""
        if not has_mixer(run.method):
            return
        data, figures = describe_data(run.data), figures_of(run.rows[-1])
        write_mixer(run.folder / "mixer", run.method, run.recipe, data, figures, run.folder / "mixed.png")


class MixerFolders(Callback):
    """Keeps the Mixer after some epochs, in a folder each.

    Args:
        folders: by number of the epoch, from 1, below the run's folder.
    """

    def __init__(self, folders: Mapping[int, Path]) -> None:
        self.folders = folders

    def on_fit_start(self, run: Training) -> None:
        """Writes the folder of the epoch that was saved last, where the run was killed before it was written."""
        epoch, inside = divmod(run.step, run.steps_per_epoch)
        if not inside and epoch in self.folders and not (run.folder / self.folders[epoch]).exists():
            self.write(run, epoch)

    def on_epoch_end(self, run: Training, row: Mapping[str, float]) -> None:
        """Writes the folder of this epoch, if there is one."""
        if int(row["epoch"]) in self.folders:
            self.write(run, int(row["epoch"]))

    def write(self, run: Training, epoch: int) -> None:
        """Writes the Mixer as it is after an epoch."""
        write_mixer(run.folder / self.folders[epoch], run.method, run.recipe, describe_data(run.data), {})
