"""The papers' analyses: one file each, functions from tensors to small frozen results.

``samix analyse NAME`` runs them on a checkpoint; see :mod:`samix.cli.analyse`.
"""
