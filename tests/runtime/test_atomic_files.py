"""Files that are whole or absent, and never over what something else wrote."""

import errno
import threading

import pytest

from samix.runtime.atomic_files import CannotWrite, refuse_foreign, remove_temporaries, write_text, write_whole
from samix.runtime.lock import exclusive


def test_a_failed_write_leaves_the_old_file_and_no_part_of_the_new_one(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def fail(path):
        path.write_text("half", encoding="utf-8")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_whole(tmp_path / "a.txt", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


def test_links_at_the_temporary_or_the_final_name_are_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("text", encoding="utf-8")
    (tmp_path / ".a.txt.tmp").symlink_to(precious)
    (tmp_path / "a.txt").symlink_to(precious)
    write_text(tmp_path / "a.txt", "new")
    assert precious.read_text(encoding="utf-8") == "text"
    assert not (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"


def test_writers_of_one_name_do_not_share_a_temporary_file(tmp_path):
    barrier, names = threading.Barrier(4), []

    def write(path):
        names.append(path.name)
        barrier.wait(20)
        path.write_text("x" * 1000, encoding="utf-8")

    threads = [threading.Thread(target=write_whole, args=(tmp_path / "a.txt", write)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_files_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / ".last.pt.abc.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_bytes(b"the user's")
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.tmp"]


def test_only_files_with_the_mark_may_be_replaced(tmp_path):
    path = tmp_path / "mixed.png"
    refuse_foreign(path, "samix show")
    path.write_bytes(b"\x89PNG ... Software samix show ...")
    refuse_foreign(path, "samix show")
    path.write_bytes(b"\x89PNG of the user")
    with pytest.raises(FileExistsError, match=r"mixed.png exists and was not written by samix show; give --out"):
        refuse_foreign(path, "samix show", "give --out")
    link = tmp_path / "link.png"
    link.symlink_to(path)
    with pytest.raises(FileExistsError):
        refuse_foreign(link, "samix show")
    with pytest.raises(FileExistsError):
        refuse_foreign(tmp_path, "samix show")


def test_a_folder_that_cannot_be_locked_says_why(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(CannotWrite, match=r"^cannot write .*/run: No space left on device; free some space"):
        with exclusive(tmp_path / "run", "samix train", "wait"):
            pass
    monkeypatch.undo()
    with exclusive(tmp_path / "run", "samix train", "wait"):  # the lock was given back
        pass
