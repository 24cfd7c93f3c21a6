"""Mutates the mathematics one line at a time, and sees whether the tests notice.

``dev/mutants.txt`` lists the mutants: a line ``@ file | tests`` names a source file and the arguments of pytest that
should catch its mutants; below it stands one mutant a line, ``old text ==> new text``. The old text occurs once in the
file. ``## reason`` at the end of a line marks a mutant that is equivalent, and says why; it is not run.

All tests of the list are collected once, in a process that imports the package. Each mutant is then a fork of it, in
which the code of the functions that the mutant changes is replaced; where a line runs at import, a process of its own
imports a changed copy of the tree instead. A mutant is caught where a test fails that passes without it. Results go to
``docs/results/mutants.json``; a mutant whose source and tests are as they were is not run again. Mutants that no test
has caught yet run first; one that was caught meets the test that caught it before the others.

    python dev/mutate.py                        all that is not recorded
    python dev/mutate.py --only samix_i --list  mutants whose file, texts or tests hold this
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _pytest.mark.expression import Expression
from mutant_list import Mutant, expression_of, files_of, occurrences, read_list, source_hash

ROOT = Path(__file__).resolve().parent.parent
LIST, RESULTS = ROOT / "dev" / "mutants.txt", ROOT / "docs" / "results" / "mutants.json"
NOT_COPIED = (".git", ".*_cache", "__pycache__", "runs", "site")
LIMIT = 600  # seconds of processor time for the tests of one mutant; a mutant that never ends is caught
WAIT = 6  # times as long may pass: on a busy machine, and for tests that wait


@dataclass(frozen=True)
class Result:
    """What became of a mutant: caught, survived, equivalent, stale, or unclear (its tests fail without it)."""

    file: str
    old: str
    new: str
    tests: str
    status: str
    reason: str
    by: str  # the test that caught it
    seconds: float
    source: str  # hash of the file and of the tests


def forked(run: Callable[[], str], limit: float) -> str:
    """Runs a function in a forked process and returns its text; ``timeout`` or ``died`` where there is none."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1,) * 2)
            os.close(reading)
            os.write(writing, run().encode())
        except BaseException as error:  # the parent judges
            os.write(writing, f"error: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    end = time.monotonic() + WAIT * limit
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            return "timeout"
        time.sleep(0.02)
    with os.fdopen(reading) as pipe:
        killed = os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) in (signal.SIGXCPU, signal.SIGKILL)
        return pipe.read() or ("timeout" if killed else "died")


