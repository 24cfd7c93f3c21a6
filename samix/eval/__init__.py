"""Judging a representation: nearest neighbours, linear probes, SVMs, fine-tuning, and transfer to detection."""
