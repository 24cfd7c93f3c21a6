"""One process at a time writes a folder."""

import subprocess
import sys
import threading

import pytest

from samix.runtime.atomic_files import CannotWrite
from samix.runtime.lock import exclusive

HOLD = """
import sys, time
from pathlib import Path
from samix.runtime.lock import exclusive
with exclusive(Path(sys.argv[1]), "samix train", "wait"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(folder, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_by_name_and_let_in_once_the_first_is_killed(tmp_path):
    with holder(tmp_path, 60) as process:
        with pytest.raises(ValueError, match=rf"samix train \(process {process.pid}\) writes .*; choose another name$"):
            with exclusive(tmp_path, "samix compare", "choose another name"):
                pass
        process.kill()
        process.wait()
        with exclusive(tmp_path, "samix compare", "choose another name"):
            pass


def test_a_patient_process_waits(tmp_path):
    with holder(tmp_path, 0.5), exclusive(tmp_path, "samix train", "wait", patience=30.0):
        pass


def test_another_thread_of_the_same_process_is_refused_and_the_lock_stays(tmp_path):
    errors = []

    def second():
        try:
            with exclusive(tmp_path, "samix train", "wait"):
                pass
        except ValueError as error:
            errors.append(str(error))

    with exclusive(tmp_path, "samix train", "wait"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert errors == [f"this process already writes {tmp_path}; wait"]
        code = "import sys; from pathlib import Path; from samix.runtime.lock import exclusive\n"
        code += "with exclusive(Path(sys.argv[1]), 'b', 'wait'): pass"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "ValueError: samix train (process" in other.stderr
    with exclusive(tmp_path, "samix train", "wait"):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("text", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CannotWrite, match="remove the link"), exclusive(tmp_path / "run", "samix train", "wait"):
        pass
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "text"
