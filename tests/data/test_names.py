"""`load_data` beyond the layouts: names, the embedded digits, `limit`, and the checks of `ImageData`."""

import pytest
import torch

from samix.data import ArrayImages, ImageData, load_data
from samix.data.names import balanced_rows


def images(labels):
    return ArrayImages(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no such folder, and no data set: 'cifar'; .*digits, .*list.* did you mean cifar10"
    ):
        load_data("cifar")


@pytest.mark.parametrize("name", ["tiny-imagenet", "folder", "imagenet", "cub", "inat2017", "inat2018", "places205"])
def test_a_name_without_its_folder_says_so(name):
    with pytest.raises(ValueError, match=f"{name} needs the folder of its files: {name}:DIR"):
        load_data(name)


@pytest.mark.parametrize("spec", ["folder:x", "cub:x", "list:a,b"])
def test_what_cannot_be_downloaded_says_so(spec):
    with pytest.raises(ValueError, match="cannot be downloaded by samix; fetch it yourself"):
        load_data(spec, download=True)


def test_cars_cannot_be_downloaded(tmp_path):
    with pytest.raises(ValueError, match="cars cannot be downloaded, its official address is gone; put the files into"):
        load_data("cars", root=tmp_path, download=True)


def test_digits_hold_out_a_fifth_of_each_class_whatever_the_seed():
    data, other = load_data("digits"), load_data("digits", seed=5)
    assert (len(data.train), len(data.val)) == (1438, 359)
    shares = data.val.labels.bincount() / (data.val.labels.bincount() + data.train.labels.bincount())
    assert ((shares - 0.2).abs() < 0.005).all()
    assert torch.equal(data.val.images, other.val.images)
    assert torch.equal(data.train.labels, other.train.labels)


def test_digits_fill_the_range_and_know_their_statistics():
    data = load_data("digits")
    pixels = data.train.images.float() / 255
    assert pixels.shape[1:] == (3, 8, 8)
    assert (data.train.images.min(), data.train.images.max()) == (0, 255)
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-5)
    assert data.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), abs=1e-5)
    assert (data.native_size, data.num_classes, data.class_names[3]) == (8, 10, "3")


def test_digits_take_no_folder():
    with pytest.raises(ValueError, match=r"digits is part of scikit-learn and takes no folder, got digits:x"):
        load_data("digits:x")


def test_limit_balances_the_classes_and_leaves_val_alone():
    data, whole = load_data("digits", limit=53), load_data("digits")
    counts = data.train.labels.bincount()
    assert counts.sum() == 53
    assert counts.max() - counts.min() == 1
    assert len(data.val) == len(whole.val)
    assert data.mean == whole.mean


def test_limit_is_seeded():
    a, b, c = (load_data("digits", limit=50, seed=seed).train.images for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_small_class_gives_what_it_has_and_the_others_make_up_for_it():
    labels = torch.tensor([0] * 2 + [1] * 20 + [2] * 20)
    rows = balanced_rows(labels, 3, 12, seed=0)
    assert labels[rows].bincount().tolist() == [2, 5, 5]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(balanced_rows(labels, 3, 1000, seed=0), torch.arange(42))


def test_a_limit_below_the_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="limit must be at least 10, one image for each class, got 9"):
        load_data("digits", limit=9)


def test_image_data_checks_its_labels():
    names = ("a", "b")
    with pytest.raises(ValueError, match="toy: the val split has no images"):
        ImageData("toy", images([0, 1]), images([]), names)
    with pytest.raises(ValueError, match=r"toy: the labels of val must be in 0..1, got 0..2"):
        ImageData("toy", images([0, 1]), images([0, 2]), names)
    with pytest.raises(ValueError, match=r"toy: class 1 \('b'\) has no training image"):
        ImageData("toy", images([0, 0]), images([0, 1]), names)
    with pytest.raises(ValueError, match="toy: the train split has no images"):
        ImageData("toy", images([]), images([0, 1]), names)
    with pytest.raises(ValueError, match=r"toy: the labels of train must be in 0..1, got -1..1"):
        ImageData("toy", images([0, 1, -1]), images([0, 1]), names)
    with pytest.raises(ValueError, match=r"toy: labelled is for a train split without labels; leave it out"):
        ImageData("toy", images([0, 1]), images([0, 1]), names, labelled=images([0, 1]))


def test_image_data_without_labels_checks_what_lies_beside_them():
    names, bare = ("a", "b"), images([-1, -1, -1])
    data = ImageData("toy", bare, images([0, 1]), names, labelled=images([0, 1, 1]))
    assert (data.has_labels, data.num_classes) == (False, 0)
    assert (data.with_labels().num_classes, data.with_labels().has_labels) == (2, True)
    whole = ImageData("toy", images([0, 1]), images([0, 1]), names)
    assert whole.with_labels() is whole
    whole.require_labels()
    with pytest.raises(ValueError, match=r"toy: the labels of val must be in 0..1, got 0..2"):
        ImageData("toy", bare, images([0, 2]), names)
    with pytest.raises(ValueError, match=r"toy: class 1 \('b'\) has no training image"):
        ImageData("toy", bare, images([0, 1]), names, labelled=images([0, 0]))
    assert ImageData("toy", bare, images([-1]), ()).with_labels() is None
    assert len(ImageData("toy", bare, images([]), ()).val) == 0
