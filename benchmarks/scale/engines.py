"""What an engine costs: its start, one task, and cores that are given out twice.

    PYTHONPATH=.:tests/helpers python benchmarks/scale/engines.py [TASKS]

Prints the tables of docs/engines.md. A Prefect server of its own runs meanwhile, on SQLite.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from clusters import DASK, RAY, cluster
from fabricate import write_shard
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_LOGGING_LEVEL, PREFECT_SERVER_ANALYTICS_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.curate import curate
from tasks.runs.engines import Engine, started

_WORKERS = 2
_SHARDS, _IMAGES = 8, 24


@task(cache_policy=NO_CACHE)
def nothing(number: int) -> int:
    return number


@flow
def tasks_alone(engine: Engine, tasks: int) -> tuple[float, float, list[float]]:
    """Seconds until the engine stands, seconds of its first task, and seconds a task of five rounds."""
    began = time.monotonic()
    with started(engine) as runner:
        standing = time.monotonic()
        runner.submit(nothing, {"number": -1}).result()
        first = time.monotonic()
        rounds = []
        for _ in range(5):
            start = time.monotonic()
            for future in [runner.submit(nothing, {"number": number}) for number in range(tasks)]:
                future.result()
            rounds.append((time.monotonic() - start) / tasks)
        return standing - began, first - standing, rounds


def overhead(tasks: int) -> None:
    print("| engine | until it stands, s | its first task, s | one more task, ms (median of 5 rounds; worst) |")
    print("|---|---:|---:|---:|")
    for name in ("threads", RAY, DASK):
        standing, first, rounds = tasks_alone(Engine(name=name), tasks)
        median, worst = 1000 * statistics.median(rounds), 1000 * max(rounds)
        print(f"| {name} | {standing:.1f} | {first:.1f} | {median:.0f}; {worst:.0f} |", flush=True)


def oversubscribed(folder: Path) -> None:
    """The same shards by two workers that keep to a core each, and by two that both take all cores."""
    for number in range(_SHARDS + _WORKERS):
        (folder / ("warm" if number >= _SHARDS else "source")).mkdir(exist_ok=True)
        name = ("warm" if number >= _SHARDS else "source") + f"/{number:05d}.tar"
        write_shard(folder / name, range(number * 100, number * 100 + _IMAGES))
    print(f"| {_SHARDS} shards of {_IMAGES} images, embedded scorer | images/s |\n|---|---:|")
    cores = os.cpu_count() or 1
    _timed("one process, all cores", folder, "threads")
    with cluster(DASK, _WORKERS) as address:
        for cpus in (max(1, cores // _WORKERS), cores):
            text = f"{_WORKERS} Dask workers, num_cpus = {cpus}: {_WORKERS * cpus} threads on {cores} cores"
            _timed(text, folder, DASK, engine_address=address, num_cpus=cpus)


def _timed(text: str, folder: Path, engine: str, **where: object) -> None:
    rates = []
    curate(f"{folder}/warm/*.tar", warehouse=str(folder / f"{text}-w.duckdb"), engine=engine, shards_per_task=1, **where)
    for turn in range(3):
        warehouse, began = str(folder / f"{text}{turn}.duckdb"), time.monotonic()
        found = curate(f"{folder}/source/*.tar", warehouse=warehouse, engine=engine, shards_per_task=1, **where)
        rates.append(found.scored / (time.monotonic() - began))
    print(f"| {text} | {statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f}) |", flush=True)


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    quiet = temporary_settings({PREFECT_LOGGING_LEVEL: "ERROR", PREFECT_SERVER_ANALYTICS_ENABLED: False})
    with quiet, prefect_test_harness(server_startup_timeout=180), tempfile.TemporaryDirectory() as folder:
        overhead(tasks)
        print()
        oversubscribed(Path(folder))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\n{tasks} tasks a round; 3 runs each, median (least to most). {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}; load of the last 1, 5 and 15 minutes {load}."
    )


if __name__ == "__main__":
    main()
