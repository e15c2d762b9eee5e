"""The finished parts of the newest run as views, for questions while the warehouse is being written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.parts.part_files import finished_part
from tasks.parts.store import store_of
from tasks.storage.filesystems import is_remote, open_storage
from tasks.warehouse.attach import quoted
from tasks.warehouse.warehouse import Warehouse

_ACCOUNTING = """
CREATE TABLE accounting AS
  SELECT o->>'url' AS url, (o->>'members')::BIGINT AS members, (o->>'scored')::BIGINT AS scored,
         (o->>'excluded')::BIGINT AS excluded, (o->>'size_bytes')::BIGINT AS size_bytes, (o->>'seconds')::DOUBLE AS seconds,
         (o->>'run_id')::UUID AS run_id, file_name AS part
  FROM (SELECT file_name, decode(value)::JSON AS o FROM parquet_kv_metadata(?) WHERE decode(key) = 'mdmf')
  WHERE o->>'run_id' = ?
"""
_VIEWS = """
CREATE VIEW scored AS
  SELECT p.* EXCLUDE (part, reason, detail, sidecar), TRY_CAST(sidecar AS JSON) AS sidecar, a.url AS shard_url, a.run_id
  FROM read_parquet({parts}, filename = 'part', union_by_name = true) p JOIN accounting a USING (part) WHERE reason IS NULL;
CREATE VIEW excluded AS
  SELECT p.key, p.reason, p.detail, a.url AS shard_url, a.run_id
  FROM read_parquet({parts}, filename = 'part', union_by_name = true) p JOIN accounting a USING (part) WHERE reason IS NOT NULL;
"""


@contextmanager
def connect_parts(warehouse: Warehouse) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens a database in memory with the views `scored`, `excluded` and `accounting` over what the newest run has finished.

    The warehouse itself is not opened, so this neither waits for a commit nor holds one up. Shards of the run that are
    landed already are among these rows; shards of earlier runs are not.

    Raises:
        WarehouseError: there are no parts.
    """
    folder = os.path.join(warehouse.parts, "scores")
    found = [entry for entry in store_of(folder).entries(folder) if entry.path.endswith(".parquet")]
    if not found:
        raise WarehouseError(f"no finished parts in {folder}; ask the warehouse itself")
    newest = finished_part(max(found, key=lambda entry: entry.changed).path)
    with duckdb.connect() as connection:
        if is_remote(folder):
            connection.register_filesystem(open_storage(folder)[0])  # reads their ends, and then the columns that are asked for
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_ACCOUNTING, [[entry.path for entry in found], newest and newest.run_id])
        parts = [path for (path,) in connection.execute("SELECT part FROM accounting").fetchall()]
        connection.execute(_VIEWS.format(parts=f"[{', '.join(map(quoted, parts))}]"))
        yield connection
