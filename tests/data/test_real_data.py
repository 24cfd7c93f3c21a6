"""The same on real data, where they are: SAMIX_TEST_DATA, or shared/data beside the repository."""

import os
import tarfile
from pathlib import Path

import pytest
import torch

from samix.data import Augment, EvalBatches, denormalize, load_data, load_images

PLACE = Path(os.environ.get("SAMIX_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def real(name):
    if not (PLACE / name).exists():
        pytest.skip(f"no {name} in {PLACE}; set SAMIX_TEST_DATA to the folder that holds it")
    return PLACE / name


def test_photographs_become_one_batch():
    paths = sorted(real("photos").glob("*.jpg"))
    batch = load_images(paths, 224)
    assert (batch.shape, batch.dtype) == ((len(paths), 3, 224, 224), torch.uint8)
    assert batch.float().std((1, 2, 3)).min() > 10


def test_tiny_imagenets_val_is_read_from_its_archive(tmp_path):
    archive = real("tiny-imagenet-200-val.tar.xz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    base = tmp_path / "tiny-imagenet-200"
    for wnid in (base / "wnids.txt").read_text().split():  # the train archives are large: one val image stands for them
        (base / "train" / wnid / "images").mkdir(parents=True)
        (base / "train" / wnid / "images" / "0.JPEG").symlink_to(base / "val" / "images" / "val_0.JPEG")
    data = load_data(f"tiny-imagenet:{tmp_path}")
    assert (len(data.val), data.num_classes, data.class_names[0]) == (10_000, 200, "n02124075")
    assert data.val.labels.bincount().tolist() == [50] * 200
    images, _ = next(EvalBatches(data, batch_size=64, size=64, augment=Augment("resized-crop-full")).batches())
    assert images.shape == (64, 3, 64, 64)
    assert 0.2 < denormalize(images, data.mean, data.std).mean() < 0.7
