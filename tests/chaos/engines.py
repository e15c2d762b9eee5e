"""``make chaos-engines``: kills workers of Ray, Dask and a process pool in the middle of runs; the table in docs/engines.md.

PYTHONPATH=tests/helpers:tests/chaos python tests/chaos/engines.py [RUNS]
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clusters import DASK, RAY, cluster
from fabricate import ROOT, write_shard
from harness import look
from mortal import killing_workers
from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterTextSearch
from run import _scorer, _write

from flows.curate import curate
from mdmf_cli.local_prefect import LocalPrefect, local_prefect
from tasks.parts.leases import dead_owners
from tasks.warehouse.warehouse import Warehouse

_SHARDS, _IMAGES, _KILLS = 8, 6, 3
_POOL = "process pool, children of curate-corpus"
_HEAD = (
    "| workers killed in | runs | killed | members without a verdict | members with two | same content | leases left | seconds "
    "wasted, of seconds run |\n|---|---:|---:|---:|---:|---|---:|---|"
)


@dataclass(frozen=True)
class Mortal:
    """One run whose workers were killed."""

    killed: int
    lost: int
    twice: int
    same: bool
    leases: int
    wasted: float
    seconds: float


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="mdmf-mortal-") as name, local_prefect(ROOT, Path(name) / "prefect") as prefect:
        folder = Path(name)
        os.environ.update({key: value for key, value in prefect.environment.items() if key.startswith("PREFECT")})
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
        scorer, bank = _scorer(folder)
        for number in range(_SHARDS):
            write_shard(folder / f"{number:05d}.tar", range(number * 10, number * 10 + _IMAGES), {"page.jpg": b"<html>"})
        parameters = {"source": f"{folder}/*.tar", "scorer": scorer, "bank": bank, "device": "cpu", "shards_per_task": 1}
        alone = curate(**parameters, warehouse=str(folder / "alone.duckdb")).warehouse
        rows = [_row(engine, list(_engine(engine, parameters, alone, runs))) for engine in (RAY, DASK)]
        rows.append(_row(_POOL, list(_pool(prefect, parameters, alone, runs))))
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    text = f"{_SHARDS} shards of {_IMAGES + 1} members a run, each worker killed as soon as it holds a lease; {machine}."
    _write(ROOT / "docs" / "engines.md", [*_HEAD.split("\n"), *rows, "", text])


def _engine(name: str, parameters: dict[str, object], alone: str, runs: int) -> Iterator[Mortal]:
    for number in range(runs):
        warehouse = alone.replace("alone", f"{name}{number}")
        with cluster(name) as address, _judged(warehouse) as (killed, found):
            result = curate(**parameters, warehouse=warehouse, engine=name, engine_address=address)
            found.append(result.wasted_seconds)
        yield _mortal(warehouse, alone, killed, found)


def _pool(prefect: LocalPrefect, parameters: dict[str, object], alone: str, runs: int) -> Iterator[Mortal]:
    prefect.run("--no-prompt", "deploy", "--all")
    for number in range(runs):
        warehouse = alone.replace("alone", f"pool{number}")
        chosen = parameters | {"warehouse": warehouse, "shards_per_run": 2, "runs_at_once": 2, "attempts": _KILLS + 1}
        flags = [part for key, value in chosen.items() for part in ("--param", f"{key}={json.dumps(value)}")]
        before = _wasted_by_log()
        with _judged(warehouse) as (killed, found):
            prefect.run("deployment", "run", "curate-corpus/laion", *flags, "--watch", "--watch-interval", "1")
            found.append(_wasted_by_log() - before)
        yield _mortal(warehouse, alone, killed, found)


def _wasted_by_log() -> float:
    """What all child runs so far said that they spent in vain."""
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(text=LogFilterTextSearch(query='"came to nothing"')), limit=200)
    return sum(float(log.message.partition(" s of")[0]) for log in logs)


@contextmanager
def _judged(warehouse: str) -> Iterator[tuple[list[int], list[float]]]:
    """Kills workers while the block runs; appends to ``found``, after what the block puts there, the seconds that it took."""
    found: list[float] = []
    began = time.monotonic()
    with killing_workers(Warehouse.at(warehouse).leases, _KILLS) as killed:
        yield killed, found
    found.append(time.monotonic() - began)


def _mortal(warehouse: str, alone: str, killed: list[int], found: list[float]) -> Mortal:
    digest, members, twice = look(warehouse)
    expected, all_members, _ = look(alone)
    leases = Warehouse.at(warehouse).leases
    left = len(os.listdir(os.path.join(leases, "held"))) + len(dead_owners(leases))
    return Mortal(len(killed), all_members - members, twice, digest == expected, left, *found)


def _row(name: str, found: list[Mortal]) -> str:
    bad = [run for run in found if not run.same or run.lost or run.twice]
    if bad:
        raise SystemExit(f"{name}: not the content of an undisturbed run: {bad}")
    cells = [
        name, len(found), sum(run.killed for run in found), sum(run.lost for run in found), sum(run.twice for run in found),
        f"{sum(run.same for run in found)} of {len(found)}", sum(run.leases for run in found),
        f"{sum(run.wasted for run in found):.1f} of {sum(run.seconds for run in found):.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
