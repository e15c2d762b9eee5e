"""`compact`: a lake's small files merged and its old snapshots dropped, on a schedule."""

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks import compaction


@flow(name="compact")
def compact(warehouse: str, keep_days: float = 30.0) -> compaction.Compacted:
    """Merges small files up to 256 MB and removes what only snapshots older than ``keep_days`` need; what it did.

    Args:
        warehouse: a lake, ``ducklake:...``; an embedded warehouse needs none of this.
        keep_days: for so long the lake can be asked as of an earlier run.
    """
    found = _compact(warehouse, keep_days)
    get_run_logger().info("%s", found.words)
    return found


@task(cache_policy=NO_CACHE, task_run_name="compact {warehouse}", retries=1, retry_delay_seconds=60)
def _compact(warehouse: str, keep_days: float) -> compaction.Compacted:
    return compaction.compact(warehouse, keep_days)
