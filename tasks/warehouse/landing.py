"""Finished parts into the warehouse: one short transaction per shard, in a lake per group of shards, exactly once."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

import duckdb

from mdmf_core.collections.folder import slice_of
from mdmf_core.errors import PartDamaged, WarehouseError, WarehouseHeld
from tasks.parts.outcome import ShardOutcome, WorkKey
from tasks.parts.part_files import at_hand
from tasks.warehouse.attach import is_lake
from tasks.warehouse.commits import Note, commit
from tasks.warehouse.landing_in_bulk import fresh, land_fresh
from tasks.warehouse.part_rows import from_part, shard_id
from tasks.warehouse.warehouse import LANDING_PATIENCE, Warehouse


def generations(connection: duckdb.DuckDBPyConnection, key: WorkKey) -> dict[str, int]:
    """Returns the number of the newest lease that landed anything under this key, by URL."""
    return dict(
        connection.execute(
            "SELECT url, coalesce(max(generation), 0) FROM shards "
            "WHERE scorer_id = ? AND bank_id = ? AND calibration_id = ? GROUP BY url",
            key.ids,
        ).fetchall()
    )


def land(warehouse: Warehouse, outcomes: list[ShardOutcome], key: WorkKey, patience: float = LANDING_PATIENCE) -> list[str]:
    """Lands each outcome in a transaction of its own; landing an outcome again changes nothing.

    A lake takes all of them in one: each of its transactions makes files, and no two of them overlap.

    Returns:
        URLs of shards that another run took over and landed meanwhile; their rows stay.

    Raises:
        WarehouseError: parts that cannot be read or do not add up to their outcomes. All others are landed, nothing of those.
        WarehouseHeld: others held the warehouse for longer than ``patience`` seconds; the next run lands the parts.
    """
    overtaken: list[str] = []
    refused: list[str] = []
    with ExitStack() as stack:
        waiting = []
        for outcome in outcomes:
            try:
                if outcome.state != "elsewhere":
                    waiting.append(stack.enter_context(at_hand(outcome)))
            except PartDamaged as error:
                refused.append(str(error))
        connection = stack.enter_context(warehouse.connect(patience=patience))  # last: others wait for it, not for a store
        together = [waiting] if is_lake(connection) and waiting else [[outcome] for outcome in waiting]
        for group in together:
            for found in _landed(connection, group, key.ids, patience):
                (refused if isinstance(found, WarehouseError) else overtaken).append(str(found))
    if refused:
        raise WarehouseError("; ".join(refused))
    return overtaken


def _landed(
    connection: duckdb.DuckDBPyConnection, group: list[ShardOutcome], ids: list[str], patience: float
) -> Iterator[str | WarehouseError]:
    """Lands outcomes in one transaction, or each in its own where one cannot; yields the overtaken and the refused."""
    note = Note(group[0].run_id, f"{len(group)} shards landed")
    try:
        yield from commit(connection, partial(_land_all, connection, group, ids), note, patience)
        return
    except WarehouseHeld:
        raise
    except WarehouseError as error:
        refused = error
    except duckdb.Error as error:
        if isinstance(error, duckdb.FatalException) or "No space left" in str(error):
            raise
        outcome = group[0]
        refused = WarehouseError(f"{outcome.url}: its part {outcome.part} cannot be landed ({str(error).splitlines()[0]})")
    if len(group) == 1:
        yield refused
        return
    for outcome in group:
        yield from _landed(connection, [outcome], ids, patience)


def _land_all(connection: duckdb.DuckDBPyConnection, group: list[ShardOutcome], ids: list[str]) -> list[str]:
    """Lands outcomes, in the caller's transaction, and returns the URLs of those that another run landed meanwhile."""
    overtaken: list[str] = []
    if is_lake(connection):
        new = fresh(connection, group, ids)
        land_fresh(connection, new, ids)
        group = [outcome for outcome in group if outcome not in new]
    for outcome in group:
        if _overtaken(connection, outcome, ids):
            overtaken.append(outcome.url)
        elif outcome.state == "complete" or not _is_whole(connection, outcome, ids):
            land_shard(connection, outcome, ids)
    return overtaken


_SAME_KEY = "scorer_id = ? AND bank_id = ? AND calibration_id = ?"


def _overtaken(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, ids: list[str]) -> bool:
    """Tells whether rows of a later lease are there: then this writer's own lease expired before it landed.

    Rows of other content under an equal number count too. A number is given twice when a run plans before another lands; the
    content that landed first stays, and the next run's listing tells which of the two is in the store.
    """
    sql = (
        f"SELECT count(*) FROM shards WHERE url = ? AND {_SAME_KEY} "
        "AND (generation > ? OR (generation = ? AND ? > 0 AND (size_bytes <> ? OR fingerprint <> ?)))"
    )
    number, content = outcome.generation, (outcome.size_bytes, outcome.fingerprint)
    found: int = connection.execute(sql, [outcome.url, *ids, number, number, number, *content]).fetchall()[0][0]
    return found > 0


