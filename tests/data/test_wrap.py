"""Datasets from Python: their images, labels and names, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder

from samix.data import Augment, EvalBatches, TrainBatches, wrap_dataset
from samix.data.decode import UnreadableImage

GREY = [(Image.new("L", (8, 8), 10 * k), k % 2) for k in range(10)]


class Targets(Dataset):
    """Knows its labels and classes, and counts what is decoded."""

    classes = ("even", "odd")

    def __init__(self):
        self.targets, self.asked = [k % 2 for k in range(10)], []

    def __len__(self):
        return 10

    def __getitem__(self, row):
        self.asked.append(row)
        return GREY[row]


class HuggingFace:
    """The part of a Hugging Face dataset that is used."""

    def __init__(self, image="image", label="label"):
        self.column_names, self.names = [image, label], ("even", "odd")
        self.features = {image: object(), label: self}

    def __len__(self):
        return 10

    def __getitem__(self, key):
        image, label = self.column_names
        if isinstance(key, str):
            return [k % 2 for k in range(10)]
        return {image: GREY[key][0], label: GREY[key][1]}


def test_labels_and_classes_are_known_without_decoding():
    dataset = Targets()
    data = wrap_dataset(dataset)
    assert dataset.asked == []
    assert (len(data.train), len(data.val), data.class_names) == (8, 2, ("even", "odd"))
    assert sorted(data.val.labels.tolist()) == [0, 1]
    for images in (data.train, data.val):
        for row in range(len(images)):
            value = images.image(row).getpixel((0, 0))[0]
            assert value // 10 % 2 == int(images.labels[row])
    assert wrap_dataset(dataset, dataset).val.image(3).getpixel((0, 0)) == (30, 30, 30)


@pytest.mark.parametrize(
    "dataset",
    [
        GREY,
        HuggingFace(),
        HuggingFace("pixel_values", "labels"),
        Subset(Targets(), range(10)),
        DataLoader(Targets(), batch_size=3, shuffle=True),
        [{"image": image, "label": label} for image, label in GREY],
        [(np.asarray(image), np.int64(label)) for image, label in GREY],
        [(torch.from_numpy(np.array(image)).float()[None] / 255, torch.tensor(label)) for image, label in GREY],
        TensorDataset(torch.arange(10).mul(10).byte()[:, None, None, None].expand(10, 3, 8, 8), torch.arange(10) % 2),
    ],
)
def test_every_form_gives_the_same_batches(dataset):
    expected = wrap_dataset(Targets())
    data = wrap_dataset(dataset)
    options = {"batch_size": 4, "size": 8, "augment": Augment("crop-flip"), "seed": 1}
    for a, b in zip(TrainBatches(data, **options).epoch(0), TrainBatches(expected, **options).epoch(0), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert len(list(EvalBatches(data, batch_size=1, size=8, augment=Augment("none")).batches())) == 2
    assert data.class_names in (("even", "odd"), ("0", "1"))


def test_torchvisions_datasets_are_taken(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.new("RGB", (4, 4), (k, k, k)).save(tmp_path / name / f"{k}.png")
    data = wrap_dataset(ImageFolder(tmp_path))
    assert (data.class_names, len(data.train)) == (("cat", "dog"), 8)
    fake = wrap_dataset(FakeData(20, (3, 8, 8), num_classes=2), class_names=("a", "b"))
    assert len(fake.train) + len(fake.val) == 20


def test_an_image_that_the_dataset_cannot_read_is_unreadable(tmp_path):
    class Files(Targets):
        def __getitem__(self, row):
            return Image.open(tmp_path / f"{row}.png"), 0

    with pytest.raises(UnreadableImage, match=r"image \d of the dataset cannot be read"):
        wrap_dataset(Files()).train.image(0)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(GREY)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Endless(), "Endless is not a map-style dataset; give one with __len__ and __getitem__, such as list"),
        ([], "list holds no samples"),
        ([(GREY[0][0], 0.5)] * 4, "labels of list must be one whole number an image, got torch.float64"),
        ([(GREY[0][0], [0, 1])] * 4, r"one whole number an image, got torch.int64 of shape \(4, 2\)"),
        ([(GREY[0][0], 10**9)] * 4, "label 1000000000, but 4 images; number the classes from 0"),
        ([(GREY[0][0], -1)] * 4, r"labels of train must be in 0..0, got -1..-1"),
        ([{"x": 0}] * 4, "a sample has the keys x; expected one of label, labels"),
        ([3] * 4, r"a sample must be \(image, label\) or a mapping with both, got int"),
    ],
)
def test_what_is_no_labelled_dataset_is_refused(dataset, message):
    with pytest.raises((ValueError, TypeError), match=message):
        wrap_dataset(dataset)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.randn(3, 8, 8), r"has values from -.*expected \[0, 1\]; leave out Normalize"),
        (torch.zeros(4, 8, 8), r"must be \(3, H, W\) or \(1, H, W\), got \(4, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "is torch.int64; expected uint8, or floats in"),
        ("a.png", "is a str; expected a PIL image or a tensor"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        wrap_dataset([(image, k % 2) for k in range(4)]).train.image(0)
