"""Opening a warehouse as DuckDB's database `warehouse`: the embedded file when its turn comes, a lake at once."""

import logging
import os
import re
import tempfile
from pathlib import Path

import duckdb
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from mdmf_core.errors import WarehouseError, WarehouseHeld
from tasks.warehouse.address import Address, Embedded
from tasks.warehouse.extensions import load_for

# Readable by the DuckDB shells of 1.5 and 2.x alike.
STORAGE_VERSION = "v1.5.0"
_NOTICE = 15.0  # seconds between two lines that say what is waited for
_PAUSE = wait_random_exponential(multiplier=0.1, exp_base=1.5, max=3.0)  # seconds between two tries
_HOLDER = re.compile(r"held in (?P<program>.+) \(PID (?P<pid>\d+)\)")


def quoted(text: str) -> str:
    """Returns text as an SQL literal, for statements in which no parameter can be bound."""
    return "'" + text.replace("'", "''") + "'"


def open_in_turn(where: Address, read_only: bool, patience: float, snapshot: int | None = None) -> duckdb.DuckDBPyConnection:
    """A connection that uses the warehouse.

    Args:
        snapshot: number of the lake's snapshot to see; the newest by default.

    Raises:
        WarehouseError: it cannot be opened.
        WarehouseHeld: others held it for longer than ``patience`` seconds.
    """
    notice, file = 0.0, os.path.basename(where.name)

    def say_who_holds_it(state: RetryCallState) -> None:
        nonlocal notice
        waited = state.seconds_since_start or 0.0
        if waited >= notice:
            notice = waited + _NOTICE
            said = "%s holds %s; waiting for it, %.0f s so far, %.0f s at most"
            logger().warning(said, _holder(state.outcome.exception() if state.outcome else None), file, waited, patience)

    tries = Retrying(
        retry=retry_if_exception(lambda error: _holder(error) is not None),
        wait=lambda state: min(_PAUSE(state), patience - (state.seconds_since_start or 0.0)),  # the last look is at its end
        stop=stop_after_delay(patience),
        before_sleep=say_who_holds_it,
        reraise=True,
    )
    try:
        return tries(_open, where, read_only, snapshot)
    except duckdb.Error as error:
        holder = _holder(error)
        if holder is None:
            reason = str(error).splitlines()[0]
            raise WarehouseError(f"cannot open warehouse {where.name}: {advice(str(error))} ({reason})") from error
        raise WarehouseHeld(
            f"cannot open warehouse {where.name}: {holder} has held it for {patience:.0f} s, as long as this waits; "
            "close it and run again. Nothing is lost: the next run lands the parts that are finished"
        ) from error


def _open(where: Address, read_only: bool, snapshot: int | None) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    try:
        attach(connection, where, "warehouse", read_only, snapshot)
        connection.execute("USE warehouse")
        beside = where.path + ".tmp" if isinstance(where, Embedded) else os.path.join(tempfile.gettempdir(), "mdmf.tmp")
        connection.execute(f"SET temp_directory = {quoted(beside)}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")  # DuckDB 1.5 draws one into the output of any program
    except BaseException:
        connection.close()
        raise
    return connection


def attach(
    connection: duckdb.DuckDBPyConnection, where: Address, name: str, read_only: bool, snapshot: int | None = None
) -> None:
    """Attaches a warehouse under a name.

    Raises:
        WarehouseError: a lake's extensions are not to be had.
    """
    if isinstance(where, Embedded):
        options = "READ_ONLY" if read_only else f"STORAGE_VERSION '{STORAGE_VERSION}'"
        connection.execute(f"ATTACH {quoted(where.path)} AS {name} ({options})")
        return
    load_for(connection, where)
    # A commit that came second is not to be played after the first: what it read may no longer be so. `commit` runs it again.
    connection.execute("SET ducklake_max_retry_count = 0")
    options = f"DATA_PATH {quoted(where.data)}" + (", READ_ONLY" if read_only else "")
    if where.kind == "sqlite":
        options += f", META_BUSY_TIMEOUT {_BUSY}" + ("" if read_only else ", META_JOURNAL_MODE 'WAL'")
    if snapshot is not None:
        options += f", SNAPSHOT_VERSION {snapshot}"
    connection.execute(f"ATTACH {quoted(f'ducklake:{where.kind}:{where.catalog}')} AS {name} ({options})")


_BUSY = 2000  # milliseconds for which SQLite waits by itself


def exists(where: Address) -> bool:
    """Tells whether the warehouse, or at least its file, is there.

    Raises:
        WarehouseError: a lake's catalog does not answer.
    """
    if isinstance(where, Embedded):
        return os.path.exists(where.path)
    if where.kind == "sqlite":
        return os.path.exists(where.catalog)
    with duckdb.connect() as connection:
        load_for(connection, where)
        source = quoted(f"ducklake:postgres:{where.catalog}")
        try:
            connection.execute(f"ATTACH {source} AS probe (CREATE_IF_NOT_EXISTS false, DATA_PATH {quoted(where.data)})")
        except duckdb.InvalidInputException as error:
            if "does not exist" in str(error):
                return False
            raise WarehouseError(f"cannot open warehouse {where.name}: {advice(str(error))} ({error})") from error
        except duckdb.Error as error:
            raise WarehouseError(f"cannot open warehouse {where.name}: {advice(str(error))} ({error})") from error
    return True


def is_lake(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the warehouse of this connection is a lake."""
    found = connection.execute("SELECT type FROM duckdb_databases() WHERE database_name = 'warehouse'").fetchall()
    return found == [("ducklake",)]


_ADVICE = {
    "read-only file system": "its disk is read-only; make it writable, or choose another place",
    "connection refused": "no PostgreSQL answers there; check host and port, or start it",
    "no password supplied": "give the password by PGPASSWORD, or by ~/.pgpass",
    "authentication failed": "PostgreSQL refuses the password; it comes from PGPASSWORD, or from ~/.pgpass",
    "does not match existing data path": "its catalog knows another data folder; name that one",
    "no snapshot found": "that snapshot is not there, or has expired",
}


def advice(said: str) -> str:
    """Says what to do about an error of DuckDB, SQLite or PostgreSQL."""
    if 'database "' in said and "does not exist" in said:
        return "PostgreSQL has no such database; make it with createdb"
    return next((advice for words, advice in _ADVICE.items() if words in said.lower()), "check the path and its permissions")


def _holder(error: BaseException | None) -> str | None:
    """Who holds the warehouse, in words; None when the error is another one."""
    if not isinstance(error, duckdb.Error):
        return None
    said = str(error)
    if "already attached" in said or "different configuration" in said:
        return f"this process itself (PID {os.getpid()}), by another connection,"
    if "database is locked" in said:
        return "another writer of the catalog"
    if "too many clients" in said or "remaining connection slots" in said:
        return "the number of other clients of PostgreSQL"
    found = _HOLDER.search(said)
    if found is None:
        return "another process" if "Could not set lock" in said else None
    process = Path("/proc", found["pid"])
    try:
        # On a shared disk the number may be another host's: the name is told only where program and number fit.
        name = (process / "comm").read_text().strip() if str((process / "exe").readlink()) == found["program"] else ""
    except OSError:
        name = ""
    return f"process {found['pid']} ({name or found['program']})"


def logger() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    """Returns the run's log inside a run, the standard one elsewhere."""
    from prefect import get_run_logger  # seconds to load: not for a query of the command line
    from prefect.exceptions import MissingContextError

    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("mdmf")
