"""Mixups in the shape that other training code expects: timm's ``Mixup``, a collate function, a transform."""
