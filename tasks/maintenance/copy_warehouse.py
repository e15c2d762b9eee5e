"""A warehouse copied from one kind to another: from the embedded file into a lake, and back."""

from dataclasses import dataclass
from functools import partial

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.maintenance.backup import backup
from tasks.maintenance.content_digest import content_digest, table_digests, table_names
from tasks.warehouse.address import Embedded, address
from tasks.warehouse.attach import attach, exists
from tasks.warehouse.commits import commit
from tasks.warehouse.connect import WRITER_PATIENCE, opened, require_warehouse
from tasks.warehouse.migrations import migrate, pending


@dataclass(frozen=True)
class CopiedWarehouse:
    """A copy that was compared with its original, table by table."""

    rows: int
    content_digest: str


def copy_warehouse(source: str, target: str) -> CopiedWarehouse:
    """Copies every row of ``source`` to a new warehouse at ``target``, in one transaction. Parts stay where they are.

    Raises:
        WarehouseError: no warehouse at ``source``, or not of this version; ``target`` holds rows already; or the copy differs.
    """
    require_warehouse(source)
    origin, goal = address(source), address(target)
    if origin == goal:
        raise WarehouseError(f"{target} is the warehouse itself; name another place")
    if isinstance(goal, Embedded) and exists(goal):
        raise WarehouseError(f"{target} exists; name another file")
    if isinstance(origin, Embedded) and isinstance(goal, Embedded):
        backup(source, target)
    else:
        _across(source, target)
    with opened(source, read_only=True, patience=WRITER_PATIENCE) as connection:
        expected = table_digests(connection)
    with opened(target, read_only=True) as connection:
        found = table_digests(connection)
        different = sorted({name for name, _ in found.items() ^ expected.items()})
        if different:
            raise WarehouseError(f"the copy at {target} differs from {source} in {', '.join(different)}: did somebody write?")
        return CopiedWarehouse(sum(digest.rows for digest in found.values()), content_digest(connection))


def _across(source: str, target: str) -> None:
    with opened(source, read_only=True, patience=WRITER_PATIENCE) as connection:
        missing = pending(connection)
    if missing:
        raise WarehouseError(f"{source} lacks {', '.join(missing)}; run `mdmf migrate --warehouse {source}` first")
    with opened(target, read_only=False) as connection:
        migrate(connection)
        held = [name for name, digest in table_digests(connection).items() if digest.rows and name != "migrations"]
        if held:
            raise WarehouseError(f"{target} holds rows already, in {', '.join(held)}; name an empty place")
        attach(connection, address(source), "source", read_only=True)
        commit(connection, partial(_fill, connection))


def _fill(connection: duckdb.DuckDBPyConnection) -> None:
    """Every table of the warehouse from the one of its name; call it in a transaction."""
    connection.execute("DELETE FROM migrations")
    for table in table_names(connection):
        connection.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM source."{table}"')
