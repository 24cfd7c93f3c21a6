"""Each official layout, made tiny: the right files get the right labels, and what is missing is named."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from samix.data import load_data


def write(path, value=0, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def values(images):
    """(value of the first pixel, label) of each image."""
    pixels = [np.asarray(images.image(i).resize((1, 1)))[0, 0, 0].item() for i in range(len(images))]
    return list(zip(pixels, images.labels.tolist(), strict=True))


@pytest.fixture
def folder(tmp_path):
    for split, shift in (("train", 0), ("val", 100)):
        for label, name in enumerate(("cat", "dog")):
            for k in range(3):
                write(tmp_path / split / name / f"{k}.png", shift + 10 * label + k)
    return tmp_path


def test_folder_labels_are_sorted_class_names(folder):
    write(folder / "train" / "dog" / "deeper" / "x.PNG", 99)
    text(folder / "train" / "dog" / "notes.txt", "no image")
    (folder / "train" / ".cache").mkdir()
    data = load_data(f"folder:{folder}")
    assert data.class_names == ("cat", "dog")
    assert values(data.train) == [(0, 0), (1, 0), (2, 0), (10, 1), (11, 1), (12, 1), (99, 1)]
    assert values(data.val) == [(100, 0), (101, 0), (102, 0), (110, 1), (111, 1), (112, 1)]
    assert (data.name, data.num_classes) == ("folder", 2)


def test_folder_takes_test_where_there_is_no_val(folder):
    (folder / "val").rename(folder / "test")
    assert len(load_data(f"folder:{folder}").val) == 6


def test_the_path_of_a_folder_is_its_data(folder, monkeypatch):
    for spec in (str(folder), f"{folder}/"):
        data = load_data(spec)
        assert (data.name, len(data.train), len(data.val)) == ("folder", 6, 6)
    monkeypatch.chdir(folder.parent)
    assert len(load_data(folder.name).train) == 6
    with pytest.raises(ValueError, match=r"unknown data set 'nowhere'; known: digits, .*, or the path of a folder"):
        load_data("nowhere")


@pytest.fixture
def undivided(tmp_path):
    for label, (name, count) in enumerate({"cat": 10, "dog": 23, "emu": 2}.items()):
        for k in range(count):
            write(tmp_path / name / f"{name}{k}.png", 40 * label + k)
    return tmp_path


def test_of_undivided_classes_a_fifth_is_held_out(undivided):
    data = load_data(str(undivided))
    assert data.class_names == ("cat", "dog", "emu")
    assert data.val.labels.bincount().tolist() == [2, 5, 1]  # at least one of each
    assert sorted(values(data.train) + values(data.val)) == sorted(
        (40 * label + k, label) for label, count in enumerate((10, 23, 2)) for k in range(count)
    )
    again = load_data(f"folder:{undivided}")
    assert (values(again.train), values(again.val)) == (values(data.train), values(data.val))


def test_who_is_held_out_does_not_depend_on_other_images(undivided):
    before = values(load_data(str(undivided)).val)
    write(undivided / "ant" / "0.png", 200)
    write(undivided / "ant" / "1.png", 201)
    (undivided / "dog" / "dog22.png").rename(undivided / "cat" / "dog22.png")
    after = [value for value, _ in values(load_data(str(undivided)).val) if value < 200 and value != 62]
    assert len({value for value, _ in before} - set(after)) <= 1  # a class's count, or its new image, took its place


def test_undivided_folders_that_are_no_classes_are_refused(undivided):
    write(undivided / "fox" / "0.png")
    with pytest.raises(ValueError, match=r"class 'fox' has one image in .*; it needs two at least"):
        load_data(str(undivided))
    (undivided / "fox").rename(undivided / "emu" / "fox")
    with pytest.raises(ValueError, match=r"emu holds folders \(fox\), so it is no class; .*train/CLASS/"):
        load_data(str(undivided))


def test_native_size_is_known_only_where_all_images_are_squares_of_one_size(folder):
    assert load_data(f"folder:{folder}").native_size == 4
    write(folder / "train" / "cat" / "0.png", size=(8, 8))
    assert load_data(f"folder:{folder}").native_size is None


def test_folder_errors(folder):
    with pytest.raises(FileNotFoundError, match=r"folder .*absent of data set 'folder' is missing; check the path"):
        load_data(f"folder:{folder / 'absent'}")
    (folder / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"differ: only in train \['emu'\], only in val \[\]; both need the same"):
        load_data(f"folder:{folder}")
    (folder / "val" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"class 'emu' is empty: no image in .*emu; add images or remove the folder"):
        load_data(f"folder:{folder}")
    (folder / "val").rename(folder / "validation")
    with pytest.raises(
        FileNotFoundError, match=r"must hold the folder train and one of val or test.* found: train, va"
    ):
        load_data(f"folder:{folder}")


def test_folder_without_classes_and_images_is_refused(tmp_path):
    text(tmp_path / "train" / "notes.txt", "no image")
    write(tmp_path / "val" / "a.png")
    with pytest.raises(ValueError, match=r"train holds no class folders; .* per class \(.*images:"):
        load_data(f"folder:{tmp_path}")


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


@pytest.mark.parametrize("separator", [" ", ",", ";", ", ", "\t"])
def test_list_files_take_any_of_the_separators(folder, separator):
    text(folder / "train.txt", f"cat/0.png{separator}0", "", f"dog/2.png{separator}1")
    text(folder / "val.txt", f"dog/1.png{separator}1")
    data = load_data(f"list:{folder}/train.txt,{folder}/val.txt,{folder}/train,{folder}/val")
    assert values(data.train) == [(0, 0), (12, 1)]
    assert values(data.val) == [(111, 1)]
    assert data.class_names == ("0", "1")


def test_list_names_may_hold_spaces_and_are_relative_to_their_list(folder):
    write(folder / "train" / "my cat, too.png", 33)
    text(folder / "train.txt", "train/my cat, too.png 0")
    text(folder / "val.txt", "val/cat/0.png 0")
    data = load_data(f"list:{folder}/train.txt,{folder}/val.txt")
    assert values(data.train) == [(33, 0)]
    assert values(data.val) == [(100, 0)]
    shared = load_data(f"list:{folder}/train.txt,{folder}/val.txt,{folder}")
    assert values(shared.val) == [(100, 0)]


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["a.png 0"], ["a.png 1"], r"val.txt has label 1, outside the range 0..0 of .*train.txt"),
        (["a.png -1"], ["a.png 0"], r"label of 'a.png' must be a whole number from 0, got '-1'"),
        (["a.png cat"], ["a.png 0"], r"label of 'a.png' must be a whole number from 0, got 'cat'"),
        (["b.png 0", "a.png"], ["a.png 0"], r"expected lines of 'name label' \(space, comma or .*\), got 'a.png'"),
        (["b.png 0", "my cat.png"], ["b.png 0"], r"label of 'my' must be a whole number from 0, got 'cat.png'"),
        (["a.png 0"], ["a.png"], r"the labels of val must be in 0..0, got -1..-1"),
        (["a.png 1"], ["a.png 0"], r"class 0 \('0'\) has no training image; add some, or number the classes"),
        ([""], ["a.png 0"], r"train.txt is empty; expected one entry a line"),
    ],
)
def test_list_errors(tmp_path, train, val, message):
    text(tmp_path / "train.txt", *train)
    text(tmp_path / "val.txt", *val)
    with pytest.raises(ValueError, match=message):
        load_data(f"list:{tmp_path}/train.txt,{tmp_path}/val.txt")


def test_list_needs_two_files_and_their_folder(tmp_path):
    for place in ("", "one.txt", "a,b,c,d,e", "a,,b"):
        with pytest.raises(ValueError, match=r"list needs list:TRAIN.txt,VAL.txt\[,DIR\[,VALDIR\]\], got list:"):
            load_data(f"list:{place}")
    with pytest.raises(FileNotFoundError, match=r"a.txt is missing"):
        load_data(f"list:{tmp_path}/a.txt,{tmp_path}/b.txt")
    text(tmp_path / "a.txt", "a.png 0")
    with pytest.raises(FileNotFoundError, match=r"none, the folder of the images of .*a.txt, is missing"):
        load_data(f"list:{tmp_path}/a.txt,{tmp_path}/a.txt,{tmp_path}/none")


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


def test_images_are_read_at_any_depth_without_labels(tmp_path):
    for value, name in enumerate(("b/c/1.png", "b/2.JPG", "a.png")):
        write(tmp_path / name, 60 * value)
    text(tmp_path / "b" / "notes.txt", "no image")
    write(tmp_path / ".cache.png")
    data = load_data(f"images:{tmp_path}")
    assert sorted(values(data.train)) == [(0, -1), (60, -1), (120, -1)]
    assert (len(data.val), data.num_classes, data.class_names, data.native_size) == (0, 0, (), 4)
    assert data.with_labels() is None
    assert len(load_data(f"images:{tmp_path}", limit=2).train) == 2
    with pytest.raises(ValueError, match="limit must be at least 1"):
        load_data(f"images:{tmp_path}", limit=0)


def test_images_errors(tmp_path):
    with pytest.raises(
        ValueError, match=r"no image in .* or below \(endings: .jpg, .*\); check the path or add images"
    ):
        load_data(f"images:{tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"folder .*absent of data set 'images' is missing"):
        load_data(f"images:{tmp_path}/absent")
    with pytest.raises(ValueError, match="images needs the folder of its files: images:DIR"):
        load_data("images")
    (tmp_path / "bad.png").write_bytes(b"no image")
    data = load_data(f"images:{tmp_path}")
    assert data.native_size is None
    with pytest.raises(ValueError, match=r"image .*bad.png cannot be read"):
        data.train.image(0)


@pytest.mark.parametrize("held_out", [None, "flat", "classes"])
def test_a_folder_whose_train_holds_images_directly_has_no_labels(tmp_path, held_out):
    for value in range(3):
        write(tmp_path / "train" / f"{value}.png", value)
    if held_out == "flat":
        write(tmp_path / "test" / "x.png", 50)
    if held_out == "classes":
        write(tmp_path / "val" / "cat" / "x.png", 50)
        write(tmp_path / "val" / "dog" / "y.png", 60)
    data = load_data(f"folder:{tmp_path}")
    assert values(data.train) == [(0, -1), (1, -1), (2, -1)]
    assert values(data.val) == {None: [], "flat": [(50, -1)], "classes": [(50, 0), (60, 1)]}[held_out]
    assert (data.num_classes, data.with_labels()) == (0, None)
    assert data.class_names == (("cat", "dog") if held_out == "classes" else ())


@pytest.mark.parametrize("val", ["val/cat/0.png", "val/dog/1.png 1"])
def test_a_list_of_names_alone_has_no_labels(folder, val):
    write(folder / "train" / "my cat.png", 77)
    text(folder / "train.txt", "train/my cat.png", "train/dog/2.png")
    text(folder / "val.txt", val)
    data = load_data(f"list:{folder}/train.txt,{folder}/val.txt")
    assert values(data.train) == [(77, -1), (12, -1)]
    assert data.num_classes == 0
    assert values(data.val) == ([(111, 1)] if val.endswith("1") else [(100, -1)])


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
