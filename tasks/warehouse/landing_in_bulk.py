"""Shards that a lake has never seen, landed together: a few statements, and one file for each table, for all of them."""

from collections import Counter
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from mdmf_core.collections.folder import slice_of
from mdmf_core.errors import WarehouseError
from tasks.parts.outcome import ShardOutcome
from tasks.warehouse.part_rows import from_part, shard_id

_ASKED = pa.schema([(name, pa.string()) for name in ("shard_id", "url", "folder")])
_KEY = "?::UUID AS scorer_id, ?::UUID AS bank_id, ?::UUID AS calibration_id"
# The columns of the table of shards that an outcome fills as they are.
_FACTS = (
    "kind",
    "digest",
    "size_bytes",
    "fingerprint",
    "members",
    "scored",
    "excluded",
    "seconds",
    "generation",
    "part_sha256",
)


def fresh(connection: duckdb.DuckDBPyConnection, outcomes: list[ShardOutcome], ids: list[str]) -> list[ShardOutcome]:
    """Returns the complete outcomes without a row in the warehouse: they replace nothing and share no image with other keys."""
    complete = [outcome for outcome in outcomes if outcome.state == "complete"]
    rows = [
        {"shard_id": shard_id(each), "url": each.url, "folder": slice_of(each.url)[0] if each.kind == "folder" else None}
        for each in complete
    ]
    connection.register("asked", pa.Table.from_pylist(rows, schema=_ASKED))
    known = connection.execute(
        "SELECT DISTINCT a.url FROM asked a JOIN shards s ON s.shard_id = a.shard_id::UUID "
        "OR (s.scorer_id = ? AND s.bank_id = ? AND s.calibration_id = ? "
        "AND (s.url = a.url OR starts_with(s.url, a.folder || '#slice=')))",
        ids,
    ).fetchall()
    connection.unregister("asked")
    times = Counter(outcome.url for outcome in outcomes)
    return [outcome for outcome in complete if (outcome.url,) not in known and times[outcome.url] == 1]


def land_fresh(connection: duckdb.DuckDBPyConnection, outcomes: list[ShardOutcome], ids: list[str]) -> None:
    """Inserts the rows of outcomes that ``fresh`` returned; call it in a transaction.

    Raises:
        WarehouseError: a part does not add up to its outcome.
    """
    if not outcomes:
        return
    for table in ("images", "scores", "exclusions"):
        parts = " UNION ALL BY NAME ".join(
            f"SELECT *, '{shard_id(each)}'::UUID AS shard_id, '{each.run_id}'::UUID AS run_id FROM ({from_part(table, each)})"
            for each in outcomes
        )
        if table == "images":
            connection.execute(f"INSERT INTO images BY NAME SELECT * EXCLUDE (run_id) FROM ({parts})")
        else:
            connection.execute(f"INSERT INTO {table} BY NAME SELECT *, {_KEY} FROM ({parts})", ids)
    _require_all(connection, outcomes)
    _insert_shards(connection, outcomes, ids)


def _require_all(connection: duckdb.DuckDBPyConnection, outcomes: list[ShardOutcome]) -> None:
    """Compares each part with the counts that its reader took."""
    counted = " UNION ALL ".join(
        f"SELECT '{shard_id(each)}', (SELECT count(*) FROM ({from_part('scores', each)})), "
        f"(SELECT count(*) FROM ({from_part('exclusions', each)}))"
        for each in outcomes
    )
    found = {shard: counts for shard, *counts in connection.execute(counted).fetchall()}
    for each in outcomes:
        scored, excluded = found[shard_id(each)]
        if (scored, excluded, scored + excluded) != (each.scored, each.excluded, each.members):
            raise WarehouseError(
                f"{each.url}: the part holds {scored} scored and {excluded} excluded members, the reader counted "
                f"{each.members} = {each.scored} + {each.excluded}; nothing landed"
            )


def _insert_shards(connection: duckdb.DuckDBPyConnection, outcomes: list[ShardOutcome], ids: list[str]) -> None:
    now = datetime.now(UTC)
    rows = [
        {"shard_id": shard_id(each), "url": each.url, "run_id": each.run_id, "committed_at": now}
        | {name: getattr(each, name) for name in _FACTS}
        for each in outcomes
    ]
    connection.register("landing", pa.Table.from_pylist(rows))
    connection.execute(
        "INSERT INTO shards BY NAME SELECT * REPLACE (shard_id::UUID AS shard_id, run_id::UUID AS run_id), "
        f"'complete' AS state, false AS superseded, {_KEY} FROM landing",
        ids,
    )
    connection.unregister("landing")
