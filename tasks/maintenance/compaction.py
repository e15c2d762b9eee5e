"""A lake kept in shape: small files merged, deleted rows and old snapshots dropped, files that nobody needs removed."""

from dataclasses import dataclass

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.warehouse.commits import commit
from tasks.warehouse.warehouse import Warehouse

# Rows that were deleted stay in their file until so large a share of it is gone.
_GONE = 0.1


@dataclass(frozen=True)
class Compacted:
    """Says what compaction did."""

    files_before: int
    files_after: int
    bytes_after: int
    snapshots_expired: int
    files_removed: int

    @property
    def words(self) -> str:
        return (
            f"{self.files_before} data files are {self.files_after}, {self.bytes_after / 1e6:.1f} MB; "
            f"{self.snapshots_expired} snapshots expired, {self.files_removed} files removed"
        )


def compact(warehouse: Warehouse, keep_days: float) -> Compacted:
    """Merges small files up to 256 MB and removes what only snapshots older than ``keep_days`` need.

    Runs beside writers: a step that meets one of them is tried again.

    Raises:
        WarehouseError: the warehouse is no lake.
        ValueError: ``keep_days`` is negative.
    """
    if keep_days < 0:
        raise ValueError(f"keep_days is a number of days from 0 on, got {keep_days}")
    if not warehouse.is_lake:
        raise WarehouseError(
            f"{warehouse} is an embedded warehouse, one file that needs no compaction; a lake does (ducklake:...)"
        )
    warehouse.require()
    older = f"now() - INTERVAL {keep_days * 24 * 3600:.0f} SECOND"
    with warehouse.connect() as connection:
        before = _files(connection)
        _call(connection, "ducklake_flush_inlined_data('warehouse')")
        expired = _call(connection, f"ducklake_expire_snapshots('warehouse', older_than => {older})")
        _call(connection, f"ducklake_rewrite_data_files('warehouse', delete_threshold => {_GONE})")
        _call(connection, "ducklake_merge_adjacent_files('warehouse')")
        removed = _call(connection, f"ducklake_cleanup_old_files('warehouse', older_than => {older})")
        # Writers that were killed left these; the files of one that is working now are younger than a day.
        removed += _call(connection, "ducklake_delete_orphaned_files('warehouse', older_than => now() - INTERVAL 1 DAY)")
        after = _files(connection)
    return Compacted(before[0], after[0], after[1], expired, removed)


def _call(connection: duckdb.DuckDBPyConnection, function: str) -> int:
    """Calls a function of the lake, again where another writer commits first, and returns how many rows it reports."""
    return len(commit(connection, lambda: connection.execute(f"CALL {function}").fetchall()))


def _files(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Returns the number and the bytes of the data files in the newest snapshot."""
    sql = "SELECT sum(file_count)::BIGINT, sum(file_size_bytes)::BIGINT FROM ducklake_table_info('warehouse')"
    ((files, size),) = connection.execute(sql).fetchall()
    return files or 0, size or 0