def be_quiet() -> None:
    """Sends what a forked process prints nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def collect(root: Path, files: Sequence[str], then: Callable[[Any], str]) -> str:
    """Collects tests in a tree, and calls a function with pytest's session; for a forked process, which it changes.

    Returns:
        What the function returns, or ``error`` where the tests cannot be collected.
    """
    import pytest

    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.path[:] = [str(root), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, LIST.parent))]
    sys.dont_write_bytecode = True
    found = ["error"]

    class Plugin:
        def pytest_runtestloop(self, session: Any) -> bool:
            if session.items:
                found[0] = then(session)
            return True

    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--rootdir={root}"]
    pytest.main([*options, *files], plugins=[Plugin()])
    return found[0]


def selected(items: Sequence[Any], tests: str) -> list[Any]:
    """Takes of collected tests those that arguments name: files, and an expression after ``-k``."""
    from _pytest.mark import KeywordMatcher

    expression = expression_of(tests)
    matches = Expression.compile(expression)
    wanted = [item for item in items if item.nodeid.partition("::")[0] in files_of(tests)]
    return [item for item in wanted if not expression or matches.evaluate(KeywordMatcher.from_item(item))]


def first_failure(session: Any, items: Sequence[Any]) -> str:
    """Runs tests until one fails; returns its place and name, or ``passed``."""
    import _pytest.main

    be_quiet()
    session.items, session.config.option.maxfail = list(items), 1
    failed: list[str] = []

    class Watch:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

    session.config.pluginmanager.register(Watch())
    try:
        _pytest.main.pytest_runtestloop(session)
    except session.Failed:
        pass
    return failed[0] if failed else "passed"


def paired_code(old: types.CodeType, new: types.CodeType) -> Iterator[tuple[types.CodeType, types.CodeType]]:
    """Pairs the code of a module, its classes and functions with that of its mutant."""
    yield old, new
    inner = [[part for part in code.co_consts if isinstance(part, types.CodeType)] for code in (old, new)]
    for pair in zip(*inner, strict=True):
        yield from paired_code(*pair)


def own_part(code: types.CodeType) -> tuple[object, ...]:
    """What a piece of code does itself, without the functions in it."""
    consts = [repr(part) for part in code.co_consts if not isinstance(part, types.CodeType)]
    return code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars


def replace_code(path: Path, new_text: str) -> bool:
    """Replaces the code of all live functions of a file by that of its mutant.

    Returns:
        Whether that was all: False where the mutant changes what runs at import, or code in no live function.
    """
    try:
        pairs = list(paired_code(compile(path.read_text(), str(path), "exec"), compile(new_text, str(path), "exec")))
    except ValueError:  # another number of functions
        return False
    mutated = dict(pairs)
    live = [f for f in gc.get_objects() if type(f) is types.FunctionType and f.__code__ in mutated]
    reached = {inner for f in live for inner, _ in paired_code(f.__code__, f.__code__)}
    if any(own_part(old) != own_part(new) and old not in reached for old, new in pairs):
        return False
    for function in live:
        function.__code__ = mutated[function.__code__]
    return True


class Judge:
    """Judges mutants in the process that has collected the tests.

    Args:
        session: pytest's, with the tests of all mutants.
        root: the tree.
        limit: seconds of processor time for the tests of one mutant.
    """

    def __init__(self, session: Any, root: Path, limit: float = LIMIT) -> None:
        self.session, self.root, self.limit = session, root, limit
        self.items = {item.nodeid: item for item in session.items}
        self.catches: Counter[str] = Counter()  # by test: tests that have caught a mutant run first
        self.clean: dict[str, bool] = {}  # by test: whether it passes without a mutant

    def judge(self, mutant: Mutant, first: str = "") -> tuple[str, str]:
        """Runs the tests on a mutant: ``caught`` and by which test, ``survived``, or ``unclear`` and why.

        Args:
            mutant: what to judge.
            first: the test to start with; the one that caught the mutant before.
        """
        names = [item.nodeid for item in selected(self.session.items, mutant.tests)]
        path = self.root / mutant.file
        text = path.read_text().replace(mutant.old, mutant.new)

        def run() -> str:
            be_quiet()
            order = sorted(names, key=lambda name: (name != first, -self.catches[name]))
            items = [self.items[name] for name in order if self.clean.get(name, True)]
            return first_failure(self.session, items) if replace_code(path, text) else "import"

        while True:
            found = forked(run, self.limit)
            if found == "import":
                found = self.from_a_copy(mutant, text)
            if found == "timeout":
                return "caught", found
            if found == "passed":
                return ("survived", "") if names else ("unclear", "no tests")
            if found not in self.items:
                return "unclear", found
            if self.passes(found):
                self.catches[found] += 1
                return "caught", found
            if not any(self.clean.get(name, True) for name in names):
                return "unclear", found

    def passes(self, name: str) -> bool:
        """Whether a test passes without a mutant; tried once."""
        if name not in self.clean:
            item = self.items[name]
            self.clean[name] = forked(lambda: first_failure(self.session, [item]), self.limit) == "passed"
        return self.clean[name]

    def from_a_copy(self, mutant: Mutant, text: str) -> str:
        """The first test that fails where the package is imported from a changed copy of the tree."""
        with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
            copy = Path(folder) / "tree"
            shutil.copytree(self.root, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
            (copy / mutant.file).write_text(text)
            command = [sys.executable, __file__, "--root", str(copy), "--first-failure", mutant.tests]
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=self.limit)
            return done.stdout.rpartition("first failure: ")[2].strip() or "error"


def known_results(path: Path) -> dict[tuple[str, str, str], Result]:
    """Reads earlier results, by file and texts; none where there is no such file."""
    rows = json.loads(path.read_text())["mutants"] if path.is_file() else []
    return {(row["file"], row["old"], row["new"]): Result(**row) for row in rows}


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Writes all results with their counts."""
    counts = dict(sorted(Counter(result.status for result in results).items()))
    rows = [asdict(result) for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"counts": counts, "mutants": rows}, indent=1) + "\n")


