"""Each official layout, made tiny: the right files get the right labels, and what is missing is named."""

import json

import numpy as np
import pytest
from image_folders import text, values, write

from samix.data import load_data


@pytest.fixture
def tiny(tmp_path):
    text(tmp_path / "wnids.txt", "n02", "n01")  # not in alphabetical order, as the real one
    for value, wnid in enumerate(("n01", "n02")):
        write(tmp_path / "train" / wnid / "images" / f"{wnid}_0.JPEG", value)
        write(tmp_path / "val" / "images" / f"val_{value}.JPEG", 50 + value)
    text(tmp_path / "val" / "val_annotations.txt", "val_1.JPEG\tn01\t0\t0\t3\t3", "val_0.JPEG\tn02\t0\t0\t3\t3")
    return tmp_path


def test_tiny_imagenet_labels_follow_wnids_and_annotations(tiny):
    data = load_data(f"tiny-imagenet:{tiny}")
    assert data.class_names == ("n02", "n01")
    assert values(data.train) == [(1, 0), (0, 1)]
    assert values(data.val) == [(51, 1), (50, 0)]
    assert data.native_size == 64


def test_tiny_imagenet_errors(tiny):
    text(tiny / "val" / "val_annotations.txt", "val_0.JPEG\tn99\t0")
    with pytest.raises(ValueError, match=r"val_annotations.txt has the class 'n99', which is none of the 2 classes"):
        load_data(f"tiny-imagenet:{tiny}")
    text(tiny / "val" / "val_annotations.txt", "val_0.JPEG n02")
    with pytest.raises(ValueError, match=r"expected two columns, got 'val_0.JPEG n02'"):
        load_data(f"tiny-imagenet:{tiny}")
    text(tiny / "wnids.txt", "n02", "n03")
    with pytest.raises(FileNotFoundError, match=r"n03/images is missing; class 'n03' needs this folder"):
        load_data(f"tiny-imagenet:{tiny}")
    (tiny / "wnids.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no wnids.txt in .* or .*tiny-imagenet-200; give the folder"):
        load_data(f"tiny-imagenet:{tiny}")


@pytest.fixture
def cub(tmp_path):
    base = tmp_path / "CUB_200_2011"
    names = ["001.Auk/a.jpg", "001.Auk/b.jpg", "002.Emu/c.jpg", "002.Emu/d.jpg"]
    for value, name in enumerate(names):
        write(base / "images" / name, 40 * value)
    text(base / "classes.txt", "1 001.Auk", "2 002.Emu")
    text(base / "images.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    text(base / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    text(base / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0")
    return tmp_path


def test_cub_joins_its_tables_on_the_image_id(cub):
    for data in (load_data(f"cub:{cub}"), load_data(f"cub:{cub}/CUB_200_2011")):
        assert data.class_names == ("001.Auk", "002.Emu")
        assert values(data.train) == [(40, 0), (80, 1)]
        assert values(data.val) == [(0, 0), (120, 1)]


def test_cub_errors(cub):
    base = cub / "CUB_200_2011"
    text(base / "train_test_split.txt", "1 0", "2 1")
    with pytest.raises(ValueError, match="name different image ids; unpack the archive again"):
        load_data(f"cub:{cub}")
    text(base / "classes.txt", "0 001.Auk", "1 002.Emu")
    text(base / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0")
    with pytest.raises(ValueError, match=r"classes.txt must number its classes 1..2"):
        load_data(f"cub:{cub}")
    (base / "train_test_split.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train_test_split.txt is missing"):
        load_data(f"cub:{cub}")


def inat(folder, year, categories):
    for split, ids in (("train", (7, 3)), ("val", (3,))):
        images = [{"id": 10 + i, "file_name": f"pictures/{split}{i}.png"} for i in range(len(ids))]
        for i, image in enumerate(images):
            write(folder / image["file_name"], 10 * i + (split == "val"))
        annotations = [{"image_id": 10 + i, "category_id": c} for i, c in enumerate(ids)][::-1]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}{year}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("year", ["2017", "2018"])
def test_inaturalist_labels_come_from_the_json(tmp_path, year):
    inat(tmp_path, year, [{"id": 7, "name": "Owl"}, {"id": 3, "name": "Fox"}])
    data = load_data(f"inat{year}:{tmp_path}")
    assert data.class_names == ("Fox", "Owl")
    assert values(data.train) == [(0, 1), (10, 0)]
    assert values(data.val) == [(1, 0)]


