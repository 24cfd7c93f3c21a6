"""The comparison from its plan to its report."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import IO

from samix.cli.compare_plan import read_plan
from samix.compare.cost import build_once
from samix.compare.finished import find_finished
from samix.compare.page import report_page
from samix.compare.plan import Job, Plan
from samix.compare.previews import MASKS, preview_again
from samix.compare.publish import publish, published_data
from samix.compare.results import Results, collect
from samix.compare.running import Start, WorkerProcess, is_finished, only_here, run_jobs
from samix.compare.runs_table import runs_csv
from samix.compare.tables import comma_separated, failures, markdown, plain
from samix.compare.tasks import LABELLED
from samix.runtime.atomic_files import write_text
from samix.viz.webpage import write_page


def compare(arguments: list[str], start: Start = WorkerProcess, out: IO[str] | None = None) -> int:
    """Runs ``samix compare``: finishes the runs, writes the report, prints the table."""
    out = out or sys.stdout
    plan = read_plan(arguments)
    refuse_other_report(plan.out / "results.json", plan)
    if plan.options.publish:
        refuse_other_report(published_data(Path(plan.options.publish)), plan)
    if not plan.options.read:
        check_rows(plan)
    command = shlex.join(["samix", "compare", *arguments])
    if plan.options.read:
        results = read_and_write(find_finished(plan), command)
    else:
        with only_here(plan.out):
            results = run_and_write(find_finished(plan), command, start, out)
    print(plain(results), file=out)
    print(f"\nreport.html, table.md, table.csv, runs.csv, results.json: {plan.out}", file=out)
    if plan.options.publish:
        paths = publish(Path(plan.options.publish), results, ["samix", "compare", *arguments])
        print(f"published: {', '.join(map(str, paths))}", file=out)
    return 1 if failures(results) else 0


def run_and_write(plan: Plan, command: str, start: Start, out: IO[str]) -> Results:
    """Runs all jobs; the report is written again whenever one ends, and at the end."""
    errors: dict[tuple[str, int], str] = {}

    def ended(job: Job, error: str) -> None:
        if error:
            errors[job.label, job.seed] = error
        write_report(plan, collect(plan, errors), command)

    try:
        run_jobs(plan, ended, start, out)
    except KeyboardInterrupt:
        print(f"stopped; the same command continues. What is finished: {plan.out / 'report.html'}", file=sys.stderr)
        raise
    preview_others(plan)
    results = collect(plan, errors)
    write_report(plan, results, command)
    return results


def read_and_write(plan: Plan, command: str) -> Results:
    """Reads the finished runs and writes the report; trains nothing, so another comparison may work there."""
    if not any(is_finished(job.folder) for job in plan.jobs):
        raise ValueError(f"--read trains nothing, and {plan.out} holds no finished run of this comparison")
    preview_others(plan, elsewhere=True)
    results = collect(plan, {})
    write_report(plan, results, command)
    return results


def preview_others(plan: Plan, elsewhere: bool = False) -> None:
    """Writes missing pictures and mask statistics of runs that were trained by other means."""
    for job in plan.jobs:
        if elsewhere and job.folder.parent == plan.out:
            continue
        if is_finished(job.folder) and not (job.folder / MASKS).is_file():
            preview_again(job.folder, plan.options.data_root)


def check_rows(plan: Plan) -> None:
    """Builds the method of every row once, so that a wrong option is reported before any run starts."""
    for entry in plan.entries:
        first = next(job.folder for job in plan.jobs if job.label == entry.label)
        if plan.task is LABELLED and not entry.variant.mixer_of and not is_finished(first):
            try:
                build_once(entry.recipe)
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"{entry.label}: {error}") from None


def refuse_other_report(path: Path, plan: Plan) -> None:
    """Refuses to replace the report of another comparison: of other mixups, another recipe, or more seeds."""
    if not path.is_file():
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        seeds = {label: [run["seed"] for run in row["runs"]] for label, row in earlier["mixups"].items()}
        recipe = earlier["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a report of samix compare ({error}); choose another path") from None
    labels = {entry.label for entry in plan.entries}
    lost = sorted(label for label, runs in seeds.items() if runs and label not in labels)
    more = max((seed + 1 for runs in seeds.values() for seed in runs), default=0)
    if recipe != plan.recipe_name:
        what, then = f"recipe {recipe}", "choose another path"
    elif lost:
        what, then = f"rows {', '.join(lost)}", "name these rows, too, or choose another path"
    elif more > plan.options.seeds:
        what, then = f"{more} seeds", f"give --seeds {more}, or choose another path"
    else:
        return
    raise ValueError(f"{path} is the report of a comparison with {what}, which this one would replace; {then}")


def write_report(plan: Plan, results: Results, command: str) -> None:
    """Writes the five files."""
    folder = plan.out
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps({"command": command, **results}, indent=1))
    write_text(folder / "table.md", markdown(results, command))
    write_text(folder / "table.csv", comma_separated(results))
    write_text(folder / "runs.csv", runs_csv(results, command))
    write_page(folder / "report.html", report_page(results, command))
