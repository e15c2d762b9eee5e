"""What every benchmark gives back, and how two things are compared side by side.

A benchmark is a module of one of the rooms of benchmarks/ with one function

    def records(setting: Setting) -> list[Record]: ...

and its name and module stand in ``BENCHMARKS`` of ``benchmarks/run.py``. ``make bench`` runs each in a process of its own and
writes ``results/NAME.json`` (the committed baseline) and the table of docs/performance.md; ``make bench ONLY="NAME OTHER"``
runs some of them; ``make bench-compare`` runs again into a temporary folder and fails when a ratio is more than 15 % worse.

What is compared is a record's *ratio*, one side over the other of the same run, never seconds: those belong to the machine.
``interleaved`` runs the sides A B A B so that a disturbance strikes both, and ``ratio_record`` makes medians and spread of it:

    seconds = interleaved({"exact": lambda: timed(exact), "coreset": lambda: timed(coreset)}, repeats=5, say=setting.say)
    return [ratio_record("MMD by coreset, time over exact", seconds, "coreset", "exact", Better.LOWER, "s", target=0.5)]

Choose ratios away from zero (``1.004`` for an overhead of 0.4 %), so that 15 % of it means something. A ratio that is counted
rather than timed is a ``Record`` written out. Nothing here imports torch, so that a benchmark decides its own threads.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Better(StrEnum):
    """Which direction of a ratio is the better one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Part:
    """An absolute figure behind a ratio: the median over the repeats."""

    value: float
    unit: str


@dataclass(frozen=True)
class Record:
    """One comparison. ``low`` and ``high`` are the least and greatest ratio of the repeats."""

    name: str
    ratio: float
    better: Better
    low: float
    high: float
    repeats: int
    parts: Mapping[str, Part] = field(default_factory=dict)
    target: float | None = None  # at least or at most this, by ``better``
    did: str = ""  # what was run, on what and how much of it

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.better is Better.HIGHER else self.ratio <= self.target

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Record":
        parts = {name: Part(**part) for name, part in record["parts"].items()}
        return cls(**{**record, "parts": parts, "better": Better(record["better"])})


@dataclass(frozen=True)
class Setting:
    """What a benchmark is given.

    Attributes:
        data: a folder of images, for the benchmarks that need real ones.
        weights: CLIP ViT-B/16 for timm as safetensors.
        work: an empty folder of its own, removed afterwards.
        say: prints a line of progress.
    """

    data: Path
    weights: Path
    work: Path
    say: Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What ``results/NAME.json`` holds."""

    benchmark: str
    machine: Mapping[str, Any]
    seconds: float
    records: Sequence[Record]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.benchmark}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Result":
        found = json.loads(path.read_text())
        return cls(**{**found, "records": [Record.from_json(record) for record in found["records"]]})


def timed(action: Callable[[], object]) -> float:
    """Seconds of wall time that ``action`` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def interleaved(
    sides: Mapping[str, Callable[[], float]], repeats: int, say: Callable[[str], None], warm: bool = True
) -> dict[str, list[float]]:
    """What each side returned, repeat by repeat: A B A B. With ``warm``, one round before is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(-warm, repeats):
        for name, side in sides.items():
            value = side()
            if repeat >= 0:
                found[name].append(value)
        done = ", ".join(f"{name} {values[-1]:.4g}" for name, values in found.items() if values)
        say(f"repeat {repeat + 1} of {repeats}: {done}" if repeat >= 0 else "warmed up")
    return found


def ratio_record(
    name: str,
    values: Mapping[str, Sequence[float]],
    side: str,
    over: str,
    better: Better,
    unit: str,
    target: float | None = None,
    did: str = "",
) -> Record:
    """The median over repeats of ``side`` / ``over``, pairs from the same repeat; the medians of all sides are its parts."""
    ratios = [ours / theirs for ours, theirs in zip(values[side], values[over], strict=True)]
    parts = {label: Part(statistics.median(found), unit) for label, found in values.items()}
    return Record(name, statistics.median(ratios), better, min(ratios), max(ratios), len(ratios), parts, target, did)


def slope(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """(intercept, slope) of the least-squares line: what is fixed, and what each further unit of size costs."""
    line = statistics.linear_regression(sizes, values)
    return line.intercept, line.slope
