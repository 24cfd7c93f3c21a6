"""Losses: pure functions, one value per sample or a mean, with their equations."""
