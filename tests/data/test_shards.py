"""Images in tar shards: the same images, in the same order, as from files."""

import io
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SLIM, fit, new_run, rows, run_differences

import samix.data.shards
from samix.data import Augment, TrainBatches, load_data
from samix.data.decode import UnreadableImage
from samix.data.replacements import check_readable, name_of
from samix.data.shards import INDEX_ENDING, expand_ranges, find_shards, make_index
from samix.recipes import Recipe
from samix.train import Interrupted

SIDE, CLASSES, PER_SHARD = 12, 3, 9


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number):
    return [(f"{number:04d}.png", png(number)), (f"{number:04d}.cls", f"{number % CLASSES}\n".encode())]


def members(first):
    return [member for number in range(first, first + PER_SHARD) for member in sample(number)]


@pytest.fixture
def shards(tmp_path):
    """Three shards to learn from and one that is held out: 27 and 9 images."""
    for shard in range(3):
        write_tar(tmp_path / f"train-{shard:03d}.tar", members(shard * PER_SHARD))
    write_tar(tmp_path / "val-000.tar", members(100))
    return tmp_path


def spec(folder):
    return f"wds:{folder}/train-{{000..002}}.tar,{folder}/val-*.tar"


def test_images_and_labels_are_those_that_were_put_in(shards):
    data = load_data(spec(shards))
    assert (len(data.train), len(data.val), data.class_names, data.native_size) == (27, 9, ("0", "1", "2"), SIDE)
    for row in range(27):
        assert np.array_equal(np.asarray(data.train.image(row)), np.asarray(Image.open(io.BytesIO(png(row)))))
        assert int(data.train.labels[row]) == row % CLASSES
    assert name_of(data.train, 26) == f"{shards}/train-002.tar/0026.png"


def test_a_folder_stands_for_its_train_and_val_shards(shards):
    data = load_data(f"wds:{shards}")
    assert (len(data.train), len(data.val)) == (27, 9)


def test_images_without_labels_serve_for_training_without_labels(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{n}.png", png(n)) for n in range(4)])
    data = load_data(f"wds:{tmp_path}/a.tar")
    assert (len(data.train), len(data.val), data.has_labels) == (4, 0, False)


def test_the_index_is_made_once_and_again_when_the_shard_changes(shards, monkeypatch):
    made = []
    make = make_index

    def noted(path):
        made.append(path.name)
        return make(path)

    monkeypatch.setattr(samix.data.shards, "make_index", noted)
    first = load_data(spec(shards))
    assert len(made) == 4
    second = load_data(spec(shards))
    assert len(made) == 4
    assert np.array_equal(first.train.offsets, second.train.offsets)
    assert np.array_equal(first.train.names, second.train.names)
    write_tar(shards / "train-001.tar", members(50)[:-2])
    assert len(load_data(spec(shards)).train) == 26
    assert made[4:] == ["train-001.tar"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"outside"])
def test_a_damaged_index_is_made_again(content, shards):
    whole, place = load_data(spec(shards)), shards / f"train-000.tar{INDEX_ENDING}"
    if content == b"outside":  # an index that fits the shard and points behind its end
        with np.load(place) as stored:
            parts = dict(stored)
        np.savez(place, **{**parts, "offsets": parts["offsets"] + (1 << 40)})
    else:
        place.write_bytes(content)
    assert np.array_equal(load_data(spec(shards)).train.offsets, whole.train.offsets)


def test_an_index_that_holds_compressed_arrays_is_not_unpacked(shards):
    whole, place = load_data(spec(shards)), shards / f"train-000.tar{INDEX_ENDING}"
    with np.load(place) as stored:
        parts = dict(stored)
    np.savez_compressed(place, **{**parts, "labels": parts["labels"] * 0})
    assert torch.equal(load_data(spec(shards)).train.labels, whole.train.labels)


def test_without_a_place_for_the_index_all_works(shards):
    for shard in shards.glob("*.tar"):
        shard.with_name(shard.name + INDEX_ENDING).mkdir()
    assert len(load_data(spec(shards)).train) == 27
    assert not [path for path in shards.iterdir() if path.name.startswith(".")]  # no temporary is left


# Order, workers, ranks ------------------------------------------------------------------------------------------------


def batches(folder, start=0, epoch=1, **options):
    data = load_data(spec(folder))
    supply = TrainBatches(data, batch_size=4, size=8, augment=Augment("crop-flip"), seed=5, **options)
    return list(supply.epoch(epoch, start))


