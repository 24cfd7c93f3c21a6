"""Methods: each is one training step, readable from top to bottom."""
