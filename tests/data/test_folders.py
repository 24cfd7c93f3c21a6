"""Users' own folders: what is read, what is held out, what is refused and with which advice."""

import os
import shutil

import pytest
import torch
from image_folders import text, values, write
from PIL import Image

from samix.data import Augment, EvalBatches, load_data, load_labelled_folder


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
    with pytest.raises(
        ValueError, match=r"no such folder, and no data set: 'nowhere'; data sets are digits, .*, the path of"
    ):
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
    with pytest.raises(ValueError, match=r"emu holds folders \(fox\), so it is not a class; .*train/CLASS/"):
        load_data(str(undivided))


def test_native_size_is_known_only_where_all_images_are_squares_of_one_size(folder):
    assert load_data(f"folder:{folder}").native_size == 4
    write(folder / "train" / "cat" / "0.png", size=(8, 8))
    assert load_data(f"folder:{folder}").native_size is None


def test_folder_errors(folder):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent, of data set 'folder'; check the path"):
        load_data(f"folder:{folder / 'absent'}")
    (folder / "train" / "emu").mkdir()
    with pytest.raises(
        ValueError, match=r"class 'emu' is empty: no image in .*train/emu; add .* the folder, here and in"
    ):
        load_data(f"folder:{folder}")
    write(folder / "train" / "emu" / "0.png")
    advice = r"classes of .*train and .*val differ: no image of emu in val; move some .* or remove the class from both"
    with pytest.raises(ValueError, match=advice):
        load_data(f"folder:{folder}")
    (folder / "val" / "emu").mkdir()
    with pytest.raises(ValueError, match=advice):  # the same for an empty folder
        load_data(f"folder:{folder}")
    write(folder / "val" / "emu" / "0.png")
    write(folder / "val" / "fox" / "0.png")
    with pytest.raises(ValueError, match=r"differ: no folder fox in train; add it with images, or remove it from val"):
        load_data(f"folder:{folder}")
    (folder / "val" / "fox" / "0.png").unlink()
    assert load_data(f"folder:{folder}").class_names == ("cat", "dog", "emu")  # an empty folder there is no class
    (folder / "val" / "dog").rename(folder / "val" / "Dog")
    with pytest.raises(ValueError, match=r"differ: dog and Dog differ in capitals only; rename one"):
        load_data(f"folder:{folder}")


def test_folder_without_classes_and_images_is_refused(tmp_path):
    text(tmp_path / "train" / "notes.txt", "no image")
    write(tmp_path / "val" / "a.png")
    with pytest.raises(ValueError, match=r"train holds no class folders; .* per class \(.*images:"):
        load_data(f"folder:{tmp_path}")


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
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent, of data set 'images'"):
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


# What is left out -----------------------------------------------------------------------------------------------------