def run_all(
    mutants: Sequence[Mutant], chosen: Callable[[Mutant], bool], root: Path, results_path: Path
) -> list[Result]:
    """Runs the chosen mutants that are not recorded, writes the results after each, and returns those of the list."""
    results = known_results(results_path)

    def record(mutant: Mutant, status: str, detail: str, seconds: float) -> None:
        result = Result(**asdict(mutant), status=status, by=detail, seconds=round(seconds, 1), source=sources[mutant])
        results[(mutant.file, mutant.old, mutant.new)] = result
        change = f"{mutant.old.strip()} ==> {mutant.new.strip()}"
        print(f"{status:10} {result.seconds:6.1f} s  {mutant.file}: {change}", flush=True)
        write_results(results_path, in_order(mutants, results))

    sources = {mutant: source_hash(mutant, root) for mutant in mutants}
    waiting = []
    for mutant in filter(chosen, mutants):
        known = results.get((mutant.file, mutant.old, mutant.new))
        if known and (known.source, known.tests, known.reason) == (sources[mutant], mutant.tests, mutant.reason):
            continue
        if occurrences(mutant, root) != 1:
            record(mutant, "stale", "", 0.0)
        elif mutant.reason:
            record(mutant, "equivalent", "", 0.0)
        else:
            waiting.append(mutant)

    def judge_all(session: Any) -> str:
        judge = Judge(session, root)
        caught = {key: known.by for key, known in results.items() if known.status == "caught"}
        for mutant in sorted(waiting, key=lambda m: (m.file, m.old, m.new) in caught):
            start, first = time.monotonic(), caught.get((mutant.file, mutant.old, mutant.new), "")
            record(mutant, *judge.judge(mutant, first), time.monotonic() - start)
        return "done"

    files = sorted({name for mutant in waiting for name in files_of(mutant.tests)})
    if files and forked(lambda: collect(root, files, judge_all), 1e9) != "done":
        print("the tests cannot be collected", flush=True)
    return in_order(mutants, known_results(results_path))


def in_order(mutants: Sequence[Mutant], results: dict[tuple[str, str, str], Result]) -> list[Result]:
    """Takes the results of the mutants that are still in the list, in its order."""
    keys = [(mutant.file, mutant.old, mutant.new) for mutant in mutants]
    return [results[key] for key in keys if key in results]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; returns 1 where a mutant survived, is stale or unclear."""
    parser = argparse.ArgumentParser(description="Mutates the mathematics and runs the tests.")
    parser.add_argument("--only", default="", help="mutants whose file, texts or tests hold this")
    parser.add_argument("--list", action="store_true", help="list the mutants, run none")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)  # another tree, for the next
    parser.add_argument("--first-failure", default="", help=argparse.SUPPRESS)  # tests to be run there
    options = parser.parse_args(arguments)
    if options.first_failure:

        def run(session: Any) -> str:
            items = selected(session.items, options.first_failure)
            return forked(lambda: first_failure(session, items), LIMIT)

        print(f"first failure: {collect(options.root, files_of(options.first_failure), run)}")
        return 0
    mutants = read_list(LIST.read_text())

    def chosen(mutant: Mutant) -> bool:
        return options.only in f"{mutant.file} {mutant.tests} {mutant.old} {mutant.new}"

    if options.list:
        for mutant in filter(chosen, mutants):
            print(f"{occurrences(mutant, ROOT)}  {mutant.file}: {mutant.old.strip()} ==> {mutant.new.strip()}")
        return 0
    results = run_all(mutants, chosen, ROOT, options.results)
    counts = Counter(result.status for result in results)
    for result in results:
        if result.status not in ("caught", "equivalent"):
            print(f"{result.status}: {result.file}: {result.old.strip()} ==> {result.new.strip()}")
    print(f"{len(mutants)} mutants: {', '.join(f'{counts[name]} {name}' for name in sorted(counts))}")
    return int(any(counts[name] for name in ("survived", "stale", "unclear")) or len(results) < len(mutants))


if __name__ == "__main__":
    raise SystemExit(main())
