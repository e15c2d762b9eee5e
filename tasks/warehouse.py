"""The DuckDB warehouse: opening it when its turn comes, bringing its schema up to date, asking it."""

import logging
import os
import random
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from mdmf_core.errors import MdmfError, WarehouseError, WarehouseHeld
from tasks.storage import disk_full

# Readable by the DuckDB shells of 1.5 and 2.x alike.
STORAGE_VERSION = "v1.5.0"
# Seconds to wait for other processes. A landing can wait long: its parts are safe on disk.
READER_PATIENCE, WRITER_PATIENCE, LANDING_PATIENCE = 120.0, 600.0, 3600.0
_NOTICE = 15.0  # seconds between two lines that say what is waited for
_HOLDER = re.compile(r"held in (?P<program>.+) \(PID (?P<pid>\d+)\)")
MIGRATIONS: Traversable = files("warehouse")
# What a question may be. ATTACH could open the file a second time, for writing.
_QUESTIONS = ("SELECT", "MULTI", "COPY", "EXPLAIN")  # MULTI: a PIVOT


def parts_folder(warehouse: str) -> str:
    """Where the parts and plans of a warehouse lie: beside its file."""
    return os.path.abspath(warehouse) + ".parts"


def leases_folder(warehouse: str) -> str:
    """Where runs say what they are at work on."""
    return os.path.join(parts_folder(warehouse), "leases")


def quoted(text: str) -> str:
    """As an SQL literal, where no parameter can be bound."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def connect(warehouse: str, read_only: bool = False, patience: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the warehouse for the length of the block, and waits for its turn, saying so, while others hold it.

    Args:
        warehouse: path of the file; made if it is not there and ``read_only`` is not set.
        read_only: for questions; the schema must be this version's.
        patience: seconds to wait at most; by default two minutes to read and ten to write.

    Raises:
        WarehouseError: not there (read-only), not a DuckDB file, not writable, full, or (read-only) of another version.
        WarehouseHeld: others held it for longer than ``patience``.
    """
    with opened(warehouse, read_only, patience) as connection:
        if read_only:
            missing = pending(connection)
            if missing:
                raise WarehouseError(
                    f"warehouse {warehouse} was written by an earlier version (it lacks {', '.join(missing)}); "
                    f"run `mdmf migrate --warehouse {warehouse}`"
                )
        yield connection


def require_warehouse(warehouse: str) -> None:
    """Raises WarehouseError when there is none."""
    path = os.path.abspath(warehouse)
    if not os.path.exists(path):
        raise WarehouseError(f"no warehouse at {path}; run `mdmf curate SOURCE --warehouse {warehouse}` first")


@contextmanager
def opened(warehouse: str, read_only: bool, patience: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """As ``connect``, whatever version wrote the file."""
    path = os.path.abspath(warehouse)
    if not read_only:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise WarehouseError(f"cannot open warehouse {path}: {_advice(str(error))} ({error})") from error
    else:
        require_warehouse(warehouse)
    if patience is None:
        patience = READER_PATIENCE if read_only else WRITER_PATIENCE
    connection = _open_in_turn(path, read_only, patience)
    try:
        yield connection
    except duckdb.Error as error:
        if "No space left" not in str(error):
            raise
        raise disk_full(path, str(error)) from error
    finally:
        connection.close()


def _open(path: str, read_only: bool) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    try:
        options = "READ_ONLY" if read_only else f"STORAGE_VERSION '{STORAGE_VERSION}'"
        connection.execute(f"ATTACH {quoted(path)} AS warehouse ({options})")
        connection.execute("USE warehouse")
        connection.execute(f"SET temp_directory = {quoted(path + '.tmp')}")
        connection.execute("SET TimeZone = 'UTC'")
    except BaseException:
        connection.close()
        raise
    return connection


def _open_in_turn(path: str, read_only: bool, patience: float) -> duckdb.DuckDBPyConnection:
    started, pause, notice = time.monotonic(), 0.05, 0.0
    while True:
        try:
            return _open(path, read_only)
        except duckdb.Error as error:
            holder = _holder(str(error))
            if holder is None:
                reason = str(error).splitlines()[0]
                raise WarehouseError(f"cannot open warehouse {path}: {_advice(reason)} ({reason})") from error
            waited = time.monotonic() - started
            if waited >= patience:
                raise WarehouseHeld(
                    f"cannot open warehouse {path}: {holder} has held it for {patience:.0f} s, as long as this waits; "
                    "close it and run again. Nothing is lost: the next run lands the parts that are finished"
                ) from error
            if waited >= notice:
                _logger().warning(
                    "%s holds %s; waiting for it, %.0f s so far, %.0f s at most",
                    holder,
                    os.path.basename(path),
                    waited,
                    patience,
                )
                notice = waited + _NOTICE
            time.sleep(min(pause * random.uniform(0.5, 1.5), patience - waited))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.5, 2.0)


def _advice(said: str) -> str:
    if "read-only file system" in said.lower():
        return "its disk is read-only; make it writable, or choose another place"
    return "check the path and its permissions"


def _holder(error: str) -> str | None:
    """Who holds the file, in words; None when the error is another one."""
    if "already attached" in error or "different configuration" in error:
        return f"this process itself (PID {os.getpid()}), by another connection,"
    found = _HOLDER.search(error)
    if found is None:
        return "another process" if "Could not set lock" in error else None
    process = Path("/proc", found["pid"])
    try:
        # On a shared disk the number may be another host's: the name is told only where program and number fit.
        name = (process / "comm").read_text().strip() if str((process / "exe").readlink()) == found["program"] else ""
    except OSError:
        name = ""
    return f"process {found['pid']} ({name or found['program']})"


def _logger() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    """The run's log inside a run, the standard one elsewhere."""
    from prefect import get_run_logger  # seconds to load: not for a query of the command line
    from prefect.exceptions import MissingContextError

    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("mdmf")


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def pending(connection: duckdb.DuckDBPyConnection, source: Traversable = MIGRATIONS) -> list[str]:
    """The migrations that the warehouse still lacks, in order; all of them for an empty file.

    Raises:
        WarehouseError: the warehouse was written by a newer version, or the file is somebody else's database.
    """
    steps = sorted(entry.name for entry in source.iterdir() if entry.name.endswith(".sql"))
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()").fetchall()
    if tables and ("migrations",) not in tables:
        raise WarehouseError(
            f"this is no mdmf warehouse: it holds other tables ({', '.join(sorted(t for (t,) in tables)[:5])})"
        )
    applied = {name for (name,) in connection.execute("SELECT name FROM migrations").fetchall()} if tables else set()
    unknown = applied - set(steps)
    if unknown:
        raise WarehouseError(
            f"the warehouse was written by a newer version (it knows {', '.join(sorted(unknown))}); upgrade mdmf"
        )
    return [name for name in steps if name not in applied]


def migrate(connection: duckdb.DuckDBPyConnection, source: Traversable = MIGRATIONS) -> list[str]:
    """Brings the schema up to this version, each step in its own transaction; the steps that were taken.

    Raises:
        WarehouseError: as ``pending``; or a step failed, and the warehouse is as it was before that step.
    """
    steps = pending(connection, source)
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)")
    for name in steps:
        try:
            with transaction(connection):
                connection.execute((source / name).read_text())
                connection.execute("INSERT INTO migrations VALUES (?, ?)", [name, datetime.now(UTC)])
        except duckdb.Error as error:
            raise WarehouseError(f"migration {name} failed, the warehouse is as before it: {error}") from error
    return steps


def query(warehouse: str, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
    """The result of one read-only query as a frame."""
    with connect(warehouse, read_only=True) as connection:
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
