"""The warehouse's schema, brought up to date step by step; one list of steps serves the embedded file and a lake."""

import re
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.warehouse.attach import is_lake
from tasks.warehouse.commits import commit

MIGRATIONS: Traversable = files("warehouse")
# A step is SQL of an embedded warehouse as it stands. A lake has no CHECKs, and comments on tables, their columns and views
# alone; what it takes in place of that, or besides, follows `-- lake:`.
_NOT_IN_A_LAKE = re.compile(r"^.*-- embedded only$|^COMMENT ON MACRO .*;$", re.MULTILINE)
_IN_A_LAKE = re.compile(r"^(\s*)-- lake: ", re.MULTILINE)


def pending(connection: duckdb.DuckDBPyConnection, source: Traversable = MIGRATIONS) -> list[str]:
    """Returns the migrations that the warehouse still lacks, in order; all of them for an empty one.

    Raises:
        WarehouseError: the warehouse was written by a newer version, or the file is somebody else's database.
    """
    steps = sorted(entry.name for entry in source.iterdir() if entry.name.endswith(".sql"))
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()").fetchall()
    if tables and ("migrations",) not in tables:
        raise WarehouseError(
            f"this is no mdmf warehouse: it holds other tables ({', '.join(sorted(t for (t,) in tables)[:5])})"
        )
    applied = _applied(connection) if tables else set()
    unknown = applied - set(steps)
    if unknown:
        raise WarehouseError(
            f"the warehouse was written by a newer version (it knows {', '.join(sorted(unknown))}); upgrade mdmf"
        )
    return [name for name in steps if name not in applied]


def migrate(connection: duckdb.DuckDBPyConnection, source: Traversable = MIGRATIONS) -> list[str]:
    """Brings the schema up to this version, each step in its own transaction, and returns the steps that were taken.

    Raises:
        WarehouseError: as ``pending``; or a step failed, and the warehouse is as it was before that step.
    """
    steps = pending(connection, source)
    if not steps:
        return []
    table = "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)"
    commit(connection, partial(connection.execute, table))
    taken = []
    for name in steps:
        try:
            if commit(connection, partial(_take, connection, source, name)):
                taken.append(name)
        except duckdb.Error as error:
            raise WarehouseError(f"migration {name} failed, the warehouse is as before it: {error}") from error
    return taken


def _take(connection: duckdb.DuckDBPyConnection, source: Traversable, name: str) -> bool:
    """Takes one step; False where another writer of a lake has taken it meanwhile."""
    if name in _applied(connection):
        return False
    sql = (source / name).read_text()
    connection.execute(_IN_A_LAKE.sub(r"\1", _NOT_IN_A_LAKE.sub("", sql)) if is_lake(connection) else sql)
    connection.execute("INSERT INTO migrations VALUES (?, ?)", [name, datetime.now(UTC)])
    return True


def _applied(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM migrations").fetchall()}
