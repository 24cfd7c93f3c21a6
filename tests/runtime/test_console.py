"""A run neither ends nor stands still because nobody reads what it prints."""

import fcntl
import io
import os
import subprocess
import sys
import time

import pytest
from process_groups import started
from runs import ROOT, SMALL_FLAGS
from tqdm import tqdm

from samix.cli.main import main
from samix.runtime.console import SteadyStream, printable, say, tell

F_SETPIPE_SZ = 1031


@pytest.fixture
def pipe():
    """A pipe of one page, as number of its reading end and writing stream."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    stream = os.fdopen(writer, "w")
    yield reader, stream
    for close in (lambda: os.close(reader), stream.close):
        try:
            close()
        except OSError:
            pass


def test_all_that_has_room_is_written(pipe):
    reader, stream = pipe
    SteadyStream(stream).write("λ = 1\n" * 100)
    assert os.read(reader, 10_000).decode() == "λ = 1\n" * 100


def test_a_full_pipe_takes_no_time(pipe):
    reader, stream = pipe
    steady, began = SteadyStream(stream), time.monotonic()
    for _ in range(300):
        assert steady.write("x" * 100) == 100
    assert time.monotonic() - began < 5
    assert len(os.read(reader, 10_000)) <= 4096
    steady.write("again")  # once there is room
    assert os.read(reader, 10_000).endswith(b"again")


def test_a_line_waits_a_little_for_its_reader(pipe):
    _, stream = pipe
    SteadyStream(stream).write("x" * 10_000)
    began = time.monotonic()
    SteadyStream(stream, patience=0.3).write("late")
    assert 0.2 < time.monotonic() - began < 5


def test_a_closed_pipe_then_leads_to_nowhere(pipe):
    reader, stream = pipe
    os.close(reader)
    steady = SteadyStream(stream)
    steady.write("x")
    steady.write("y")
    print("and for everybody else", file=stream, flush=True)
    assert not steady.isatty()


def test_streams_in_memory_closed_ones_and_none_are_taken(capsys):
    memory = io.StringIO()
    SteadyStream(memory).write("words")
    assert memory.getvalue() == "words"
    memory.close()
    SteadyStream(memory).write("words")
    assert SteadyStream(None).write("words") == 5
    say("out")
    tell("err")
    assert capsys.readouterr() == ("out\n", "err\n")


def train_unread(how, *words):
    """The command, whose output goes to a pipe that is full at once or has no reader."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    if how == "closed":
        os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    return main(["train", *words])


@pytest.mark.parametrize("how", ["closed", "full"])
def test_a_training_goes_on_when_nobody_reads(tmp_path, how):
    words = [flag for flag in SMALL_FLAGS if flag != "--quiet"]
    words += ["--epochs", "1", "--out", str(tmp_path), "--run", "run"]
    assert started(train_unread, how, *words, log=tmp_path / "process").wait() == 0
    assert (tmp_path / "run/summary.json").is_file()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain λ 猫 🐱\ttab\nline", "plain λ 猫 🐱\ttab\nline"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b2J \x7f \r", "\\x9b2J \\x7f \\r"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("a\u2028b", "a\\u2028b"),
        ("bad\udcff.jpg", "bad\\udcff.jpg"),
    ],
)
def test_control_characters_reach_no_terminal(text, shown, capsys):
    assert printable(text) == shown
    tell(text)
    say(text)
    assert capsys.readouterr() == (shown + "\n", shown + "\n")


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("recipes", ">&-"),
        ("recipes", "| head -n 0"),
        ("recipes cifar100-r18", "| head -n 1"),
        *(("--version", end) for end in (">&-", "| head -n 0", "| head -n 1")),
    ],
)
def test_closed_standard_output_is_no_failure(command, end):
    line = f"{sys.executable} -m samix {command} {end}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_slow_reader_of_printed_output_misses_nothing():
    code = "from samix.runtime.console import steady_stdout\n"
    code += "with steady_stdout():\n    for n in range(40000): print(n)"
    line = f"{sys.executable} -c '{code}' | (sleep 3; cat)"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(n) for n in range(40000)]


def test_a_line_starts_at_the_left_margin_while_a_progress_bar_is_shown(capsys):
    with tqdm(total=2, file=SteadyStream(sys.stderr)) as bar:
        bar.update(1)
        tell("a message")
    shown = capsys.readouterr().err
    assert shown.partition("a message\n")[0].endswith(" \r")
    assert "2/2" not in shown
