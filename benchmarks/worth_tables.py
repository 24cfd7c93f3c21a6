"""Tables and sentences from the rows that ``worth.py`` wrote. Nothing is typed: every figure is of the rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from worth_settings import DERIVED, HEADS, REFERENCES, TITLES

from samix.compare.paired import PairedDifference, paired_difference
from samix.recipes.named import RECIPES, named_recipe

Row = dict[str, str]
MINIMUM = 2  # seeds for an interval
LEARNED = {  # with their controls
    "automix": "automix-constant",
    "samix": "samix-constant",
    "samix-once": "samix-once-constant",
    "samix-p-clean": "mixer-constant",
}
HANDMADE = (
    *("mixup", "cutmix", "guidedmixup", "mixup-half", "mixup-once", "mixup-clean", "mixup-clean-ema"),
    "cutmix-clean-ema",
    *("guidedmixup-clean-ema", "guidedmixup-clean-ema-always"),
)
PUBLISHED = ("cifar10-r18", "cifar100-r18", "tiny-r18", "in1k-r18", "in1k-r50")
SOURCE = "OpenMixup, arXiv:2209.04851"


class Results:
    """The rows of one setting, by method. Rows are paired within a machine: rounding differs between two."""

    def __init__(self, setting: str, rows: Sequence[Row]) -> None:
        self.setting = setting
        self.machines = sorted({row["machine"] for row in rows})
        self.rows: dict[str, list[Row]] = {}
        for row in [*rows, *derived(rows)]:
            self.rows.setdefault(row["method"], []).append(row)

    def values(self, method: str, column: str) -> dict[int, float]:
        """A column's figures by seed, 1000 more on the second machine; without those that a row does not have."""
        return {
            int(row["seed"]) + 1000 * self.machines.index(row["machine"]): float(row[column])
            for row in self.rows.get(method, [])
            if row.get(column)
        }

    def repeats(self) -> list[str]:
        """What runs of one method and seed found on two machines."""
        found: dict[tuple[str, str], list[str]] = {}
        for method, rows in self.rows.items():
            if method in DERIVED:
                continue
            for row in sorted(rows, key=lambda row: row["machine"]):
                found.setdefault((method, row["seed"]), []).append(row["top1"])
        return [f"{method}, seed {seed}: {' and '.join(top1)}" for (method, seed), top1 in found.items() if top1[1:]]

    def mean(self, method: str, column: str) -> float | None:
        """The mean of a column over seeds."""
        values = self.values(method, column)
        return statistics.fmean(values.values()) if values else None

    def difference(self, method: str, base: str, column: str = "top1") -> PairedDifference | None:
        """The paired difference of two methods; None where no seed is common."""
        return paired_difference(self.values(method, column), self.values(base, column))

    def by_cost(self) -> list[str]:
        """The methods by the counted cost of a step, then by accuracy."""
        return sorted(self.rows, key=lambda m: (self.mean(m, "counted_cost") or 0.0, -(self.mean(m, "top1") or 0.0)))

    def front(self, column: str) -> list[str]:
        """The methods that no other beats in accuracy at the same price or a lower one."""
        best, names = -1.0, []
        for method in sorted(self.rows, key=lambda m: (self.mean(m, column) or 0.0, -(self.mean(m, "top1") or 0.0))):
            top1 = self.mean(method, "top1") or 0.0
            if top1 > best:
                best = top1
                names.append(method)
        return names

    def rival(self, method: str, others: Iterable[str]) -> str | None:
        """The most accurate of the others among those that share the most seeds with a method."""
        own = self.values(method, "top1")
        shared = {other: [v for seed, v in self.values(other, "top1").items() if seed in own] for other in others}
        most = max(map(len, shared.values()), default=0)
        full = [other for other, values in shared.items() if values and len(values) == most]
        return max(full, key=lambda other: statistics.fmean(shared[other]), default=None)


