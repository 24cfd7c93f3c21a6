"""The process around a run: ranks, files, signals, the console, the environment."""
