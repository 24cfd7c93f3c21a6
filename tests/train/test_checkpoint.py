"""Files are whole or absent; an export says how to load it, and those very lines load it where samix cannot be."""

import errno
import hashlib
import io
import os
import random
import resource
import shutil
import zipfile

import pytest
import torch
from runs import fit, small_recipe
from safetensors.torch import save_file

import samix.train.checkpoint
from samix.runtime.atomic_files import CannotWrite, write_text, write_whole
from samix.runtime.environment import versions
from samix.train.checkpoint import (
    FORMAT,
    HASH_BYTES,
    HASH_TAG,
    PARTS,
    SEAL_BYTES,
    DamagedCheckpoint,
    kept_files,
    load_checkpoint,
    load_into,
    load_last,
    save_checkpoint,
    set_aside,
    write_sealed,
)


def test_write_whole_replaces_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new λ")
    assert path.read_text(encoding="utf-8") == "new λ"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_first_write_leaves_no_file(tmp_path):
    def fail(temporary):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CannotWrite, match="No space left on device; free some space"):
        write_whole(tmp_path / "a.txt", fail)
    assert not (tmp_path / "a.txt").exists()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """fsync, then the name: after a power cut there is the old file or the new one."""
    import samix.train.checkpoint as module

    order = []
    fsync, replace = module.os.fsync, module.Path.replace
    monkeypatch.setattr(module.os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(module.Path, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    save_checkpoint(tmp_path / "a.pt", {"x": torch.zeros(2)})
    assert order == ["fsync", "replace", "fsync"]


# The seal, the last ones, the disk ------------------------------------------------------------------------------------


def state(step=0, size=300):
    """As little as a checkpoint may hold."""
    empty = {name: (kind[0] if isinstance(kind, tuple) else kind)() for name, kind in PARTS.items()}
    recipe = {"model": "resnet18", "model_args": "{}", "size": 32}
    return {**empty, "recipe": recipe, "step": step, "method": {"w": torch.randn(size)}}


def test_a_sealed_checkpoint_is_a_plain_file_of_torch_and_a_plain_archive(tmp_path):
    path = tmp_path / "a.pt"
    saved = state(3)
    save_checkpoint(path, saved)
    for mmap in (False, True):
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert found["step"] == 3
        assert torch.equal(found["method"]["w"], saved["method"]["w"])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"samix blake2b ")


def test_every_flipped_byte_of_a_checkpoint_is_found(tmp_path):
    """Also those of weights, which torch's format does not check."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, state())
    good, draw = path.read_bytes(), random.Random(0)
    ends = [0, *range(len(good) - SEAL_BYTES - 24, len(good), 5), len(good) - 1]
    for place in [*ends, *(draw.randrange(len(good)) for _ in range(60))]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << draw.randrange(8)]) + good[place + 1 :])
        with pytest.raises(DamagedCheckpoint, match=r"a.pt (is|has no hash: it is) damaged"):
            load_checkpoint(path)


def test_every_cut_of_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state())
    good, draw = path.read_bytes(), random.Random(0)
    ends = [0, 1, 22, len(good) - SEAL_BYTES, len(good) - SEAL_BYTES - 1, len(good) - 1]
    for length in [*ends, *(draw.randrange(len(good)) for _ in range(30))]:
        path.write_bytes(good[:length])
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(path)


def test_bytes_behind_a_checkpoint_do_not_hide_its_seal(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state())
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DamagedCheckpoint, match="hash"):
        load_checkpoint(path)


def test_a_file_without_a_seal_is_refused(tmp_path):
    torch.save({"format": 2, **state(7)}, tmp_path / "a.pt")
    with pytest.raises(DamagedCheckpoint, match=r"a.pt has no hash: it is damaged, of an older version of samix"):
        load_checkpoint(tmp_path / "a.pt")


# What a checkpoint from elsewhere may not do --------------------------------------------------------------------------


def sealed(path, content):
    """Seals an archive as samix does, whatever is in it."""
    content = content[:-2] + SEAL_BYTES.to_bytes(2, "little")
    path.write_bytes(content + HASH_TAG + hashlib.blake2b(content, digest_size=HASH_BYTES).hexdigest().encode())
    return path


def test_a_compressed_checkpoint_is_refused_before_it_is_expanded(tmp_path, monkeypatch):
    """A hundred megabytes of zeros in a hundred kilobytes."""
    torch.save({"format": 2, **state(), "method": {"w": torch.zeros(25_000_000)}}, tmp_path / "plain.pt")
    packed = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in plain.infolist():
            archive.writestr(part.filename, plain.read(part))
    assert len(packed.getvalue()) < 300_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DamagedCheckpoint, match=r"a.pt is compressed"):
        load_checkpoint(sealed(tmp_path / "a.pt", packed.getvalue()))


def test_an_archive_whose_parts_overlap_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """Its directory names one megabyte a hundred times."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 20))
        archive.filelist += archive.filelist * 99
    assert len(packed.getvalue()) < 1_100_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DamagedCheckpoint, match=r"a.pt is damaged: it would expand to more than its own size"):
        load_checkpoint(sealed(tmp_path / "a.pt", packed.getvalue()))


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"w": torch.zeros(1).expand(10**12)}}, "/method/w is not a plain tensor"),
        ({"extra": {"w": torch.eye(3).to_sparse()}}, "/extra/w is not a plain tensor"),
        ({"method": {"w": torch.tensor([1.0, float("nan")])}}, r"weights that are not finite \(first: w\)"),
        ({"method": {"w": torch.tensor([float("inf")])}}, r"weights that are not finite \(first: w\)"),
        ({"method": {"w": 3.0}}, "the weight 'w' is a float"),
        ({"method": {5: torch.zeros(1)}}, "the weight 5 is a Tensor"),
        ({"method": [torch.zeros(1)]}, "its method is list"),
        ({"step": True}, "its step is bool"),
        ({"step": -1}, "its step is -1"),
        ({"seconds": float("nan")}, "its seconds is nan"),
        ({"rows": {}}, "its rows is dict"),
        ({"rows": [{"loss": {1, 2}}]}, "/rows/0/loss is a set"),
        ({"rows": nested(200)}, "is a list"),
        ({"recipe": {"model": "../../net", "size": 8}}, "must name a timm network"),
        ({"recipe": {"model": "hf-hub:a/b", "size": 8}}, "must name a timm network"),
        (
            {"recipe": {"model": "resnet18", "model_args": '{"checkpoint_path": "/etc/x"}', "size": 8}},
            "checkpoint_path",
        ),
        ({"recipe": {"model": "resnet18", "model_args": '{"pretrained_cfg": {}}', "size": 8}}, "pretrained_cfg"),
        ({"recipe": {"model": "resnet18", "model_args": '{"layers": [1000000000]}', "size": 8}}, "layers"),
        ({"recipe": {"model": "resnet18", "model_args": "{", "size": 8}}, "model_args are not JSON"),
        ({"recipe": {"model": "resnet18", "size": 10**9}}, r"size in .* must be a whole number in \[1, 8192\]"),
        ({"recipe": {"model": "resnet18", "size": "8"}}, "size in .* must be a whole number"),
    ],
)
def test_values_that_no_checkpoint_has_are_refused_when_it_is_read(changes, message, tmp_path):
    write_sealed(tmp_path / "a.pt", {"format": 2, **state(), **changes})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            FORMAT - 1,
            rf"is of an older version of samix \(format {FORMAT - 1}, this one reads {FORMAT}\); train",
        ),
        (FORMAT + 1, rf"has format {FORMAT + 1}, this samix reads up to {FORMAT}; update samix"),
    ],
)
def test_a_checkpoint_of_another_format_says_which_samix_reads_it(version, message, tmp_path):
    write_sealed(tmp_path / "a.pt", {**state(), "format": version})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "a.pt")
    write_sealed(tmp_path / "a.pt", {**state(), "format": FORMAT})
    assert load_checkpoint(tmp_path / "a.pt")["format"] == FORMAT


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"format": 2, **state(), "extra": {"w": Evil()}}, tmp_path / "plain.pt")
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(sealed(tmp_path / "a.pt", (tmp_path / "plain.pt").read_bytes()))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("links", [True, False])
def test_the_last_checkpoints_are_kept(tmp_path, monkeypatch, links):
    if not links:  # as on some network drives

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "last.pt"
    for step in range(5):
        save_checkpoint(path, state(step), keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-1.pt", "last-2.pt", "last.pt"]
    assert [load_checkpoint(p)["step"] for p in kept_files(path, 3)] == [4, 3, 2]
    save_checkpoint(path, state(5), keep=1)
    assert load_checkpoint(path)["step"] == 5
    assert load_checkpoint(kept_files(path, 2)[1])["step"] == 3


def test_there_is_a_whole_newest_checkpoint_after_every_single_rename(tmp_path, monkeypatch):
    path, seen = tmp_path / "last.pt", []
    for step in range(4):
        save_checkpoint(path, state(step), keep=4)
    replace = samix.train.checkpoint.Path.replace

    def spy(a, b):
        replace(a, b)
        seen.append(load_last(tmp_path).state["step"])

    monkeypatch.setattr(samix.train.checkpoint.Path, "replace", spy)
    save_checkpoint(path, state(4), keep=4)
    assert seen == [3, 3, 3, 4]
    assert [load_checkpoint(p)["step"] for p in kept_files(path, 4)] == [4, 3, 2, 1]


def test_damaged_ones_are_passed_over_and_set_aside(tmp_path):
    path = tmp_path / "last.pt"
    for step in range(3):
        save_checkpoint(path, state(step), keep=3)
    path.write_bytes(path.read_bytes()[:500])
    (tmp_path / "last-1.pt").write_bytes(b"")
    found = load_last(tmp_path)
    assert (found.state["step"], found.path.name) == (0, "last-2.pt")
    assert len(found.messages) == 2
    assert all("damaged" in line for line in found.messages)
    set_aside(found.damaged)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-1.pt.damaged", "last-2.pt", "last.pt.damaged"]
    assert load_last(tmp_path).messages == [f"{path} is missing"]
    (tmp_path / "last-2.pt").write_bytes(b"x")
    with pytest.raises(DamagedCheckpoint, match=r"last-2.pt is damaged"):
        load_last(tmp_path)


@pytest.fixture
def small_files():
    """No file of this process may be longer than 20 KB: writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_files_before_and_no_others(tmp_path, small_files):
    path = tmp_path / "last.pt"
    save_checkpoint(path, state(1), keep=2)
    for keep in (1, 2):
        with pytest.raises(CannotWrite, match=r"cannot write .*last.pt: File too large; free some space. .*--resume"):
            save_checkpoint(path, state(2, size=100_000), keep=keep)
    with pytest.raises(CannotWrite, match=r"cannot write .*a.txt: File too large"):
        write_text(tmp_path / "a.txt", "x" * 30_000)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert load_checkpoint(path)["step"] == 1


def test_a_full_disk_is_told_of_by_the_writer_of_exports_too(tmp_path, small_files):
    """safetensors is written in Rust, and its errors are none of Python's."""
    weights = {"weight": torch.zeros(100_000)}
    with pytest.raises(CannotWrite, match=r"cannot write .*model.safetensors: File too large; free some space"):
        write_whole(tmp_path / "model.safetensors", lambda path: save_file(weights, path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to_says_so(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    save_checkpoint(tmp_path / "last.pt", state(1))
    monkeypatch.setattr(samix.train.checkpoint.Path, "open", refuse)
    with pytest.raises(CannotWrite, match=r"cannot write .*last.pt: .*; make the folder writable"):
        save_checkpoint(tmp_path / "last.pt", state(2))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    file = io.BytesIO()
    torch.save({"format": 1, **state(), "extra": Evil()}, file)
    (tmp_path / "a.pt").write_bytes(file.getvalue())
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(tmp_path / "a.pt")
    assert "executed" not in capsys.readouterr().out


def test_load_checkpoint_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*last.pt; a run writes last.pt and best.pt"):
        load_checkpoint(tmp_path / "last.pt")


def test_load_into_names_what_differs():
    net = torch.nn.Linear(2, 3)
    with pytest.raises(
        ValueError, match=r"another network: 1 missing \(first: bias\), 1 unknown \(first: scale\), 1 of"
    ):
        load_into(net, {"weight": torch.zeros(3, 9), "scale": torch.zeros(1)}, "last.pt")
    with pytest.raises(ValueError, match=r"another network: 1 of another shape or type \(first: weight\); give the"):
        load_into(net, {"weight": torch.zeros(3, 2, dtype=torch.int64), "bias": torch.zeros(3)}, "last.pt")


def test_versions_are_of_what_decides_a_result():
    assert torch.__version__.startswith(versions()["torch"])
    assert {"python", "samix", "timm", "numpy", "torchvision", "accelerate"} == set(versions()) - {"torch"}


# Export ---------------------------------------------------------------------------------------------------------------

SINGLE = '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}'


def test_an_export_can_be_written_again(tmp_path, monkeypatch):
    folder = fit(small_recipe("cutmix"), tmp_path)
    weights = (folder / "export/model.safetensors").read_bytes()
    shutil.rmtree(folder / "export")
    fit(small_recipe("cutmix"), tmp_path, resume=True)
    assert (folder / "export/model.safetensors").read_bytes() == weights