def derived(rows: Iterable[Row]) -> list[Row]:
    """Rows of the same runs by another of their classifiers; what is not known of it is empty."""
    found = []
    for row in rows:
        for name, (source, head) in DERIVED.items():
            if row["method"] == source and row.get(f"top1_{head}"):
                figures = {"top1": row[f"top1_{head}"], "nll": row[f"nll_{head}"], "ece": "", "worst_class": ""}
                found.append({**row, "method": name, "head": head, **figures})
    return found


def cell(values: Sequence[float], digits: int) -> str:
    """Mean and standard error."""
    if not values:
        return "–"
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < MINIMUM else f"{text} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


FIGURES = (("top1", 2), ("nll", 3), ("ece", 1), ("worst_class", 1), ("mask_spread", 2), ("mask_correlation", 2))


def main_table(results: Results) -> str:
    """Every method's figures."""
    fronts = results.front("counted_cost")
    head = ["method", "seeds", "top-1 %", "NLL, nats", "ECE %", "worst class %", "mask spread", "mask corr."]
    rows = []
    for method in results.by_cost():
        name = f"**{method}**" if method in fronts else method
        cells = [cell(list(results.values(method, column).values()), digits) for column, digits in FIGURES]
        cost, cpu = results.mean(method, "counted_cost"), results.mean(method, "cpu_seconds")
        rows.append([name, str(len(results.rows[method])), *cells, f"{cost:.2f}", f"{cpu:.0f}"])
    return table([*head, "step, counted", "CPU s"], rows)


def heads_table(results: Results) -> str:
    """Top-1 by head, of the network and of its average."""
    rows = []
    for method in results.by_cost():
        if method in DERIVED:
            continue
        cells = [cell(list(results.values(method, f"top1_{head}").values()), 2) for head in HEADS]
        rows.append([method, *cells])
    return table(["top-1 %", *(head.replace("_", ", ") for head in HEADS)], rows)


def shown(difference: PairedDifference | None) -> str:
    """A difference with its interval; bold where the interval does not contain zero."""
    if difference is None:
        return "–"
    if difference.low is None:
        return f"{difference.mean:+.2f} (1 seed)"
    text = f"{difference.mean:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"
    return f"**{text}**" if difference.significant else text


def differences_table(results: Results) -> str:
    """Paired differences of top-1 between every method and the references."""
    bases = [base for base in REFERENCES if base in results.rows]
    rows = [
        [method, *("" if base == method else shown(results.difference(method, base)) for base in bases)]
        for method in results.by_cost()
    ]
    return table(["top-1, points", *(f"less {base}" for base in bases)], rows)


