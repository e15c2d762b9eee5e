"""The snapshots of a lake: which one a run ended with."""

from datetime import datetime
from typing import NamedTuple

import duckdb

from mdmf_core.errors import WarehouseError

_NAMED = """
SELECT commit_extra_info::JSON->>'run_id' AS run_id, max(snapshot_id) AS snapshot, max(snapshot_time) AS at
FROM ducklake_snapshots('warehouse') WHERE commit_extra_info IS NOT NULL GROUP BY 1 HAVING run_id IS NOT NULL ORDER BY snapshot
"""


class RunSnapshot(NamedTuple):
    """The last snapshot that a run wrote, which shows what the lake held then."""

    run_id: str
    snapshot: int
    at: datetime


def run_snapshots(connection: duckdb.DuckDBPyConnection) -> list[RunSnapshot]:
    """Returns the last snapshot of every run that the lake still has one of, oldest first."""
    return [RunSnapshot(*row) for row in connection.execute(_NAMED).fetchall()]


def snapshot_of(connection: duckdb.DuckDBPyConnection, as_of: str) -> int:
    """Returns the number of the snapshot that a run ended with; a number stands for itself.

    Raises:
        WarehouseError: no such run, or its snapshots have expired.
    """
    if as_of.isdigit():
        return int(as_of)
    known = run_snapshots(connection)
    for run in known:
        if run.run_id == as_of:
            return run.snapshot
    newest = ", ".join(run.run_id for run in known[-3:]) or "none"
    raise WarehouseError(
        f"the lake has no snapshot of run {as_of}, or it has expired; the newest that it has are of runs {newest}"
    )
