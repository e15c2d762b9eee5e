"""What the tables of a warehouse hold of each shard, counted from the rows themselves."""

from dataclasses import dataclass, field
from datetime import datetime

import duckdb

from mdmf_core.records import Shard
from tasks.maintenance.content_digest import ROW_HASH, RowsDigest
from tasks.parts.columns import Table
from tasks.parts.outcome import WorkKey
from tasks.warehouse.part_rows import compared_columns

_MEMORY = "2GB"
_KEY = "shard_id, scorer_id, bank_id, calibration_id"
TABLES: tuple[Table, ...] = ("images", "scores", "exclusions")  # those that parts fill


@dataclass(frozen=True)
class LandedShard:
    """The row of a complete shard under one key, and what the tables hold for it."""

    shard: Shard
    shard_id: str
    ids: tuple[str, str, str]  # of scorer, bank and calibration
    key: WorkKey | None  # None = the registry does not know them
    members: int
    scored: int
    excluded: int
    superseded: bool
    generation: int | None
    part_sha256: str | None
    committed_at: datetime
    rows: int  # complete rows of this shard under this key: one
    repeated: int  # images with more than one row in scores or images
    without_image: int  # scores whose image is not in images
    held: dict[Table, RowsDigest]


@dataclass(frozen=True)
class OrphanRows:
    """Rows that belong to no shard that the warehouse knows."""

    table: str
    shard_id: str
    ids: tuple[str, str, str] | None  # None for images, which belong to no key
    rows: int


@dataclass
class Recount:
    """What a warehouse held at one moment. It grows with the number of shards, not of rows."""

    complete: list[LandedShard]
    orphans: list[OrphanRows]
    keys: list[WorkKey]  # every scorer, bank and calibration that the registry knows
    runs: dict[str, str]  # state by id
    running: list[tuple[str, str, datetime]] = field(default_factory=list)  # id, source, start


def holdings(connection: duckdb.DuckDBPyConnection) -> Recount:
    """Counts and hashes every row once, grouped by shard; groups beyond the memory limit wait on disk."""
    connection.execute(f"SET memory_limit = '{_MEMORY}'")
    for table in TABLES:
        group = "shard_id" if table == "images" else _KEY
        repeated = "0" if table == "exclusions" else "count(*) - count(DISTINCT image_id)"
        connection.execute(
            f"CREATE TEMP TABLE held_{table} AS SELECT {group}, count(*) AS rows, sum({row_hash(table)}) AS total, "
            f"{repeated} AS repeated FROM {table} GROUP BY {group}"
        )
    connection.execute(
        f"CREATE TEMP TABLE bare AS SELECT {_KEY}, count(*) AS rows FROM scores ANTI JOIN images USING (shard_id, image_id) "
        f"GROUP BY {_KEY}"
    )
    registry = {
        ids: WorkKey(*digests)
        for *digests, ids in connection.execute(
            "SELECT s.digest, b.digest, c.digest, (s.scorer_id::VARCHAR, b.bank_id::VARCHAR, c.calibration_id::VARCHAR) "
            "FROM calibrations c JOIN banks b USING (bank_id) JOIN scorers s ON s.scorer_id = b.scorer_id"
        ).fetchall()
    }
    runs = connection.execute("SELECT run_id::VARCHAR, state, source, started_at FROM runs ORDER BY started_at").fetchall()
    return Recount(
        _complete(connection, registry),
        _orphans(connection),
        list(registry.values()),
        {run: state for run, state, *_ in runs},
        [(run, source, started) for run, state, source, started in runs if state == "running"],
    )


def row_hash(table: Table) -> str:
    """Returns the SQL that hashes a table's row over the columns that its part holds too."""
    return ROW_HASH.format(row="{" + ", ".join(f"'{name}': {name}" for name in compared_columns(table)) + "}")


def _complete(connection: duckdb.DuckDBPyConnection, registry: dict[tuple[str, ...], WorkKey]) -> list[LandedShard]:
    rows = connection.execute(
        "SELECT (url, kind, size_bytes, fingerprint), shard_id::VARCHAR, "
        "(scorer_id::VARCHAR, bank_id::VARCHAR, calibration_id::VARCHAR), members, sh.scored, sh.excluded, superseded, "
        f"generation, part_sha256, committed_at, count(*) OVER (PARTITION BY {_KEY}), "
        "coalesce(s.repeated, 0) + coalesce(i.repeated, 0), coalesce(b.rows, 0), "
        "i.rows, i.total, s.rows, s.total, e.rows, e.total "
        f"FROM shards sh LEFT JOIN held_images i USING (shard_id) LEFT JOIN held_scores s USING ({_KEY}) "
        f"LEFT JOIN held_exclusions e USING ({_KEY}) LEFT JOIN bare b USING ({_KEY}) "
        "WHERE state = 'complete' ORDER BY committed_at, url"
    ).fetchall()
    found = []
    for where, shard, ids, *facts in rows:
        sums = facts[-6:]
        held = {table: RowsDigest(sums[2 * n] or 0, sums[2 * n + 1] or 0) for n, table in enumerate(TABLES)}
        found.append(LandedShard(Shard(*where), shard, ids, registry.get(ids), *facts[:-6], held=held))
    return found


def _orphans(connection: duckdb.DuckDBPyConnection) -> list[OrphanRows]:
    found = []
    for table in TABLES:
        by_key = table != "images"
        ids = "(h.scorer_id::VARCHAR, h.bank_id::VARCHAR, h.calibration_id::VARCHAR)" if by_key else "NULL"
        found += connection.execute(
            f"SELECT '{table}', h.shard_id::VARCHAR, {ids}, h.rows FROM held_{table} h "
            f"ANTI JOIN shards USING ({_KEY if by_key else 'shard_id'}) ORDER BY h.shard_id"
        ).fetchall()
    return [OrphanRows(*row) for row in found]