def test_hidden_folders_caches_and_odd_files_are_left_out_and_counted(folder):
    for split in ("train", "val"):
        write(folder / split / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png")
        write(folder / "__MACOSX" / split / "cat" / "._0.png")
        write(folder / split / "__MACOSX" / "cat" / "._0.png")
    write(folder / "train" / "cat" / "._0.png")
    write(folder / "train" / "stray.png")
    text(folder / "train" / "cat" / "labels.csv", "a,b")
    text(folder / "train" / "cat" / "Thumbs.db", "")
    text(folder / "train" / "dog" / "phone.HEIC", "")
    text(folder / "train" / "dog" / "README", "")
    os.mkfifo(folder / "train" / "dog" / "pipe.png")
    (folder / "train" / "dog" / "gone.png").symlink_to("/nowhere/x.png")
    (folder / "train" / "dog" / "loop").symlink_to(folder / "train")
    (folder / "train" / "dog" / "self.png").symlink_to("self.png")
    data = load_data(str(folder))
    assert (len(data.train), len(data.val), data.class_names) == (6, 6, ("cat", "dog"))
    assert data.left_out == {
        "hidden": 3,
        "beside the class folders": 1,
        "ending in .csv": 1,
        "ending in .db": 1,
        "ending in .heic, which is not read (convert to PNG or JPEG)": 1,
        "without an ending": 1,
        "not a regular file": 1,
        "broken link": 2,
        "linking to a folder above": 1,
    }
    summary = data.summary
    assert (summary.images, summary.classes, summary.held_out) == (6, 2, 6)
    assert data.describe().startswith(
        "6 images of 2 classes, 6 held out; left out: 3 hidden, 2 broken link, 1 beside the class folders, "
    )
    assert data.describe().endswith(" for other reasons")


def test_copies_in_a_hidden_folder_do_not_land_in_both_splits(undivided):
    before = load_data(str(undivided))
    for name in ("cat", "dog"):
        for k in range(10):
            write(undivided / name / ".ipynb_checkpoints" / f"{name}{k}-checkpoint.png", k)
    after = load_data(str(undivided))
    assert (values(after.train), values(after.val)) == (values(before.train), values(before.val))
    write(undivided / "__MACOSX" / "cat" / "._0.png")
    assert load_data(str(undivided)).class_names == ("cat", "dog", "emu")
    assert len(load_data(f"images:{undivided}").train) == 35


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JFIF", "webp"])
def test_endings_that_pillow_reads_are_taken(folder, ending):
    write(folder / "train" / "cat" / "x.jpg", 90)
    (folder / "train" / "cat" / "x.jpg").rename(folder / "train" / "cat" / f"x.{ending}")
    assert len(load_data(str(folder)).train) == 7


# How splits are named -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "valid"),
        ("Training", "Validation"),
        ("TRAIN", "dev"),
        ("train", "eval"),
        ("train_images", "test_images"),
        ("train-set", "Testing"),
    ],
)
def test_splits_have_any_of_the_usual_names_in_any_capitals(folder, train, held_out):
    (folder / "train").rename(folder / train)
    (folder / "val").rename(folder / held_out)
    data = load_data(str(folder))
    assert (len(data.train), [label for _, label in values(data.val)]) == (6, [0, 0, 0, 1, 1, 1])