def test_batches_are_those_of_the_same_images_in_files(shards, tmp_path):
    """Order and augmentation are functions of (seed, epoch, row), so that where images lie does not matter."""
    names = []
    for number in [*range(27), *range(100, 109)]:
        (tmp_path / f"{number:04d}.png").write_bytes(png(number))
        names.append(f"{number:04d}.png {number % CLASSES}")
    (tmp_path / "train.txt").write_text("\n".join(names[:27]))
    (tmp_path / "val.txt").write_text("\n".join(names[27:]))
    data = load_data(f"list:{tmp_path}/train.txt,{tmp_path}/val.txt")
    files = TrainBatches(data, batch_size=4, size=8, augment=Augment("crop-flip"), seed=5)
    for (images, labels), (others, other_labels) in zip(batches(shards), files.epoch(1), strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_workers_and_a_start_in_the_middle_change_nothing(shards):
    whole = batches(shards)
    assert len(whole) == 6
    for options in ({"workers": 2}, {"start": 2}, {"workers": 2, "start": 3}):
        rest = batches(shards, **options)
        for (images, labels), (others, other_labels) in zip(whole[options.get("start", 0) :], rest, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)


def test_ranks_with_workers_see_every_image_once(shards):
    """24 of 27 images: what is left over at the end of an epoch is dropped."""
    data, seen = load_data(spec(shards)), []
    for rank in range(3):
        supply = TrainBatches(
            data, batch_size=2, size=8, augment=Augment("none"), seed=5, rank=rank, world_size=3, workers=2
        )
        assert len(supply) == 4
        seen += [row for step in range(4) for row in supply.rows(0, step).tolist()]
        labels = torch.cat([labels for _, labels in supply.epoch(0)])
        assert labels.tolist() == [row % CLASSES for row in seen[-8:]]
    assert len(seen) == len(set(seen)) == 24


def recipe(folder, **changes):
    small = {"model": "resnet18", "model_args": SLIM, "size": 8, "batch_size": 4, "epochs": 2, "workers": 0}
    return Recipe(name="tiny", data=spec(folder), mixup="cutmix", augment="crop-flip", **{**small, **changes})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_shards_resumes_in_the_middle_of_an_epoch(workers, shards, tmp_path, monkeypatch):
    unbroken = fit(recipe(shards, workers=workers), tmp_path, "unbroken")
    run = new_run(recipe(shards, workers=workers), tmp_path, "stopped")
    step = run.train_step

    def stopping(batch):
        step(batch)
        run.stopping = run.step == 7

    monkeypatch.setattr(run, "train_step", stopping)
    with pytest.raises(Interrupted, match="stopped at step 8"):
        run.fit()
    assert run_differences(unbroken, fit(recipe(shards, workers=workers), tmp_path, "stopped", resume=True)) == []


# Damage ---------------------------------------------------------------------------------------------------------------


def spoil(folder, number):
    """Writes noise over the pixels of an image."""
    data = load_data(spec(folder))
    path = folder / f"train-{number // PER_SHARD:03d}.tar"
    content = bytearray(path.read_bytes())
    first = int(data.train.offsets[number])
    content[first + 20 : first + 60] = bytes(40)
    path.write_bytes(content)


def test_a_corrupt_member_stops_with_its_name_or_is_counted_and_skipped(shards, tmp_path, monkeypatch, capsys):
    spoil(shards, 13)
    name = f"{shards}/train-001.tar/0013.png"
    with pytest.raises(UnreadableImage, match=rf"{name} cannot be read"):
        fit(recipe(shards, batch_size=9, workers=1), tmp_path, "stop")
    folder = fit(recipe(shards, batch_size=9, workers=1), tmp_path, "skip", on_bad_image="skip")
    assert [row["bad_images"] for row in rows(folder)] == [1, 1]
    assert (folder / "bad-images.txt").read_text() == f"{name}\n"
    assert (
        f"1 of 27 training images could not be read in epoch 1 and were replaced by others: {name}"
        in capsys.readouterr().err
    )


def test_a_shard_that_became_shorter_is_unreadable_and_not_wrong(shards):
    data, path = load_data(spec(shards)), shards / "train-000.tar"
    path.write_bytes(path.read_bytes()[: int(data.train.offsets[8]) + 10])
    with pytest.raises(UnreadableImage, match=r"train-000\.tar/0008\.png cannot be read: the shard is shorter"):
        data.train.image(8)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000\.tar is missing"):
        data.train.image(8)


def test_a_damaged_or_cut_shard_is_refused_wherever_it_is_cut(shards):
    """Python's reader of tar files takes many of these for the end of the archive."""
    path = shards / "train-000.tar"
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for cut in range(0, end, 256):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"train-000\.tar is (not a plain tar file, or is )?cut short"):
            make_index(path)
    for header in [at for at in range(0, end, 512) if whole[at + 257 : at + 262] == b"ustar"]:
        path.write_bytes(whole[:header] + b"\xff" + whole[header + 1 :])
        with pytest.raises(ValueError, match=r"train-000\.tar is (damaged|not a plain tar)"):
            make_index(path)
        path.write_bytes(whole[:header] + bytes(512) + whole[header + 512 :])
        with pytest.raises(ValueError, match=r"train-000\.tar is damaged"):
            make_index(path)


def test_a_compressed_shard_is_refused(shards):
    path = shards / "train-000.tar"
    with tarfile.open(shards / "packed.tar", "w:gz") as tar:
        tar.add(path, "x.png")
    with pytest.raises(ValueError, match="not a plain tar file"):
        make_index(shards / "packed.tar")