def _is_whole(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, ids: list[str]) -> bool:
    """Tells whether this content has landed already, so that a later attempt at it which failed changes nothing."""
    sql = (
        f"SELECT count(*) FROM shards WHERE url = ? AND {_SAME_KEY} AND state = 'complete' AND NOT superseded "
        "AND size_bytes = ? AND fingerprint = ?"
    )
    found: int = connection.execute(sql, [outcome.url, *ids, outcome.size_bytes, outcome.fingerprint]).fetchall()[0][0]
    return found > 0


def land_shard(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, ids: list[str]) -> None:
    """Replaces what the warehouse holds of this shard under these ids by the outcome; call it in a transaction."""
    shard = shard_id(outcome)
    if outcome.state == "complete":
        _remove_earlier(connection, outcome, shard, ids)
        _insert_rows(connection, outcome, shard, ids)
        _supersede(connection, outcome, shard, ids)
    # An earlier deferral or failure of this URL is over, whatever comes now.
    connection.execute(f"DELETE FROM shards WHERE url = ? AND state <> 'complete' AND {_SAME_KEY}", [outcome.url, *ids])
    connection.execute(
        "INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, false, ?, ?, ?, ?, ?, ?, ?, ?)",
        [shard, outcome.url, outcome.kind, outcome.digest, outcome.size_bytes, outcome.fingerprint, outcome.state,
         outcome.reason, outcome.members, outcome.scored, outcome.excluded, *ids, outcome.run_id, outcome.seconds,
         datetime.now(UTC), outcome.generation, outcome.part_sha256],
    )  # fmt: skip


def _remove_earlier(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, shard: str, ids: list[str]) -> None:
    """Removes what was landed of this content, or of what a listing took for it before the shard was read to its end."""
    earlier = connection.execute(
        f"SELECT DISTINCT shard_id::VARCHAR FROM shards WHERE url = ? AND {_SAME_KEY} AND state = 'complete' "
        "AND size_bytes = ? AND fingerprint = ?",
        [outcome.url, *ids, outcome.size_bytes, outcome.fingerprint],
    ).fetchall()
    for old in {shard, *(old for (old,) in earlier)}:
        for table in ("shards", "scores", "exclusions"):
            connection.execute(f"DELETE FROM {table} WHERE shard_id = ? AND {_SAME_KEY}", [old, *ids])
    # Rows under other keys point to the same images, and to some that were not decoded this time.
    shared = connection.execute("SELECT count(*) FROM shards WHERE shard_id = ?", [shard]).fetchall()[0][0] > 0
    brought = f" AND image_id IN (SELECT image_id FROM ({from_part('images', outcome)}))" if shared else ""
    connection.execute(f"DELETE FROM images WHERE shard_id = ?{brought}", [shard])
    connection.execute(
        "DELETE FROM images WHERE shard_id IN (SELECT unnest(?::UUID[])) AND shard_id NOT IN (SELECT shard_id FROM shards)",
        [[old for (old,) in earlier]],
    )


def _insert_rows(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, shard: str, ids: list[str]) -> None:
    connection.execute(
        f"INSERT INTO images BY NAME SELECT *, ?::UUID AS shard_id FROM ({from_part('images', outcome)})", [shard]
    )
    scored, excluded = (
        connection.execute(
            f"INSERT INTO {table} BY NAME SELECT *, ?::UUID AS shard_id, ?::UUID AS scorer_id, ?::UUID AS bank_id, "
            f"?::UUID AS calibration_id, ?::UUID AS run_id FROM ({from_part(table, outcome)})",
            [shard, *ids, outcome.run_id],
        ).fetchall()[0][0]
        for table in ("scores", "exclusions")
    )
    if (scored, excluded, scored + excluded) != (outcome.scored, outcome.excluded, outcome.members):
        raise WarehouseError(
            f"{outcome.url}: the part holds {scored} scored and {excluded} excluded members, the reader counted "
            f"{outcome.members} = {outcome.scored} + {outcome.excluded}; nothing landed"
        )


def _supersede(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, shard: str, ids: list[str]) -> None:
    """Supersedes older content of this URL, and slices of a folder that has since been cut into another number of them."""
    url = outcome.url
    folder, slice_name = slice_of(url)
    count = slice_name.partition("of")[2]
    connection.execute(
        f"UPDATE shards SET superseded = true WHERE shard_id <> ? AND {_SAME_KEY} "
        "AND (url = ? OR (? <> '' AND kind = 'folder' AND starts_with(url, ? || '#slice=') AND NOT ends_with(url, 'of' || ?)))",
        [shard, *ids, url, slice_name, folder, count],
    )
