"""Mixers to share: `writing.py` makes them out of runs, `command.py` is `samix mixer`."""