def test_names_and_links_that_lead_out_of_the_archive_do_nothing(tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(7))
    inside = tmp_path / "data"
    inside.mkdir()
    with tarfile.open(inside / "train-0.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(outside)
            tar.addfile(info)
        for name in ("../../escaped.png", f"{tmp_path}/absolute.png", "line\nbreak\x1b[2J.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            tar.addfile(info, io.BytesIO(png(1)))
    before = sorted(path for path in tmp_path.rglob("*"))
    data = load_data(f"wds:{inside}/train-0.tar")
    assert len(data.train) == 3  # the links and the pipe are no images
    assert np.array_equal(np.asarray(data.train.image(0)), np.asarray(Image.open(io.BytesIO(png(1)))))
    assert sorted(path for path in tmp_path.rglob("*") if not path.name.endswith(INDEX_ENDING)) == before
    assert "\n" not in data.train.name(2)
    assert "\x1b" not in data.train.name(2)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ([("a.png", png(1)), ("a.cls", b"cat")], r"a\.cls must hold the number of a class from 0, got b'cat'"),
        ([("a.png", png(1)), ("a.cls", b"-1")], r"a\.cls must hold the number of a class"),
        ([("a.cls", b"1")], r"sample 'a' has 0 images, expected one"),
        ([("a.png", png(1)), ("a.jpg", png(2)), ("a.cls", b"1")], r"sample 'a' has 2 images"),
        (
            [("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(2))],
            r"some samples of .* have a label .* and others none",
        ),
        ([("readme", b"hello")], r"no image in .*train-0\.tar"),
    ],
)
def test_samples_of_another_form_are_named(broken, words, tmp_path):
    write_tar(tmp_path / "train-0.tar", broken)
    shutil.copy(tmp_path / "train-0.tar", tmp_path / "val-0.tar")
    with pytest.raises(ValueError, match=words):
        load_data(f"wds:{tmp_path}")


# Patterns -------------------------------------------------------------------------------------------------------------


def test_ranges_keep_their_leading_zeros_and_multiply():
    assert list(expand_ranges("a-{008..011}.tar")) == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    assert list(expand_ranges("{0..1}/b{2..3}")) == ["0/b2", "0/b3", "1/b2", "1/b3"]
    assert list(expand_ranges("plain.tar")) == ["plain.tar"]


@pytest.mark.parametrize("pattern", ["a-{3..1}.tar", "a-{a,b}.tar", "a-{0..99999999999}.tar", "a}.tar"])
def test_braces_that_are_no_range_are_refused(pattern):
    with pytest.raises(ValueError, match=r"braces|must rise"):
        list(expand_ranges(pattern))


def test_a_missing_shard_of_a_range_is_named_and_none_counts_twice(shards):
    with pytest.raises(FileNotFoundError, match=r"train-003\.tar is missing"):
        find_shards(f"{shards}/train-{{000..003}}.tar")
    with pytest.raises(FileNotFoundError, match="no shard fits"):
        find_shards(f"{shards}/none-*.tar")
    with pytest.raises(ValueError, match="names a shard twice"):
        find_shards(f"{shards}/train-*{{0..1}}*.tar")


@pytest.mark.parametrize("place", ["", "a.tar,b.tar,c.tar", "a.tar,"])
def test_more_or_fewer_patterns_are_refused(place):
    with pytest.raises(ValueError, match="wds needs"):
        load_data(f"wds:{place}")


def test_labelled_shards_without_held_out_ones_are_refused(shards):
    with pytest.raises(ValueError, match="have labels, and none are held out"):
        load_data(f"wds:{shards}/train-*.tar")


def test_a_held_out_label_that_is_not_learned_is_refused(shards):
    write_tar(shards / "val-001.tar", [("x.png", png(1)), ("x.cls", b"7")])
    with pytest.raises(ValueError, match=r"has label 7, outside 0\.\.2"):
        load_data(spec(shards))


def test_a_label_far_above_the_number_of_images_is_refused_before_anything_is_made(tmp_path):
    for name in ("train", "val"):
        write_tar(tmp_path / f"{name}.tar", [("0.png", png(0)), ("0.cls", b"999999999")])
    with pytest.raises(ValueError, match=r"have label 999999999, but 2 images; number the classes from 0"):
        load_data(f"wds:{tmp_path}/train.tar,{tmp_path}/val.tar")


def test_images_in_shards_are_turned_upright_and_their_formats_are_those_of_files(tmp_path):
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(stream, "JPEG", exif=exif)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    write_tar(tmp_path / "a.tar", [("0.jpg", stream.getvalue()), ("1.jpg", postscript), ("2.png", png(2)[:150])])
    images = load_data(f"wds:{tmp_path}/a.tar").train
    assert images.image(0).size == (4, 6)
    with pytest.raises(UnreadableImage, match=r"a.tar/1.jpg cannot be read \(none of the formats"):
        images.image(1)
    assert check_readable(images, "skip") == {1, 2}
