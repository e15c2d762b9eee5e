"""Runs whose process died without closing them are found here: their rows are closed and their owners forgotten."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import duckdb
from prefect import get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from tasks.parts.leases import dead_owners, forget, live_runs, run_of
from tasks.warehouse.commits import commit
from tasks.warehouse.warehouse import Warehouse

_MESSAGE = "its process ended without a word; what it finished is kept, the next run does the rest"


@dataclass(frozen=True)
class Reaped:
    """A run whose process died. ``source`` is None when the run died before it wrote its row."""

    run_id: str
    source: str | None


def reap(warehouse: Warehouse) -> list[Reaped]:
    """Closes the rows of dead runs as ``crashed`` and returns these runs, again and again until their owners are forgotten.

    Calling it again, or twice at once, changes nothing more.
    """
    folder = warehouse.leases
    # An owner registers before its row is written and goes after its row is closed, so rows are read before owners.
    with warehouse.connect(read_only=True) as connection:
        running = [run for (run,) in connection.execute("SELECT run_id::VARCHAR FROM runs WHERE state = 'running'").fetchall()]
    dead, alive = dead_owners(folder), live_runs(folder)
    silent = [run for run in running if run not in alive]
    reaped = []
    if silent:
        with warehouse.connect() as connection:
            rows = commit(connection, partial(_close, connection, silent))
        reaped = [Reaped(run, source) for run, source in rows]
    known = {run.run_id for run in reaped} | alive
    reaped += [Reaped(run, None) for run in sorted({run_of(owner) for owner in dead} - known)]
    return reaped


def _close(connection: duckdb.DuckDBPyConnection, silent: list[str]) -> list[tuple[str, str]]:
    """Closes the rows of these runs that are still open and returns their ids and sources."""
    which = "state = 'running' AND run_id IN (SELECT unnest(?::UUID[]))"
    rows = connection.execute(f"SELECT run_id::VARCHAR, source FROM runs WHERE {which}", [silent]).fetchall()
    connection.execute(
        f"UPDATE runs SET state = 'crashed', message = ?, finished_at = ? WHERE {which}", [_MESSAGE, datetime.now(UTC), silent]
    )
    return rows


def forget_dead(warehouse: Warehouse, runs: list[Reaped]) -> None:
    """Removes the owners of dead runs, once the warehouse and Prefect know that the runs are dead."""
    folder, gone = warehouse.leases, {run.run_id for run in runs}
    for owner in dead_owners(folder):
        if run_of(owner) in gone:
            forget(folder, owner)


@task(cache_policy=NO_CACHE, task_run_name="find dead runs")
def reap_runs(warehouse: str) -> list[Reaped]:
    """Closes the rows of dead runs and returns the runs; none when there is no warehouse yet."""
    there = Warehouse.at(warehouse)
    return reap(there) if there.exists() else []


@task(cache_policy=NO_CACHE, task_run_name="mark {run.run_id}", retries=2, retry_delay_seconds=5)
def mark_crashed(run: Reaped) -> None:
    """Tells Prefect that a run crashed, unless Prefect knows already or never knew the run."""
    with get_client(sync_client=True) as client:
        try:
            known = client.read_flow_run(UUID(run.run_id))
        except ObjectNotFound:
            return
        if known.state is None or not known.state.is_final():
            message = "its process ended without a word (found by the reaper)"
            client.set_flow_run_state(UUID(run.run_id), Crashed(message=message), force=True)
            get_run_logger().warning("run %s of %s is marked crashed", run.run_id, run.source or "an unknown source")


@task(cache_policy=NO_CACHE, task_run_name="forget dead runs")
def forget_runs(warehouse: str, runs: list[Reaped]) -> None:
    """Removes the owners that dead runs left, now that the warehouse and Prefect know that these runs are dead."""
    forget_dead(Warehouse.at(warehouse), runs)
