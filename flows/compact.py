"""The flow `compact` merges a lake's small files and drops its old snapshots, on a schedule."""

from prefect import flow, get_run_logger

from tasks.maintenance import compaction, steps


@flow(name="compact")
def compact(warehouse: str, keep_days: float = 30.0) -> compaction.Compacted:
    """Merges small files up to 256 MB and removes files that only snapshots older than ``keep_days`` need; returns the counts.

    Args:
        warehouse: a lake, ``ducklake:...``; an embedded warehouse needs none of this.
        keep_days: for so long the lake can be asked as of an earlier run.
    """
    found = steps.compact(warehouse, keep_days)
    get_run_logger().info("%s", found.words)
    return found
