"""Results against the committed baseline, and as a table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.frame import Better, Record, Result

TOLERANCE = 0.15  # how much worse a ratio may be before it is called a regression
MARKS = ("<!-- bench -->", "<!-- /bench -->")


@dataclass(frozen=True)
class Change:
    """A record beside its baseline. ``worse`` is the share of the baseline that was lost; negative = better."""

    name: str
    before: Record | None
    now: Record | None

    @property
    def worse(self) -> float | None:
        if self.before is None or self.now is None:
            return None
        if self.before.better is Better.HIGHER:
            return 1 - self.now.ratio / self.before.ratio
        return self.now.ratio / self.before.ratio - 1

    @property
    def regressed(self) -> bool:
        """Whether it is worse than is tolerated, or is measured no more."""
        return self.now is None or (self.worse is not None and self.worse > TOLERANCE)

    def line(self) -> str:
        if self.now is None:
            return f"GONE   {self.name}: the baseline has it, this run has not"
        if self.before is None or self.worse is None:
            return f"new    {self.name}: {self.now.ratio:.3g}"
        how = f"{abs(self.worse):.0%} {'worse' if self.worse > 0 else 'better'}"
        mark = "WORSE " if self.regressed else "ok    "
        return f"{mark} {self.name}: {self.before.ratio:.3g} before, {self.now.ratio:.3g} now, {how}"


def changes(baseline: Result | None, found: Result) -> list[Change]:
    """Every record of either, in the order of the baseline, then what is new."""
    before = {record.name: record for record in baseline.records} if baseline else {}
    now = {record.name: record for record in found.records}
    return [Change(name, before.get(name), now.get(name)) for name in dict.fromkeys([*before, *now])]


def number(value: float) -> str:
    """As a reader writes it: thousands set apart, and enough decimals to tell 1.004 from 1.

    >>> [number(value) for value in (12345.6, 123.4, 12.34, 1.0042, 0.91, 0.00123)]
    ['12,346', '123', '12.3', '1.004', '0.910', '0.00123']
    """
    size = abs(value)
    if size and (size < 0.1 or size >= 1e9):
        return f"{value:.3g}"
    return f"{value:,.{3 if size < 10 else 1 if size < 100 else 0}f}"


def table(results: Iterable[Result]) -> str:
    """Markdown: one table, a row per record, and below it on which machine and when under which load."""
    rows = ["| measured | ratio (range) | target | parts, medians | n |", "|---|---:|---:|---|---:|"]
    machines: dict[str, list[str]] = {}
    for result in results:
        machines.setdefault(described(result), []).append(result.benchmark)
        for record in result.records:
            rows.append(_row(record))
    places = [f"{', '.join(names)}: {machine}." for machine, names in machines.items()]
    return "\n".join([*rows, "", *places])


def _row(record: Record) -> str:
    parts = "; ".join(f"{name} {number(part.value)} {part.unit}".rstrip() for name, part in record.parts.items())
    bound = "" if record.target is None else f"{'≥' if record.better is Better.HIGHER else '≤'} {number(record.target)}"
    if record.met is False:
        bound += ", **missed**"
    name = f"{record.name}. {record.did}" if record.did else record.name
    spread = f" ({number(record.low)}-{number(record.high)})" if record.repeats > 1 else ""
    return f"| {name} | **{number(record.ratio)}**{spread} | {bound} | {parts} | {record.repeats} |"


def described(result: Result) -> str:
    """The machine in a sentence, without the load, which differs by benchmark."""
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}, {versions}"
    )


def between_marks(text: str, inside: str, marks: Sequence[str] = MARKS) -> str:
    """``text`` with what stands between the two marks replaced.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    pattern = re.compile(re.escape(marks[0]) + r".*?" + re.escape(marks[1]), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"expected {marks[0]} ... {marks[1]} once")
    return pattern.sub(lambda _: f"{marks[0]}\n{inside}\n{marks[1]}", text)


def read_results(folder: Path, order: Sequence[str]) -> list[Result]:
    """What a folder of results holds, in the order of the benchmarks."""
    return [Result.read(folder / f"{name}.json") for name in order if (folder / f"{name}.json").exists()]
