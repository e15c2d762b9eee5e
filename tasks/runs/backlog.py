"""What a run has left to do: the shards of a source that the warehouse does not hold under the work key."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from mdmf_core.records import Shard
from tasks.collections.listing import iter_shards
from tasks.parts.outcome import Work, WorkKey
from tasks.parts.plans import batched
from tasks.runs.settings import ResolvedSettings
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

_BATCH = 20_000  # shards of a listing that are compared with the warehouse at once


@dataclass
class Tally:
    """Counts the shards that were listed, by what is left to do with them."""

    shards: int = 0
    already_complete: int = 0
    set_aside: int = 0  # failed before with the same bytes
    to_do: int = 0


def left_to_do(settings: ResolvedSettings, tally: Tally) -> Iterator[Work]:
    """Lists the source of a run and gives what is left to do of it; ``tally`` counts what was listed."""
    shards = iter_shards(settings.source, settings.images_per_slice, settings.storage_block)
    return left_of(shards, settings.where, settings.key, settings.max_shards, tally)


def left_of(shards: Iterable[Shard], warehouse: Warehouse, key: WorkKey, most: int | None, tally: Tally) -> Iterator[Work]:
    """Gives what is left to do of a listing, however long; ``tally`` counts all of it.

    The warehouse, which is made or brought up to date, is open for a moment per batch only.

    Args:
        most: shards that are given at most; None = all.
    """
    for number, batch in enumerate(batched(shards, _BATCH)):
        with warehouse.connect(read_only=number > 0) as connection:
            if number == 0:
                migrate(connection)
            work, aside = still_to_do(connection, batch, key)
        tally.shards += len(batch)
        tally.already_complete += len(batch) - len(work) - aside
        tally.set_aside += aside
        chosen = work if most is None else work[: most - tally.to_do]
        tally.to_do += len(chosen)
        yield from chosen


def still_to_do(connection: duckdb.DuckDBPyConnection, shards: list[Shard], key: WorkKey) -> tuple[list[Work], int]:
    """Returns the shards that are not complete under this key with the content listed now, and counts those set aside.

    Set aside are those that failed for what they are: with the same bytes they would fail again, so only `retry` reads them.
    """
    connection.register("listed", pa.table({"url": [shard.url for shard in shards]}))
    rows = connection.execute(
        "SELECT url, size_bytes, fingerprint, NOT superseded AND state = 'complete', "
        "state = 'failed' AND NOT starts_with(reason, 'error:'), coalesce(generation, 0) "
        "FROM shards SEMI JOIN listed USING (url) WHERE scorer_id = ? AND bank_id = ? AND calibration_id = ?",
        key.ids,
    ).fetchall()
    connection.unregister("listed")
    done = {tuple(content) for *content, complete, _, _ in rows if complete}
    aside = {tuple(content) for *content, _, failed, _ in rows if failed}
    newest: dict[str, int] = {}
    for url, *_, generation in rows:
        newest[url] = max(generation, newest.get(url, 0))
    left = [shard for shard in shards if (shard.url, shard.size_bytes, shard.fingerprint) not in done]
    to_do = [shard for shard in left if (shard.url, shard.size_bytes, shard.fingerprint) not in aside]
    return [Work(shard, newest.get(shard.url, 0)) for shard in to_do], len(left) - len(to_do)


def accounted(connection: duckdb.DuckDBPyConnection, shards: Sequence[Shard], key: WorkKey) -> dict[str, int]:
    """Counts how many of these shards, with exactly this content, are complete, deferred and failed, and their members."""
    listed = pa.table(
        {
            "url": [shard.url for shard in shards],
            "size_bytes": [max(shard.size_bytes, 0) for shard in shards],
            "fingerprint": [shard.fingerprint for shard in shards],
        }
    )
    connection.register("listed", listed)
    row = connection.execute(
        "SELECT count(*) FILTER (state = 'complete'), count(*) FILTER (state = 'deferred'), "
        "count(*) FILTER (state = 'failed'), "
        "coalesce(sum(members), 0)::BIGINT, coalesce(sum(scored), 0)::BIGINT, coalesce(sum(excluded), 0)::BIGINT "
        "FROM shards SEMI JOIN listed USING (url, size_bytes, fingerprint) "
        "WHERE NOT superseded AND scorer_id = ? AND bank_id = ? AND calibration_id = ?",
        key.ids,
    ).fetchall()[0]
    connection.unregister("listed")
    return dict(zip(("complete", "deferred", "failed", "members", "scored", "excluded"), row, strict=True))