def claims(results: Results, names: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each difference from a reference whose interval does not contain zero."""
    found, names, told = [], names or {}, set[frozenset[str]]()
    for method in sorted(results.by_cost(), key=lambda m: m in REFERENCES):
        for base in REFERENCES:
            difference = results.difference(method, base)
            if frozenset((method, base)) in told or difference is None or not difference.significant:
                continue
            told.add(frozenset((method, base)))
            word = "above" if difference.mean > 0 else "below"
            low, high = sorted((abs(difference.low or 0.0), abs(difference.high or 0.0)))
            found.append(
                f"{names.get(method, method)} is {word} {names.get(base, base)} by {abs(difference.mean):.2f} points "
                f"({low:.2f} to {high:.2f}, {difference.n} seeds)."
            )
    return found


def verdicts(results: Results) -> list[str]:
    """For each learned mixup, its differences from its constant-mask control and from the best hand-made mixup."""
    found = []
    for method, control in LEARNED.items():
        for base in (control, results.rival(method, HANDMADE)):
            difference = results.difference(method, base) if base else None
            if difference is None or difference.low is None or base is None:
                continue
            size = (
                f"{difference.mean:+.2f} points, {difference.low:+.2f} to {difference.high:+.2f}, {difference.n} seeds"
            )
            word = "no difference is shown"
            if difference.significant:
                word = "it is better" if difference.mean > 0 else "it is worse"
            found.append(f"{TITLES[method]} against {TITLES[base]}: {word} ({size}).")
    return found


def pooled(settings: Mapping[str, Results], column: str = "top1") -> PairedDifference | None:
    """The difference of learned masks and their exact control over all pairs, of every setting and form."""
    pairs = [
        own - base[seed]
        for results in settings.values()
        for method, control in LEARNED.items()
        for base in [results.values(control, column)]
        for seed, own in results.values(method, column).items()
        if seed in base
    ]
    return paired_difference(dict(enumerate(pairs)), dict.fromkeys(range(len(pairs)), 0.0))


def pooled_table(settings: Mapping[str, Results]) -> str:
    """That difference by each classifier."""
    rows = [[head.replace("_", ", "), shown(pooled(settings, f"top1_{head}"))] for head in HEADS]
    return table(["classifier", "learned less constant masks, top-1, points"], rows)


def pooled_sentence(settings: Mapping[str, Results]) -> str:
    """Says what all pairs together show of learned masks; empty for fewer than three."""
    found = pooled(settings)
    if found is None or found.low is None or found.high is None or found.n <= MINIMUM:
        return ""
    verdict = "learned masks make no difference that is shown"
    if found.significant:
        verdict = "learned masks are better" if found.mean > 0 else "learned masks are worse"
    text = f"all {found.n} pairs of a learned mixup and its control together: {verdict} ({found.mean:+.2f} points, "
    text += f"{found.low:+.2f} to {found.high:+.2f})"
    return text + ("; a gain of one point is outside the interval." if found.high < 1 else ".")


def goal_sentence(settings: Mapping[str, Results]) -> str:
    """Says which learned mixups pay: a point above control and rival, for at most two plain steps, in two settings."""
    reached = []
    for method, control in LEARNED.items():
        wins = 0
        for results in settings.values():
            cost, rival = results.mean(method, "counted_cost"), results.rival(method, HANDMADE)
            found = [results.difference(method, base) for base in (control, rival) if base]
            clear = [d for d in found if d is not None and d.significant and d.mean >= 1.0]
            wins += cost is not None and cost <= 2.0 and len(clear) == 2
        reached += [TITLES[method]] if wins >= 2 else []
    goal = "is a point or more above both, with an interval above zero, in two settings, for at most two plain steps"
    return f"{' and '.join(reached) or 'no learned mixup'} {goal}."


def counted_cell(values: Sequence[float]) -> str:
    """Mean and standard error, with the number of runs."""
    return f"{cell(values, 1)} ({len(values)})" if values else "–"


def small_table(settings: Mapping[str, Results], methods: Sequence[str]) -> str:
    """Top-1 by method and setting, for pages that show no more."""
    rows = []
    for method in methods:
        if not any(method in results.rows for results in settings.values()):
            continue
        costs = [cost for results in settings.values() if (cost := results.mean(method, "counted_cost")) is not None]
        cells = [counted_cell(list(results.values(method, "top1").values())) for results in settings.values()]
        rows.append([TITLES[method], *cells, f"{statistics.fmean(costs):.1f}"])
    return table(["top-1 %, mean ± standard error", *settings, "cost of a step"], rows)


def published_table() -> str:
    """Published top-1 of the recipes, apart from ours."""
    mixups = ("vanilla", "mixup", "cutmix", "automix", "samix")
    rows = []
    for name in PUBLISHED:
        entry = RECIPES.get(name)
        cells = [f"{entry.published[mixup]:.2f}" if mixup in entry.published else "–" for mixup in mixups]
        rows.append([name, str(named_recipe(name, "vanilla").epochs), *cells, f"not ours: {SOURCE}"])
    return table(["recipe", "epochs", *mixups, "source"], rows)
