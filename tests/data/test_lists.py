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
    write(tmp_path / "a.png")
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


# CSV ------------------------------------------------------------------------------------------------------------------


def lists(folder, *train, val=("image_id,label", "val/cat/0,cat", "val/dog/1,dog")):
    text(folder / "train.csv", *train)
    text(folder / "val.csv", *val)
    return load_data(f"list:{folder}/train.csv,{folder}/val.csv")


@pytest.mark.parametrize(
    "train",
    [
        ("image_id,label", "train/cat/1,cat", "train/dog/2,dog"),  # without endings
        ("\ufeffimage_id,label", '"train/cat/1.png","cat"', "train/dog/2.png,dog"),
        ("label;file", "cat;train/cat/1.png", "dog;train/dog/2.png"),
        ("id\tbreed", "train/cat/1\tcat", "train/dog/2\tdog"),
        ("foto,art", "train/cat/1.png,cat", "train/dog/2.png,dog"),  # titles that nobody knows
        ("train/cat/1.png,cat", "train/dog/2.png,dog"),
        ("cat,train/cat/1.png", "dog,train/dog/2.png"),
        ("n,filename,width,class", "0,train/cat/1.png,4,cat", '1,"train/dog/2.png",4,dog', ""),
    ],
)
def test_tables_are_read_as_others_write_them(folder, train):
    data = lists(folder, *train)
    assert data.class_names == ("cat", "dog")
    assert values(data.train) == [(1, 0), (12, 1)]
    assert values(data.val) == [(100, 0), (111, 1)]


def test_names_of_a_table_may_hold_separators_and_lie_in_another_folder(folder):
    write(folder / "train" / "cat" / "a, b.png", 55)
    text(folder / "lists" / "t.csv", "image,label", '"cat/a, b.png",cat', "dog/1,dog")
    text(folder / "lists" / "v.csv", "image,label", "cat/0,cat")
    data = load_data(f"list:{folder}/lists/t.csv,{folder}/lists/v.csv,{folder}/train,{folder}/val")
    assert (values(data.train), values(data.val)) == ([(55, 0), (11, 1)], [(100, 0)])


def test_of_one_list_a_fifth_of_each_class_is_held_out_by_name(folder):
    names = [f"{name}/{k}.png" for name in ("cat", "dog") for k in range(3)]
    text(folder / "all.csv", "image,label", *(f"{name},{name[:3]}" for name in names))
    data = load_data(f"list:{folder}/all.csv,{folder}/train")
    assert (len(data.train), len(data.val), data.class_names) == (4, 2, ("cat", "dog"))
    assert sorted(values(data.train) + values(data.val)) == [(0, 0), (1, 0), (2, 0), (10, 1), (11, 1), (12, 1)]
    text(folder / "less.csv", "image,label", *(f"{name},{name[:3]}" for name in reversed(names)))
    again = load_data(f"list:{folder}/less.csv,{folder}/train")
    assert sorted(values(again.val)) == sorted(values(data.val))
    text(folder / "bare.txt", *names)
    assert load_data(f"list:{folder}/bare.txt,{folder}/train").num_classes == 0


def test_images_in_both_lists_are_told(folder):
    data = lists(folder, "image,label", "val/cat/0,cat", "train/dog/2,dog")
    assert (
        data.describe()
        == "2 images of 2 classes, 2 held out; 1 of the 2 held-out images are also among those to train on"
    )


def test_an_image_with_two_labels_is_refused_and_one_listed_twice_is_told(folder):
    with pytest.raises(ValueError, match=r"'train/cat/1.png' has the labels 'cat' and 'dog'; keep one of them"):
        lists(folder, "image,label", "train/cat/1,cat", "train/dog/2,dog", "train/cat/1.png,dog")
    data = lists(folder, "image,label", "train/cat/1,cat", "train/dog/2,dog", "train/cat/1.png,cat")
    assert data.describe() == "3 images of 2 classes, 2 held out; images listed more than once: 1"


def test_columns_that_are_not_used_are_named(folder):
    data = lists(folder, "image,label,split,", "train/cat/1,cat,test,0", "train/dog/2,dog,train,1")
    assert data.describe() == "2 images of 2 classes, 2 held out; columns of train.csv that are not used: split"


def test_a_list_of_which_no_image_is_there_is_refused_when_it_is_read(folder):
    text(folder / "a.csv", "image,label", *(f"https://example.org/{k}.png,{k % 2}" for k in range(30)))
    with pytest.raises(FileNotFoundError, match=r"'https://example.org/0.png' is not in .*; check the names, or give"):
        load_data(f"list:{folder}/a.csv")


def test_labels_that_do_not_begin_at_0_are_refused_with_the_lowest(folder):
    with pytest.raises(ValueError, match=r"no image has label 0, the lowest is 1; number the classes from 0"):
        lists(folder, "image,label", "train/cat/1,1", "train/dog/2,2", val=("image,label", "val/cat/0,1"))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (("image,label", "train/cat/1,cat", "train/dog/2"), r"row 3 has 1 cells, the first row 2; correct the row"),
        (("a,b,c", "1,2,3"), r"has 3 columns \(a, b, c\); name those to read in a first row: image and label"),
        (("image,label",), r"holds a header and no images; add one row an image"),
        (("image,label", "train/cat/1,"), r"the image 'train/cat/1' has no label; add it or remove the row"),
        (("image,label", "train/cat/9,cat"), r"'train/cat/9' is the name of no image, .*; check the names, or give"),
        (("image,label", "train/cat/1,cat", "train/dog/2,fox"), r"'val/dog/1.png' has the label 'dog', which no"),
        (("image,label", "train/cat/1,-1", "train/dog/2,fox"), r"label of 'train/cat/1.png' must be a whole number"),
    ],
)
def test_table_errors(folder, train, message):
    with pytest.raises(ValueError, match=message):
        lists(folder, *train)


def test_a_name_that_fits_two_files_is_refused(folder):
    write(folder / "train" / "cat" / "1.jpg")
    with pytest.raises(ValueError, match=r"'train/cat/1' fits 1.jpg, 1.png in .*; write the ending, too"):
        lists(folder, "image,label", "train/cat/1,cat", "train/dog/2,dog")


@pytest.mark.parametrize("label", ["999999999", "99999999999999999999999"])
def test_a_label_far_above_the_number_of_images_is_refused_before_anything_is_made(folder, label):
    with pytest.raises(ValueError, match=rf"'train/dog/2.png' has label {label}, but there are 3 images; number the"):
        lists(folder, "image,label", "train/cat/1,0", f"train/dog/2,{label}", val=("image,label", "val/cat/0,0"))


def test_a_list_that_is_no_text_is_refused(folder):
    (folder / "b.txt").write_bytes(b"train/cat/0.png 0\n\0.png 1\n")
    with pytest.raises(ValueError, match=r"b.txt is damaged or no text file: it holds NUL bytes; write it again"):
        load_data(f"list:{folder}/b.txt")
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match=r"a.txt is not a text file in UTF-8; save it as one"):
        load_data(f"list:{folder}/a.txt")
