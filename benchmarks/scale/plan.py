"""Plans made-up corpora of growing size against a warehouse that holds every other shard; time and memory, as a table.

python benchmarks/scale/plan.py [SHARDS ...]      by default 10000, 100000 and 1000000; each in a process of its own
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mdmf_core.records import Shard
from tasks.parts.outcome import WorkKey
from tasks.parts.plans import read_plan, write_plan
from tasks.runs.backlog import Tally, left_of
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

KEY = WorkKey("a" * 64, "b" * 64, "c" * 64)
PORTION = 200  # shards
_URL = "'s3://bucket/laion5b/' || lpad((i // 1000)::VARCHAR, 5, '0') || '/' || lpad(i::VARCHAR, 9, '0') || '.tar'"


class Planned(NamedTuple):
    """Of one plan. Memory is resident, at its highest, of the whole process."""

    shards: int
    to_do: int
    seconds: float
    before_mb: float
    peak_mb: float
    plan_mb: float
    read_seconds: float  # one portion, as a child reads it


def shards(count: int) -> Iterator[Shard]:
    """A listing, as it comes."""
    for i in range(count):
        yield Shard(f"s3://bucket/laion5b/{i // 1000:05d}/{i:09d}.tar", "tar", 300_000_000 + i, f"{i:032x}")


def fill(warehouse: str, count: int) -> None:
    """A warehouse in which every other shard of the listing is complete."""
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute("SET memory_limit = '500MB'")
        migrate(connection)
        connection.execute(
            f"INSERT INTO shards SELECT uuid(), {_URL}, 'tar', 'd', 300000000 + i, printf('%032x', i), 'complete', NULL, 100, "
            "99, 1, false, ?::UUID, ?::UUID, ?::UUID, uuid(), 1.0, now(), 1, NULL FROM range(0, ?, 2) r(i)",
            [*KEY.ids, count],
        )


def planned(count: int, folder: str) -> Planned:
    """Plans that many shards."""
    warehouse, path, tally = f"{folder}/w.duckdb", f"{folder}/plan.parquet", Tally()
    before, started = _peak_mb(), time.perf_counter()
    portions = write_plan(path, left_of(shards(count), Warehouse.at(warehouse), KEY, None, tally), PORTION)
    seconds = time.perf_counter() - started
    peak, started = _peak_mb(), time.perf_counter()
    found = read_plan(path, portions - 1)
    read = time.perf_counter() - started
    if (tally.shards, tally.to_do, tally.already_complete) != (count, count // 2, count - count // 2) or not found:
        raise SystemExit(f"not what was made up: {tally}, {len(found)} shards in the last portion")
    return Planned(count, tally.to_do, seconds, before, peak, os.path.getsize(path) / 2**20, read)


def planned_alone(count: int) -> Planned:
    """The same in a process that only grows by it; the warehouse is filled by another."""
    context = multiprocessing.get_context("fork")  # this process imports, and does nothing else that a child would inherit
    with tempfile.TemporaryDirectory(prefix="mdmf-plan-") as folder:
        for task, arguments in ((fill, (str(Path(folder) / "w.duckdb"), count)), (planned, (count, folder))):
            with context.Pool(1) as pool:
                found = pool.apply(task, arguments)
    return found


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print("| shards listed | to do | seconds | memory before, MB | peak, MB | plan, MB | one portion read, s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for size in [int(argument) for argument in sys.argv[1:]] or [10_000, 100_000, 1_000_000]:
        p = planned_alone(size)
        print(
            f"| {p.shards:,} | {p.to_do:,} | {p.seconds:.1f} | {p.before_mb:.0f} | {p.peak_mb:.0f} | {p.plan_mb:.1f} "
            f"| {p.read_seconds:.3f} |",
            flush=True,
        )