def test_of_several_held_out_folders_the_first_by_rank_is_taken_and_the_others_are_named(folder):
    write(folder / "test" / "cat" / "0.png", 222)
    data = load_data(str(folder))
    assert values(data.val)[0] == (100, 0)
    assert data.describe() == "6 images of 2 classes, 6 held out; test is not used"
    (folder / "Val" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds Val and val; rename or remove one of them"):
        load_data(str(folder))


def test_of_a_train_folder_alone_a_fifth_is_held_out(folder):
    (folder / "val" / "cat").rename(folder / "elsewhere")
    for file in sorted((folder / "val").rglob("*.png")):
        file.unlink()
    (folder / "val" / "dog").rmdir()
    (folder / "val").rmdir()
    data = load_data(str(folder))
    assert (len(data.train), len(data.val), data.class_names) == (4, 2, ("cat", "dog"))
    assert "without a folder of held-out images, a fifth of each class is held out by file name" in data.describe()


def test_folders_of_another_shape_are_refused_with_advice(tmp_path):
    for name in ("animal/cat", "animal/dog", "thing/cup", "thing/pen"):
        for split in ("train", "val"):
            write(tmp_path / "super" / split / name / "0.png")
    with pytest.raises(
        ValueError, match=r"train/animal holds no images but the folders cat, dog; .* move them to .*train/"
    ):
        load_data(str(tmp_path / "super"))
    with pytest.raises(ValueError, match=r"super/train/animal holds folders \(cat, dog\), so it is not a class"):
        load_data(str(tmp_path / "super" / "train"))
    for split in ("train", "val"):
        write(tmp_path / "inner" / "birds" / split / "owl" / "0.png")
    with pytest.raises(ValueError, match=r"inner/birds holds folders \(train, val\), .*; give .*inner/birds, or"):
        load_data(str(tmp_path / "inner"))
    write(tmp_path / "flat" / "train" / "owl" / "0.png")
    write(tmp_path / "flat" / "val" / "0.png")
    with pytest.raises(ValueError, match=r"flat/val holds images and no class folders; sort them into .*or move"):
        load_data(str(tmp_path / "flat"))
    write(tmp_path / "tested" / "test" / "owl" / "0.png")
    with pytest.raises(
        FileNotFoundError, match=r"holds test and no folder train; .*to evaluate a trained network, give"
    ):
        load_data(str(tmp_path / "tested"))


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("test", "car", "bus"):
        for k in range(5):
            write(tmp_path / name / f"{k}.png", k)
    assert load_data(str(tmp_path)).class_names == ("bus", "car", "test")
    (tmp_path / "test").rename(tmp_path / "train")
    with pytest.raises(
        ValueError, match=r"train holds images directly, .*bus, car beside it; if all are classes, rename"
    ):
        load_data(str(tmp_path))


# To evaluate on -------------------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_evaluated_whole_and_matched_by_name(undivided):
    data = load_labelled_folder(undivided, ("ant", "dog", "cat", "emu"))
    assert (len(data.train), len(data.val), data.num_classes) == (0, 35, 4)
    assert data.val.labels.bincount().tolist() == [0, 23, 10, 2]
    assert dict(values(data.val))[5] == 2  # cat5.png
    assert data.describe() == "35 images of 3 classes; no image of 1 of the network's 4 classes"
    batches = EvalBatches(data, batch_size=16, size=4, augment=Augment("none"))
    assert torch.cat([labels for _, labels in batches.batches()]).tolist() == data.val.labels.tolist()
    with pytest.raises(
        ValueError, match=r"has the classes dog, emu, which the network was not trained on; .* ant, cat"
    ):
        load_labelled_folder(undivided, ("ant", "cat"))
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere; check the path"):
        load_labelled_folder(undivided / "nowhere", ("cat",))


def test_of_a_folder_with_splits_the_held_out_one_is_evaluated(folder):
    data = load_labelled_folder(folder, ("cat", "dog"))
    assert values(data.val) == [(100, 0), (101, 0), (102, 0), (110, 1), (111, 1), (112, 1)]
    assert len(load_labelled_folder(folder / "train", ("dog", "cat")).val) == 6


# Rotation -------------------------------------------------------------------------------------------------------------


def test_own_images_are_turned_upright_and_those_of_published_sets_are_not(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (6, 4)).save(tmp_path / split / name / "0.jpg", exif=exif)
    text(tmp_path / "all.csv", "image,label", *(f"{s}/{c}/0.jpg,{c}" for s in ("train", "val") for c in ("n01", "n02")))
    for spec, size in (
        (f"folder:{tmp_path}", (4, 6)),
        (f"list:{tmp_path}/all.csv", (4, 6)),
        (f"imagenet:{tmp_path}", (6, 4)),
    ):
        data = load_data(spec)
        assert (data.train.image(0).size, data.val.image(1).size) == (size, size)
        assert data.train.subset(torch.tensor([1])).image(0).size == size


def test_every_folder_that_is_not_used_is_named(folder):
    (folder / "holdout" / "cat").mkdir(parents=True)
    assert load_data(str(folder)).describe() == "6 images of 2 classes, 6 held out; holdout is not used"
    shutil.rmtree(folder / "val")
    assert load_data(str(folder)).describe().endswith("is held out by file name; holdout is not used")


def test_held_out_copies_of_training_images_are_counted(folder):
    for name in ("copy.png", "again.png"):
        shutil.copy(folder / "train" / "cat" / "0.png", folder / "val" / "cat" / name)
    (folder / "val" / "dog" / "link.png").symlink_to(folder / "train" / "dog" / "1.png")
    data = load_data(str(folder))
    assert data.describe() == (
        "6 images of 2 classes, 9 held out; 3 of the 9 held-out images are also among those to train on"
    )


def test_classes_that_differ_by_a_slip_are_told(folder):
    for split in ("train", "val"):
        write(folder / split / "Dog" / "0.png", 77)
        write(folder / split / "dog " / "0.png", 78)
    notes = load_data(str(folder)).notes
    assert notes[-2:] == (
        "the classes 'Dog' and 'dog' differ in capitals or spaces only",
        "the classes 'Dog' and 'dog ' differ in capitals or spaces only",
    )


def test_an_empty_class_says_what_it_holds(folder):
    for file in (folder / "train" / "cat").iterdir():
        file.rename(file.with_suffix(".psd"))
    with pytest.raises(ValueError, match=r"no image in .*cat \(it has 3 ending in .psd, which is not read"):
        load_data(str(folder))
