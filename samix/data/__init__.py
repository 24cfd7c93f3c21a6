"""Data sets by name, batches that depend on (seed, epoch, step) alone, and the published augmentations."""

from samix.data.batches import EvalBatches, TrainBatches
from samix.data.dataset import DataSummary, ImageData
from samix.data.decode import open_image
from samix.data.folders import load_labelled_folder, read_folder
from samix.data.images import ArrayImages, FileImages, ImageSet, load_images
from samix.data.names import find_dataset, load_data
from samix.data.spec import DATASETS, DataLocation, DatasetSpec, Splits
from samix.data.transforms import Augment, default_augment, denormalize, normalize
from samix.data.views import ViewAugment
from samix.data.wrap import DatasetImages, wrap_dataset

__all__ = [
    "DATASETS",
    "ArrayImages",
    "Augment",
    "DataLocation",
    "DataSummary",
    "DatasetImages",
    "DatasetSpec",
    "EvalBatches",
    "FileImages",
    "ImageData",
    "ImageSet",
    "Splits",
    "TrainBatches",
    "ViewAugment",
    "default_augment",
    "denormalize",
    "find_dataset",
    "load_data",
    "load_images",
    "load_labelled_folder",
    "normalize",
    "open_image",
    "read_folder",
    "wrap_dataset",
]
