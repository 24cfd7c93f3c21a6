"""Runs that are asked to stop."""

from samix.train import Run


def interrupted_after(step):
    """A train_step that asks the run to stop after so many."""
    plain = Run.train_step

    def train_step(run, batch):
        plain(run, batch)
        run.stopping = run.step + 1 >= step

    return train_step
