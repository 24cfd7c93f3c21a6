"""Folders of finished runs with figures that were made up, as if a comparison had trained them."""

import json

from samix.cli.compare_plan import read_plan


def plant_run(job, scores, score="top1", **cost):
    """Leaves what a run of this job would leave, with these held-out scores by epoch."""
    job.folder.mkdir(parents=True)
    recipe = job.recipe.to_dict()
    rows = [{"epoch": n + 1, score: s, "top5": 99.0, "nll": 1.0, "ece": 2.0} for n, s in enumerate(scores)]
    summary = {"seconds": 10.0, "device": "CPU, 1 threads", "versions": {"samix": "1"}, "recipe": recipe}
    for name, content in (("recipe.json", recipe), ("summary.json", summary), ("cost.json", cost), ("masks.json", {})):
        (job.folder / name).write_text(json.dumps(content), encoding="utf-8")
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return job.folder


def plant(arguments, scores_of, **options):
    """Plants the runs of a command line's comparison for which ``scores_of(label, seed)`` gives scores."""
    plan = read_plan(arguments)
    for job in plan.jobs:
        scores = scores_of(job.label, job.seed)
        if scores:
            plant_run(job, scores, **options)
    return plan
