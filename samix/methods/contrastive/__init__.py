"""Contrastive and other self-supervised methods: one training step a file."""
