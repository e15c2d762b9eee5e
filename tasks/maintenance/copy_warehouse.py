"""A warehouse copied from one kind to another: from the embedded file into a lake, and back."""

from dataclasses import dataclass
from functools import partial
from shlex import quote

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.maintenance.backup import backup
from tasks.maintenance.content_digest import content_digest, table_digests, table_names
from tasks.warehouse.attach import attach
from tasks.warehouse.commits import commit
from tasks.warehouse.migrations import migrate, pending
from tasks.warehouse.warehouse import WRITER_PATIENCE, Warehouse


@dataclass(frozen=True)
class CopiedWarehouse:
    """A copy that was compared with its original, table by table."""

    rows: int
    content_digest: str


def copy_warehouse(source: Warehouse, target: Warehouse) -> CopiedWarehouse:
    """Copies every row of ``source`` to a new warehouse at ``target``, in one transaction. Parts stay where they are.

    Raises:
        WarehouseError: no warehouse at ``source``, or not of this version; ``target`` holds rows already; or the copy differs.
    """
    source.require()
    if source == target:
        raise WarehouseError(f"{target} is the warehouse itself; name another place")
    if not target.is_lake and target.exists():
        raise WarehouseError(f"{target} exists; name another file")
    if not source.is_lake and not target.is_lake:
        backup(source, target.spelled)
    else:
        _across(source, target)
    with source.connect(read_only=True, patience=WRITER_PATIENCE, any_version=True) as connection:
        expected = table_digests(connection)
    with target.connect(read_only=True, any_version=True) as connection:
        found = table_digests(connection)
        different = sorted({name for name, _ in found.items() ^ expected.items()})
        if different:
            raise WarehouseError(f"the copy at {target} differs from {source} in {', '.join(different)}: did somebody write?")
        return CopiedWarehouse(sum(digest.rows for digest in found.values()), content_digest(connection))


def _across(source: Warehouse, target: Warehouse) -> None:
    with source.connect(read_only=True, patience=WRITER_PATIENCE, any_version=True) as connection:
        missing = pending(connection)
    if missing:
        raise WarehouseError(
            f"{source} lacks {', '.join(missing)}; run `mdmf migrate --warehouse {quote(source.spelled)}` first"
        )
    with target.connect() as connection:
        migrate(connection)
        held = [name for name, digest in table_digests(connection).items() if digest.rows and name != "migrations"]
        if held:
            raise WarehouseError(f"{target} holds rows already, in {', '.join(held)}; name an empty place")
        attach(connection, source.address, "source", read_only=True)
        commit(connection, partial(_fill, connection))


def _fill(connection: duckdb.DuckDBPyConnection) -> None:
    """Fills every table of the warehouse from the source's table of that name; call it in a transaction."""
    connection.execute("DELETE FROM migrations")
    for table in table_names(connection):
        connection.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM source."{table}"')
