"""The DuckDB warehouse, in one file or in a lake: opening it, asking it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.storage.local_files import disk_full
from tasks.warehouse.address import Embedded, Lake, address
from tasks.warehouse.attach import advice, exists, open_in_turn
from tasks.warehouse.migrations import pending
from tasks.warehouse.snapshots import snapshot_of

# Seconds to wait for other processes. A landing can wait long: its parts are safe on disk.
READER_PATIENCE, WRITER_PATIENCE, LANDING_PATIENCE = 120.0, 600.0, 3600.0


def warehouse_exists(warehouse: str) -> bool:
    """Whether there is one.

    Raises:
        WarehouseError: no such address, or a lake's catalog does not answer.
    """
    return exists(address(warehouse))


@contextmanager
def connect(
    warehouse: str, read_only: bool = False, patience: float | None = None, as_of: str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the warehouse for the length of the block. An embedded one waits for its turn, and says so, while others hold it.

    Args:
        warehouse: path of the file, or ``ducklake:...``; made if it is not there and ``read_only`` is not set.
        read_only: for questions; the schema must be this version's.
        patience: seconds to wait at most; by default two minutes to read and ten to write.
        as_of: of a lake, what it held when this run had ended (or of this number of a snapshot); read-only.

    Raises:
        WarehouseError: not there (read-only), not a DuckDB file, not writable, full, or (read-only) of another version; a lake
            without its extensions; a run that the lake has no snapshot of.
        WarehouseHeld: others held it for longer than ``patience``.
    """
    with opened(warehouse, read_only, patience, as_of) as connection:
        if read_only and as_of is None:
            missing = pending(connection)
            if missing:
                raise WarehouseError(
                    f"warehouse {warehouse} was written by an earlier version (it lacks {', '.join(missing)}); "
                    f"run `mdmf migrate --warehouse {warehouse}`"
                )
        yield connection


def require_warehouse(warehouse: str) -> None:
    """Raises WarehouseError when there is none."""
    where = address(warehouse)
    if not exists(where):
        raise WarehouseError(f"no warehouse at {where.name}; run `mdmf curate SOURCE --warehouse {warehouse}` first")


@contextmanager
def opened(
    warehouse: str, read_only: bool, patience: float | None = None, as_of: str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """As ``connect``, whatever version wrote it."""
    where = address(warehouse)
    if read_only:
        require_warehouse(warehouse)
    else:
        _make_folder(where)
    if patience is None:
        patience = READER_PATIENCE if read_only else WRITER_PATIENCE
    snapshot = _snapshot(where, patience, as_of) if as_of is not None else None
    connection = open_in_turn(where, read_only, patience, snapshot)
    try:
        yield connection
    except duckdb.Error as error:
        if "No space left" not in str(error):
            raise
        raise disk_full(where.name, str(error)) from error
    finally:
        connection.close()


def _make_folder(where: Embedded | Lake) -> None:
    file = where.path if isinstance(where, Embedded) else where.catalog if where.kind == "sqlite" else None
    if file is None:
        return
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
    except OSError as error:
        raise WarehouseError(f"cannot open warehouse {where.name}: {advice(str(error))} ({error})") from error


def _snapshot(where: Embedded | Lake, patience: float, as_of: str) -> int:
    if isinstance(where, Embedded):
        raise WarehouseError(
            f"{where.path} is an embedded warehouse, which knows only its present; --as-of asks a lake (ducklake:...). "
            "`SELECT * FROM scores WHERE run_id = ...` finds what a run scored"
        )
    connection = open_in_turn(where, True, patience)
    try:
        return snapshot_of(connection, as_of)
    finally:
        connection.close()
