"""Finished parts into the warehouse: one short transaction per group, exactly once."""

from datetime import UTC, datetime

import duckdb

from mdmf_core.digests import digest_of, short_id
from mdmf_core.errors import WarehouseError
from tasks.parts import ShardOutcome, WorkKey
from tasks.warehouse import connect, transaction

# Of shard, key and content: the same member has the same id in every run.
_IMAGE_ID = "left(sha256(concat_ws(chr(0), '{shard}', key, p.sha256)), 32)::UUID"


def shard_id(outcome: ShardOutcome) -> str:
    """UUID of URL, size and content digest; of the URL alone for a shard that was not read to its end."""
    return str(short_id(digest_of({"url": outcome.url, "size": outcome.size_bytes, "digest": outcome.digest})))


def land(warehouse: str, outcomes: list[ShardOutcome], key: WorkKey) -> None:
    """Lands every outcome in one transaction; landing the same ones again changes nothing.

    Raises:
        WarehouseError: a part does not add up to its outcome; nothing of the group is landed.
    """
    ids = [str(short_id(digest)) for digest in (key.scorer_id, key.bank_id, key.calibration_id)]
    with connect(warehouse) as connection, transaction(connection):
        for outcome in outcomes:
            _land_shard(connection, outcome, ids)


def _land_shard(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, ids: list[str]) -> None:
    shard = shard_id(outcome)
    same_key = "scorer_id = ? AND bank_id = ? AND calibration_id = ?"
    # An earlier deferral or failure of this URL is over, whatever comes now; so is an earlier landing of the same content.
    connection.execute(
        f"DELETE FROM shards WHERE url = ? AND (state <> 'complete' OR shard_id = ?) AND {same_key}", [outcome.url, shard, *ids]
    )
    if outcome.state == "complete":
        for table in ("scores", "exclusions"):
            connection.execute(f"DELETE FROM {table} WHERE shard_id = ? AND {same_key}", [shard, *ids])
        connection.execute("DELETE FROM images WHERE shard_id = ?", [shard])
        _insert_rows(connection, outcome, shard, ids)
        _supersede(connection, outcome.url, shard, ids)
    connection.execute(
        "INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, false, ?, ?, ?, ?, ?, ?, ?, ?)",
        [shard, outcome.url, outcome.kind, outcome.digest, outcome.size_bytes, outcome.fingerprint, outcome.state,
         outcome.reason, outcome.members, outcome.scored, outcome.excluded, *ids, outcome.run_id, outcome.seconds,
         datetime.now(UTC), outcome.generation, outcome.part_sha256],
    )  # fmt: skip


def _insert_rows(connection: duckdb.DuckDBPyConnection, outcome: ShardOutcome, shard: str, ids: list[str]) -> None:
    image_id = _IMAGE_ID.format(shard=shard)
    part = [outcome.part]
    # A sidecar that is not JSON travels as a JSON string, so that a foreign file cannot stop a commit.
    connection.execute(
        f"INSERT INTO images SELECT {image_id}, '{shard}', key, p.sha256, format, width, height, bytes, locator, jpeg_quality, "
        "border_px, resized, caption, url, CASE WHEN json_valid(sidecar) THEN sidecar::JSON ELSE to_json(sidecar) END "
        "FROM read_parquet(?) p WHERE format IS NOT NULL",
        part,
    )
    scored = connection.execute(
        f"INSERT INTO scores SELECT {image_id}, '{shard}', ?, ?, ?, ?, score, mmd2, cross_term, self_term, top_k, top_patch, "
        "patches, p_value, domain, in_support, scored_at, CASE WHEN contains(url, '://') THEN split_part(url, '/', 3) END "
        "FROM read_parquet(?) p WHERE reason IS NULL",
        [*ids, outcome.run_id, *part],
    ).fetchall()[0][0]
    excluded = connection.execute(
        f"INSERT INTO exclusions SELECT '{shard}', key, {image_id}, reason, detail, ?, ?, ?, ? FROM read_parquet(?) p "
        "WHERE reason IS NOT NULL",
        [*ids, outcome.run_id, *part],
    ).fetchall()[0][0]
    if (scored, excluded, scored + excluded) != (outcome.scored, outcome.excluded, outcome.members):
        raise WarehouseError(
            f"{outcome.url}: the part holds {scored} scored and {excluded} excluded members, the reader counted "
            f"{outcome.members} = {outcome.scored} + {outcome.excluded}; nothing landed"
        )


def _supersede(connection: duckdb.DuckDBPyConnection, url: str, shard: str, ids: list[str]) -> None:
    """Older content of this URL, and slices of a folder that has since been cut into another number of them."""
    folder, _, slice_name = url.partition("#slice=")
    count = slice_name.partition("of")[2]
    connection.execute(
        "UPDATE shards SET superseded = true WHERE shard_id <> ? AND scorer_id = ? AND bank_id = ? AND calibration_id = ? "
        "AND (url = ? OR (? <> '' AND starts_with(url, ? || '#slice=') AND NOT ends_with(url, 'of' || ?)))",
        [shard, *ids, url, slice_name, folder, count],
    )
