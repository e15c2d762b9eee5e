"""A simulated LAION-5B: 585,000 shards of 10,000 images through the model of ``model.py``, with measured costs.

Run: python benchmarks/scale/laion.py measure    costs of this machine into constants.json
     python benchmarks/scale/laion.py lake       those of commits to a lake on PostgreSQL, into the same file
     python benchmarks/scale/laion.py validate   1,000 and 10,000 real shards against what the model says
     python benchmarks/scale/laion.py            the tables, from the committed constants.json
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import duckdb
import numpy as np
import real
import tiny
from model import Costs, Fleet, simulate

from tasks.collections.listing import list_shards
from tasks.warehouse.warehouse import Warehouse

CONSTANTS = Path(__file__).with_name("constants.json")
SHARDS, IMAGES = 585_000, 10_000
GPU_RATE = 1_000  # images a second: an assumption, see docs/performance.md for the arithmetic
DEATHS = 200.0  # hours between two deaths of one worker: an assumption, about that of spot machines
STRAGGLERS = 0.3  # of the logarithm of a group's time: an assumption; one group in 40 takes 1.7 times the mean
WORKERS = (8, 64, 256, 1024)
LAKE_WORKERS = (8, 32)  # with 64, transactions begin again so often that the simulation did not end in minutes
# (shards, shards a task, images a shard): enough to tell task, shard and image apart.
CALIBRATION = [(200, 10, 2), (200, 50, 2), (200, 10, 40)]
IDLE_SECONDS = 20.0
VALIDATION = [(1_000, 50, 2), (10_000, 100, 2)]
PER_TASK, COMMITS = (4, 40), 5  # shards of one commit to a lake, commits of each


def fitted(runs: list[real.RealRun], listing: float, idle: float) -> Costs:
    """Least squares over the groups of the calibration runs.

    Args:
        listing: seconds per shard.
        idle: share of a processor that the server takes when nothing runs.
    """
    score = [(1.0, r.per_group, r.per_group * r.images, seconds) for r in runs for seconds in r.score]
    land = [(1.0, r.per_group, seconds) for r in runs for seconds in r.land]
    task, shard, image = _least_squares(score)
    group, landed = _least_squares(land)
    tasks = sum(len(r.score) + len(r.land) for r in runs)
    return Costs(
        before=float(np.median([r.before + r.plan for r in runs])),
        list_shard=listing,
        run_start=0.0,
        task=task,
        server_task=max(0.0, sum(r.server - idle * r.whole for r in runs)) / tasks,
        shard=shard,
        image=image,
        land_group=group,
        land_shard=landed,
        after=float(np.median([r.rest for r in runs])),
    )


def _least_squares(rows: list[tuple[float, ...]]) -> list[float]:
    table = np.array(rows)
    found, *_ = np.linalg.lstsq(table[:, :-1], table[:, -1], rcond=None)
    return [max(0.0, float(value)) for value in found]


def measure() -> None:
    with tempfile.TemporaryDirectory() as name, real.server():
        folder = Path(name)
        scorer, bank = tiny.scorer_and_bank(folder)
        real.run(scorer, bank, 20, 10)  # imports, models, the server's first steps
        before = real.server_seconds()
        time.sleep(IDLE_SECONDS)
        idle = (real.server_seconds() - before) / IDLE_SECONDS
        runs = [real.run(scorer, bank, *sizes) for sizes in CALIBRATION]
        source = tiny.shards(folder / "listed", 2_000)
        started = time.perf_counter()
        list_shards(source, 1000)
        listing = (time.perf_counter() - started) / 2_000
    costs = fitted(runs, listing, idle)
    _keep({"machine": platform.platform(), "costs": asdict(costs)})


def lake() -> None:
    """Seconds of one writer's transaction before COMMIT, which others can spend meanwhile, and of COMMIT, which they cannot."""
    from lakes import KEY, made_outcome, opened_registry, postgres_lake
    from postgres_server import postgres_server

    from tasks.warehouse import commits
    from tasks.warehouse.landing import land

    spans: list[tuple[float, float]] = []

    @contextmanager
    def timed(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        started = time.perf_counter()
        connection.execute("BEGIN")
        yield
        prepared = time.perf_counter()
        connection.execute("COMMIT")
        spans.append((prepared - started, time.perf_counter() - prepared))

    found = {}
    with tempfile.TemporaryDirectory() as name, postgres_server(Path(name) / "pg") as postgres:
        os.environ["PGPASSWORD"] = postgres.password
        for per_task in PER_TASK:
            warehouse = opened_registry(postgres_lake(postgres, f"of{per_task}", Path(name) / f"data{per_task}"))
            outcomes = [made_outcome(warehouse, number, IMAGES) for number in range(per_task * COMMITS)]
            spans.clear()
            with mock.patch.object(commits, "transaction", timed):
                for first in range(0, len(outcomes), per_task):
                    land(Warehouse.at(warehouse), outcomes[first : first + per_task], KEY)
            prepare, commit = (statistics.median(column) for column in zip(*spans, strict=True))
            found[per_task] = {"prepare": prepare, "commit": commit}
    _keep({"lake": found})


def _keep(found: dict[str, object]) -> None:
    before = json.loads(CONSTANTS.read_text()) if CONSTANTS.exists() else {}
    CONSTANTS.write_text(json.dumps(before | found, indent=1) + "\n")
    print(CONSTANTS.read_text())


def validate() -> None:
    costs = Costs(**json.loads(CONSTANTS.read_text())["costs"])
    with tempfile.TemporaryDirectory() as name, real.server():
        scorer, bank = tiny.scorer_and_bank(Path(name))
        real.run(scorer, bank, 20, 10)
        print("| shards | measured s | model s | model / measured | landing measured s | model s |")
        print("|---:|---:|---:|---:|---:|---:|")
        for shards, per_task, images in VALIDATION:
            found = real.run(scorer, bank, shards, per_task, images)
            said = simulate(costs, Fleet(shards_per_task=per_task, shards_per_run=shards), shards, images)
            landing = said.busy["committer"] * said.seconds
            print(
                f"| {shards:,} | {found.whole:.0f} | {said.seconds:.0f} | {said.seconds / found.whole:.2f} | "
                f"{sum(found.land):.0f} | {landing:.0f} |",
                flush=True,
            )


def tables() -> None:
    """What a fleet of GPUs that score so many images a second takes, and which shared part fills up first."""
    kept = json.loads(CONSTANTS.read_text())
    measured = replace(Costs(**kept["costs"]), image=1 / GPU_RATE, straggler_sigma=STRAGGLERS)
    print(f"{SHARDS:,} shards of {IMAGES:,} images, {GPU_RATE:,} images/s a GPU, a worker dies every {DEATHS:g} hours\n")
    print("| warehouse | shards a task | GPUs | hours | ideal | GPUs busy | Prefect server | committer or catalog | mean wait "
          "to commit s | begun again | GPU hours lost | first full |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for many, per_task in ((False, 4), (False, 40), (True, 4), (True, 40)):
        for workers in LAKE_WORKERS if many else WORKERS:
            fleet = Fleet(workers, per_task, 200, many, hours_between_deaths=DEATHS)
            # Whoever is overtaken begins again: landing's own rule.
            costs = replace(measured, conflict_share=1.0, **kept["lake"][str(per_task)])
            found = simulate(costs, fleet, SHARDS, IMAGES)
            ideal = SHARDS * IMAGES * costs.image / workers / 3600
            shared = {name: share for name, share in found.busy.items() if name != "workers"}
            full = max(shared, key=lambda name: shared[name])
            landing = shared["catalog" if many else "committer"]
            print(
                f"| {'lake' if many else 'embedded'} | {per_task} | {workers:,} | {found.seconds / 3600:.1f} | {ideal:.1f} | "
                f"{found.busy['workers']:.0%} | {shared['Prefect server']:.0%} | {landing:.0%} | {found.commit_wait:.1f} | "
                f"{found.conflicts:,} | {found.wasted / 3600:.1f} | {full} at {workers / shared[full]:,.0f} GPUs |",
                flush=True,
            )


if __name__ == "__main__":
    {"measure": measure, "lake": lake, "validate": validate, "tables": tables}[sys.argv[1] if len(sys.argv) > 1 else "tables"]()
