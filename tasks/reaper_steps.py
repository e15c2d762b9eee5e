"""The steps of the reaper as Prefect tasks."""

from uuid import UUID

from prefect import get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from tasks.reaping import Reaped, forget_dead, reap
from tasks.warehouse import warehouse_exists


@task(cache_policy=NO_CACHE, task_run_name="find dead runs")
def reap_runs(warehouse: str) -> list[Reaped]:
    """Closes the rows of dead runs; none when there is no warehouse yet."""
    return reap(warehouse) if warehouse_exists(warehouse) else []


@task(cache_policy=NO_CACHE, task_run_name="mark {run.run_id}", retries=2, retry_delay_seconds=5)
def mark_crashed(run: Reaped) -> None:
    """Tells Prefect, unless it knows already or never knew the run."""
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
    """Removes what dead runs left, now that everybody knows."""
    forget_dead(warehouse, runs)
