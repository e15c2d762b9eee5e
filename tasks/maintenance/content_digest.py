"""Digests of what the warehouse holds, whatever the order, the run and the time in which it was written."""

from typing import NamedTuple

import duckdb

from mdmf_core.digests import digest_of

# Everything that must not depend on when, where, in which run or in which order a row was made. Reviews are not in it: they are
# what people add to it, so that the same images curated anew still have the same digest.
_CONTENT = {
    "images": "SELECT * FROM images",
    "scores": "SELECT * EXCLUDE (run_id, scored_at) FROM scores",
    "exclusions": "SELECT * EXCLUDE (run_id) FROM exclusions",
    "shards": "SELECT shard_id, url, digest, state, members, scored, excluded, superseded, scorer_id, bank_id, calibration_id "
    "FROM shards",
}
# md5 rather than DuckDB's own hash, which may change with its version. Summed, so that a doubled row counts twice.
ROW_HASH = "md5_number_lower(to_json({row})::VARCHAR)"


class RowsDigest(NamedTuple):
    """Number and summed 64-bit hashes of some rows. Their order does not matter; a doubled or missing row does."""

    rows: int = 0
    total: int = 0


def rows_digest(connection: duckdb.DuckDBPyConnection, select: str) -> RowsDigest:
    """Returns the digest of a query's rows, read in one pass."""
    row_hash = ROW_HASH.format(row="r")
    return RowsDigest(*connection.execute(f"SELECT count(*), coalesce(sum({row_hash}), 0) FROM ({select}) r").fetchall()[0])


def content_digest(connection: duckdb.DuckDBPyConnection) -> str:
    """Returns a sha256 (hex) over images, scores, exclusions and shards, equal for warehouses that hold equal facts."""
    return digest_of({table: rows_digest(connection, select) for table, select in _CONTENT.items()})


def table_digests(connection: duckdb.DuckDBPyConnection) -> dict[str, RowsDigest]:
    """Returns the digest of every table with all its columns; only a faithful copy has equal ones."""
    return {table: rows_digest(connection, f'SELECT * FROM "{table}"') for table in table_names(connection)}


def table_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Returns the names of all tables, sorted."""
    rows = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()").fetchall()
    return sorted(name for (name,) in rows)
