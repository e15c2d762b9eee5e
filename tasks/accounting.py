"""What the warehouse says of some shards."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from mdmf_core.records import Shard
from tasks.parts import WorkKey


def accounted(connection: duckdb.DuckDBPyConnection, shards: Sequence[Shard], key: WorkKey) -> dict[str, int]:
    """How many of these shards, with just this content, are complete, deferred and failed; their members."""
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
