"""Users' own folders: what is read, what is held out, what is refused and with which advice."""

import pytest
from image_folders import text, values, write

from samix.data import load_data


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
    with pytest.raises(ValueError, match=r"emu holds folders \(fox\), so it is no class; .*train/CLASS/"):
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
