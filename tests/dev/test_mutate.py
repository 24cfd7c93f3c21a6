"""The list of mutants fits the source, and the runner tells a mutant that tests notice from one that they do not."""

import textwrap

import mutate
import pytest

MUTANTS = mutate.read_list(mutate.LIST.read_text())


def test_every_old_text_occurs_once():
    stale = [(m.file, m.old, mutate.occurrences(m, mutate.ROOT)) for m in MUTANTS]
    assert [entry for entry in stale if entry[2] != 1] == []


def test_every_mutant_is_another_program():
    for m in MUTANTS:
        text = (mutate.ROOT / m.file).read_text()
        compile(text.replace(m.old, m.new), m.file, "exec")
        assert m.old != m.new


def test_every_mutant_names_tests_that_exist():
    for m in MUTANTS:
        files = m.tests.partition(" -k ")[0].split()
        assert files, m
        assert all((mutate.ROOT / name).is_file() for name in files), m


def test_there_are_enough_of_them_and_no_two_are_alike():
    assert len(MUTANTS) >= 150
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("line", ["a == b", " ==> b", "a ==> a"])
def test_a_line_that_is_no_mutant_is_named(line):
    with pytest.raises(ValueError, match="line 2 is no mutant"):
        mutate.read_list(f"@ file.py | tests/test_file.py\n{line}\n")


def test_an_expression_that_pytest_cannot_read_is_named():
    with pytest.raises(ValueError, match="line 1 has an expression that pytest cannot read"):
        mutate.read_list('@ file.py | tests/test_file.py -k "a or b" tests/test_other.py\na ==> b\n')


SOURCE = """
LIMIT = 3
def half(x):
    return x / 2
def capped(x):
    return min(x, LIMIT)
class Counter:
    def add(self, values):
        return sum(value + 0 for value in values)
"""
TESTS = """
from toy import Counter, capped, half
def test_half(): assert half(4) == 2
def test_small(): assert capped(2) == 2
def test_capped(): assert capped(9) == 3
def test_counter(): assert Counter().add([1, 2]) == 3
def test_broken(): assert half(4) == 3
"""
LIST = """
@ toy.py | tests/test_toy.py -k "not broken"
return x / 2 ==> return x / 3
LIMIT = 3 ==> LIMIT = 4
value + 0 ==> value + 1
value + 0 ==> value * 1
x / 2 ==> x * 0.5  ## the same number
no such text ==> text
@ toy.py | tests/test_toy.py -k "small"
min(x, LIMIT) ==> x
@ toy.py | tests/test_toy.py -k "broken"
min(x, LIMIT) ==> max(x, LIMIT)
"""
STATUS = ["caught", "caught", "caught", "survived", "equivalent", "stale", "survived", "unclear"]


@pytest.mark.slow
def test_caught_survived_equivalent_and_stale_are_told_apart_and_remembered(tmp_path, capfd):
    (tmp_path / "tests").mkdir()
    (tmp_path / "toy.py").write_text(SOURCE)
    (tmp_path / "tests" / "test_toy.py").write_text(TESTS)
    mutants, results = mutate.read_list(LIST), tmp_path / "results.json"
    found = mutate.run_all(mutants, lambda _: True, tmp_path, results)
    assert [result.status for result in found] == STATUS
    assert found[0].by == "tests/test_toy.py::test_half"
    assert found[1].by == "tests/test_toy.py::test_capped"
    assert (tmp_path / "toy.py").read_text() == SOURCE
    capfd.readouterr()
    assert mutate.run_all(mutants, lambda _: True, tmp_path, results) == found
    assert capfd.readouterr().out == ""
    (tmp_path / "toy.py").write_text(SOURCE + textwrap.dedent("# another line\n"))
    mutate.run_all(mutants[:1], lambda _: True, tmp_path, results)
    assert "caught" in capfd.readouterr().out