def test_inaturalist_names_that_repeat_become_ids(tmp_path):
    inat(tmp_path, "2018", [{"id": 7, "name": "x"}, {"id": 3, "name": "x"}])
    assert load_data(f"inat2018:{tmp_path}").class_names == ("3", "7")


def test_inaturalist_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train2017.json is missing"):
        load_data(f"inat2017:{tmp_path}")
    text(tmp_path / "train2017.json", "[]")
    with pytest.raises(ValueError, match=r"train2017.json must be an object with images, annotations and categories"):
        load_data(f"inat2017:{tmp_path}")


def test_places205_reads_its_lists(tmp_path):
    for name, value in (("a/abbey/1.jpg", 0), ("b/bar/indoor/2.jpg", 40), ("a/abbey/3.jpg", 80)):
        write(tmp_path / "images256" / name, value)
    text(tmp_path / "train_places205.csv", "a/abbey/1.jpg 0", "b/bar/indoor/2.jpg 1")
    text(tmp_path / "val_places205.csv", "a/abbey/3.jpg 0")
    data = load_data(f"places205:{tmp_path}")
    assert data.class_names == ("a/abbey", "b/bar/indoor")
    assert values(data.train) == [(0, 0), (40, 1)]
    assert values(data.val) == [(80, 0)]


@pytest.fixture
def imagenet(tmp_path):
    for label, wnid in enumerate(("n01", "n02")):
        write(tmp_path / "train" / wnid / "x.JPEG", label)
        write(tmp_path / "val" / f"ILSVRC2012_val_{label}.JPEG", 50 + label)
    return tmp_path


def test_imagenet_val_may_be_foldered(imagenet):
    for wnid, k in (("n02", 0), ("n01", 1)):
        (imagenet / "val" / wnid).mkdir()
        name = f"ILSVRC2012_val_{k}.JPEG"
        (imagenet / "val" / name).rename(imagenet / "val" / wnid / name)
    data = load_data(f"imagenet:{imagenet}")
    assert values(data.train) == [(0, 0), (1, 1)]
    assert values(data.val) == [(51, 0), (50, 1)]
    (imagenet / "val" / "n03").mkdir()
    with pytest.raises(ValueError, match=r"train \(2\) and .*val \(3\) differ; both need the same WNID folders"):
        load_data(f"imagenet:{imagenet}")


@pytest.mark.parametrize("labels", [("1", "0"), ("n02", "n01")])
def test_imagenet_val_may_be_flat_with_a_list(imagenet, labels):
    text(imagenet / "val.txt", *(f"ILSVRC2012_val_{k}.JPEG {label}" for k, label in enumerate(labels)))
    assert values(load_data(f"imagenet:{imagenet}").val) == [(50, 1), (51, 0)]


def test_imagenet_val_may_be_flat_with_the_devkit(imagenet):
    savemat = pytest.importorskip("scipy.io").savemat
    devkit = imagenet / "ILSVRC2012_devkit_t12" / "data"
    text(devkit / "ILSVRC2012_validation_ground_truth.txt", "1", "2")
    synsets = np.array([(1, "n02"), (2, "n01")], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(devkit / "meta.mat", {"synsets": synsets})
    assert values(load_data(f"imagenet:{imagenet}").val) == [(50, 1), (51, 0)]
    text(devkit / "ILSVRC2012_validation_ground_truth.txt", "1")
    with pytest.raises(ValueError, match=r"val holds 2 images but .*ground_truth.txt 1 labels"):
        load_data(f"imagenet:{imagenet}")


def test_imagenet_errors(imagenet):
    with pytest.raises(FileNotFoundError, match=r"val is flat and its labels are missing; give .*val.txt"):
        load_data(f"imagenet:{imagenet}")
    text(imagenet / "val.txt", "ILSVRC2012_val_0.JPEG 2")
    with pytest.raises(ValueError, match=r"val.txt has the class '2', which is none of the 2 classes"):
        load_data(f"imagenet:{imagenet}")
    (imagenet / "train").rename(imagenet / "training")
    with pytest.raises(FileNotFoundError, match=r"train is missing; imagenet:DIR expects DIR/train/WNID and DIR/val"):
        load_data(f"imagenet:{imagenet}")
