"""The Prefect task of `compact`."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.maintenance import compaction
from tasks.warehouse.warehouse import Warehouse


@task(cache_policy=NO_CACHE, task_run_name="compact {warehouse}", retries=1, retry_delay_seconds=60)
def compact(warehouse: str, keep_days: float) -> compaction.Compacted:
    """Compacts the lake at this address, as `mdmf warehouse compact` does."""
    return compaction.compact(Warehouse.at(warehouse), keep_days)
