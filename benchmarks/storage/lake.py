"""How long commits to a warehouse take, embedded and in lakes, with one writer and with many, as the tables of docs/lake.md.

PYTHONPATH=tests/helpers python benchmarks/storage/lake.py FOLDER [ROWS] [SHARDS]

makes FOLDER; needs DuckDB with the extensions for lakes.
"""

import logging
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import duckdb
from lakes import KEY, made_outcome, opened_registry, place, postgres_lake
from postgres_server import postgres_server
from s3_server import KEY as USER
from s3_server import SECRET, s3_server

from mdmf import to_pandas as query
from tasks.maintenance.compaction import compact
from tasks.parts.outcome import ShardOutcome
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse

GROUP = 4  # shards of one task, as `mdmf curate` has it


class _Conflicts(logging.Handler):
    """Counts how often a commit came second."""

    seen = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += "committed first" in record.getMessage()


def landed(warehouse: str, outcomes: list[ShardOutcome]) -> tuple[list[float], int]:
    """Seconds of each group, from opening the warehouse to closing it, and the conflicts of all."""
    conflicts, log, seconds = _Conflicts(), logging.getLogger("mdmf"), []
    log.addHandler(conflicts)
    log.setLevel(logging.INFO)
    for start in range(0, len(outcomes), GROUP):
        began = time.perf_counter()
        land(Warehouse.at(warehouse), outcomes[start : start + GROUP], KEY)
        seconds.append(time.perf_counter() - began)
    return seconds, conflicts.seen


def side_by_side(warehouse: str, outcomes: list[ShardOutcome], writers: int) -> str:
    """One row of the table: so many writers share the shards."""
    began = time.perf_counter()
    with ProcessPoolExecutor(writers, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(landed, [warehouse] * writers, [outcomes[number::writers] for number in range(writers)]))
    wall = time.perf_counter() - began
    seconds = sorted(second for part, _ in found for second in part)
    counted = query(warehouse, "SELECT count(*) AS n FROM scores")["n"][0]
    expected = sum(outcome.scored for outcome in outcomes)
    if counted != expected:
        raise SystemExit(f"{warehouse} holds {counted} rows, not {expected}")
    slow = seconds[int(0.95 * (len(seconds) - 1))]
    conflicts = sum(count for _, count in found)
    cells = (f"{second:.2f}" for second in (statistics.median(seconds), slow, seconds[-1]))
    return f"{writers} | {len(seconds)} | {' | '.join(cells)} | {conflicts} | {wall:.0f}"


@contextmanager
def warehouses(folder: Path) -> Iterator[dict[str, list[str]]]:
    """Two new warehouses of every kind."""
    with postgres_server(folder / "pg") as postgres, s3_server(folder / "s3") as (_, url):
        variables = {"ACCESS_KEY_ID": USER, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT_URL": url, "REGION": "us-east-1"}
        os.environ.update({f"AWS_{name}": value for name, value in variables.items()} | {"PGPASSWORD": postgres.password})
        sub = [folder / "1", folder / "4"]
        yield {
            "embedded": [place(each, "embedded") for each in sub],
            "SQLite, local disk": [place(each, "sqlite") for each in sub],
            "PostgreSQL, local disk": [postgres_lake(postgres, f"local{each.name}", each / "data") for each in sub],
            "PostgreSQL, S3": [postgres_lake(postgres, f"s3{each.name}", f"s3://corpus/{each.name}") for each in sub],
        }


def main(folder: Path, rows: int, shards: int) -> None:
    maker = str(folder / "made" / "w.duckdb")
    outcomes = [made_outcome(maker, number, rows) for number in range(shards)]
    print(f"DuckDB {duckdb.__version__}, {os.cpu_count()} cores; {shards} shards of {rows} members, {GROUP} in a commit\n")
    print("| warehouse | writers | commits | median | 95 % | longest | conflicts | all, with start |")
    print("|---|---|---|---|---|---|---|---|")
    with warehouses(folder) as places:
        for name, addresses in places.items():
            for warehouse, writers in zip(addresses, (1, 4), strict=True):
                opened_registry(warehouse)
                print(f"| {name} | {side_by_side(warehouse, outcomes, writers)} |", flush=True)
        print("\n| warehouse | one shard's rows, before | compaction | after | files before, after |\n|---|---|---|---|---|")
        for name, (_, warehouse) in places.items():
            if name != "embedded":
                print(f"| {name} | {_compacted(warehouse)} |", flush=True)


def _compacted(warehouse: str) -> str:
    before = _one_shard(warehouse)
    began = time.perf_counter()
    found = compact(Warehouse.at(warehouse), keep_days=0)
    took = time.perf_counter() - began
    return f"{before:.2f} | {took:.1f} | {_one_shard(warehouse):.2f} | {found.files_before}, {found.files_after}"


def _one_shard(warehouse: str) -> float:
    """Median seconds of asking for one shard's scores, five times."""
    seconds = []
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        ((shard,),) = connection.execute("SELECT min(shard_id)::VARCHAR FROM shards").fetchall()
        for _ in range(5):
            began = time.perf_counter()
            connection.execute("SELECT avg(score) FROM scores WHERE shard_id = ?", [shard]).fetchall()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in (sys.argv[2:] + ["2000", "40"][len(sys.argv) - 2 :])))
