"""torchvision's data sets, from their own layouts made tiny."""

import pickle

import numpy as np
import pytest
import torch
from image_folders import text, values, write
from torchvision import datasets

from samix.data import load_data


def test_cifar_is_read_from_torchvisions_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: setattr(self, "classes", ["plane", "car"]))
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    for k, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        rows = np.zeros((2, 3072), np.uint8)
        rows[:, 1024] = k  # the first green pixel
        (base / name).write_bytes(pickle.dumps({"data": rows, "labels": [0, 1]}))
    data = load_data("cifar10", root=tmp_path)
    assert (len(data.train), len(data.val), data.class_names) == (10, 2, ("plane", "car"))
    assert data.train.image(4)[:, 0, 0].tolist() == [0, 2, 0]
    assert (data.native_size, data.std) == (32, (0.2023, 0.1994, 0.201))
    assert torch.equal(load_data(f"cifar10:{tmp_path}").train.images, data.train.images)


def test_stl10_is_read_from_torchvisions_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    base = tmp_path / "stl10_binary"
    base.mkdir()
    for split in ("train", "test"):
        np.arange(2 * 3 * 96 * 96, dtype=np.uint8).tofile(base / f"{split}_X.bin")
        np.array([1, 2], np.uint8).tofile(base / f"{split}_y.bin")
    text(base / "class_names.txt", "airplane", "bird")
    data = load_data("stl10", root=tmp_path)
    assert data.train.image(0).shape == (3, 96, 96)
    assert data.train.image(0)[0, 2, 0] == 2  # stored column by column
    assert (data.val.labels.tolist(), data.class_names, data.native_size) == ([0, 1], ("airplane", "bird"), 96)


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    checks = []
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: checks.append(1) or True)
    base = tmp_path / "stl10_binary"
    base.mkdir()
    for first, (split, count) in enumerate((("unlabeled", 3), ("train", 2), ("test", 2))):
        pixels = np.zeros((count, 3, 96, 96), np.uint8)
        pixels[:, :, 2, 0] = 10 * first + np.arange(count)[:, None]
        pixels.tofile(base / f"{split}_X.bin")
        np.array([1, 2], np.uint8).tofile(base / f"{split}_y.bin")
    text(base / "class_names.txt", "airplane", "bird")
    return tmp_path, checks


def test_stl10_without_labels_trains_on_the_unlabelled_split_alone(stl10):
    folder, checks = stl10
    data = load_data(f"stl10-unlabeled:{folder}")
    assert len(checks) == 1  # the checksums of three gigabytes
    assert [data.train.image(i)[0, 0, 2].item() for i in range(len(data.train))] == [0, 1, 2]  # stored by columns
    assert data.train.labels.tolist() == [-1, -1, -1]
    assert (data.has_labels, data.num_classes, data.native_size) == (False, 0, 96)
    assert (data.val.labels.tolist(), data.val.image(1)[0, 0, 2].item()) == ([0, 1], 21)
    with pytest.raises(ValueError, match="stl10-unlabeled has no labels to learn from; use `samix pretrain`"):
        data.require_labels()
    tested = data.with_labels()
    assert (tested.train.labels.tolist(), tested.train.image(0)[0, 0, 2].item()) == ([0, 1], 10)
    assert (tested.num_classes, len(tested.val), tested.class_names) == (2, 2, ("airplane", "bird"))
    assert len(load_data(f"stl10-unlabeled:{folder}", limit=2).train) == 2


def test_aircraft_trains_on_trainval(tmp_path):
    base = tmp_path / "fgvc-aircraft-2013b" / "data"
    for k in range(3):
        write(base / "images" / f"{k}.jpg", 40 * k)
    text(base / "variants.txt", "707-320", "A310 / x")
    text(base / "images_variant_trainval.txt", "0 A310 / x", "1 707-320")
    text(base / "images_variant_test.txt", "2 A310 / x")
    data = load_data(f"aircraft:{tmp_path}")
    assert data.class_names == ("707-320", "A310 / x")
    assert values(data.train) == [(0, 1), (40, 0)]
    assert values(data.val) == [(80, 1)]


def test_cars_are_read_from_torchvisions_layout(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    base = tmp_path / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], dtype=object)})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        for k in range(2):
            write(base / f"cars_{split}" / f"{k}.jpg", 40 * k)
        rows = np.array([("0.jpg", 2), ("1.jpg", 1)], dtype=[("fname", "O"), ("class", "O")])
        savemat(base / file, {"annotations": rows})
    data = load_data(f"cars:{tmp_path}")
    assert (values(data.train), data.class_names) == ([(0, 1), (40, 0)], ("Audi", "BMW"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "stl10-unlabeled", "aircraft", "cars"])
def test_missing_torchvision_data_name_the_place_and_the_remedies(tmp_path, name):
    remedy = "" if name == "cars" else "add --download to fetch it, or "
    with pytest.raises(FileNotFoundError, match=rf"{name}: no complete {tmp_path}/\w.*; {remedy}give the .*{name}:DIR"):
        load_data(name, root=tmp_path)


def test_a_failed_download_names_the_folder(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError("no route")

    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    with pytest.raises(OSError, match=r"cifar10: download into .* failed \(no route\); fetch it by hand to"):
        load_data("cifar10", root=tmp_path, download=True)
