"""Lists of images: separators, CSV, names and numbers as labels."""

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
        (["a.png -1"], ["a.png 0"], r"label of 'a.png' must be a whole number from 0, or a name as .*; got \'-1\'"),
        (["a.png cat"], ["a.png 0"], r"'a.png' has the label '0', which no training image has"),
        (["b.png 0", "a.png"], ["a.png 0"], r"expected lines of 'name label' \(space, comma or .*\), got 'a.png'"),
        (["b.png 0", "my cat.png"], ["b.png 0"], r"expected lines of 'name label' .*, got 'my cat.png'"),
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
    for place in ("", "a,b,c,d,e", "a,,b"):
        with pytest.raises(ValueError, match=r"list needs list:TRAIN.txt,VAL.txt\[,DIR\[,VALDIR\]\], got list:"):
            load_data(f"list:{place}")
    with pytest.raises(FileNotFoundError, match=r"a.txt is missing"):
        load_data(f"list:{tmp_path}/a.txt,{tmp_path}/b.txt")
    text(tmp_path / "a.txt", "a.png 0")
    with pytest.raises(FileNotFoundError, match=r"none, the folder of the images of .*a.txt, is missing"):
        load_data(f"list:{tmp_path}/a.txt,{tmp_path}/a.txt,{tmp_path}/none")


@pytest.mark.parametrize("val", ["val/cat/0.png", "val/dog/1.png 1"])
def test_a_list_of_names_alone_has_no_labels(folder, val):
    write(folder / "train" / "my cat.png", 77)
    text(folder / "train.txt", "train/my cat.png", "train/dog/2.png")
    text(folder / "val.txt", val)
    data = load_data(f"list:{folder}/train.txt,{folder}/val.txt")
    assert values(data.train) == [(77, -1), (12, -1)]
    assert data.num_classes == 0
    assert values(data.val) == ([(111, 1)] if val.endswith("1") else [(100, -1)])
