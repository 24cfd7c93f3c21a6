"""Data sets by name, batches that depend on (seed, epoch, step) alone, and the published augmentations."""

from samix.data.batches import EvalBatches, TrainBatches
from samix.data.images import ArrayImages, FileImages, ImageSet, load_images, open_image
from samix.data.names import ImageData, load_data
from samix.data.transforms import Augment, default_augment, denormalize, normalize
from samix.data.views import ViewAugment

__all__ = [
    "ArrayImages",
    "Augment",
    "EvalBatches",
    "FileImages",
    "ImageData",
    "ImageSet",
    "TrainBatches",
    "ViewAugment",
    "default_augment",
    "denormalize",
    "load_data",
    "load_images",
    "normalize",
    "open_image",
]
