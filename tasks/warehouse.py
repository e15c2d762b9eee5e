"""The DuckDB warehouse, in one file or in a lake: opening it, asking it."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pandas as pd

from mdmf_core.errors import MdmfError, WarehouseError
from tasks.address import Embedded, Lake, address
from tasks.attach import STORAGE_VERSION, advice, exists, open_in_turn, quoted
from tasks.commits import Note, commit, transaction
from tasks.migrations import migrate, pending
from tasks.snapshots import snapshot_of
from tasks.storage import disk_full

__all__ = [
    "LANDING_PATIENCE", "READER_PATIENCE", "STORAGE_VERSION", "WRITER_PATIENCE", "Note", "commit", "connect", "frame",
    "leases_folder", "migrate", "opened", "parts_folder", "pending", "query", "quoted", "report_folder", "require_question",
    "require_warehouse", "spelled", "transaction", "warehouse_exists",
]  # fmt: skip

# Seconds to wait for other processes. A landing can wait long: its parts are safe on disk.
READER_PATIENCE, WRITER_PATIENCE, LANDING_PATIENCE = 120.0, 600.0, 3600.0
# What a question may be. ATTACH could open the file a second time, for writing.
_QUESTIONS = ("SELECT", "MULTI", "COPY", "EXPLAIN")  # MULTI: a PIVOT


def parts_folder(warehouse: str) -> str:
    """Where the parts and plans of a warehouse lie: beside its file, or beside a lake's data, so perhaps ``s3://...``."""
    return address(warehouse).beside(".parts")


def leases_folder(warehouse: str) -> str:
    """Where runs say what they are at work on."""
    return os.path.join(parts_folder(warehouse), "leases")


def report_folder(warehouse: str) -> str:
    """Where its report lies if no other place is named."""
    return address(warehouse).beside(".report")


def spelled(warehouse: str) -> str:
    """The one spelling of where it is: with absolute paths."""
    return address(warehouse).name


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


def query(warehouse: str, sql: str, parameters: list[Any] | None = None, as_of: str | None = None) -> pd.DataFrame:
    """The result of one read-only query as a frame."""
    with connect(warehouse, read_only=True, as_of=as_of) as connection:
        return frame(connection, sql, parameters)


def frame(connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
    """The answer to a question as a frame.

    Raises:
        MdmfError: as ``require_question``.
    """
    require_question(connection, sql)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The inplace keyword")  # duckdb's own way with time zones
        return connection.execute(sql, parameters or []).df()


def require_question(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises MdmfError for anything but questions, which may read other files and write their answer to one."""
    for statement in connection.extract_statements(sql):
        if statement.type.name not in _QUESTIONS:
            raise MdmfError(
                f"{statement.type.name} is no question: SELECT, COPY (SELECT ...) TO and EXPLAIN are allowed here, and nothing "
                "can be changed; for other statements use `duckdb -readonly`"
            )
