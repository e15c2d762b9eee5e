"""What `mdmf verify --repair` does. Nothing here deletes a row that nothing could bring back."""

from dataclasses import replace
from functools import partial

from mdmf_core.collections.folder import slice_of
from mdmf_core.errors import WarehouseError
from tasks.maintenance.recount import LandedShard
from tasks.parts.outcome import ShardOutcome, WorkKey
from tasks.parts.part_files import at_hand
from tasks.parts.store import store_of
from tasks.warehouse.commits import commit
from tasks.warehouse.landing import generations, land, land_shard
from tasks.warehouse.warehouse import Warehouse

_ROW = "shard_id = ? AND scorer_id = ? AND bank_id = ? AND calibration_id = ?"


def land_stray(warehouse: Warehouse, outcome: ShardOutcome, key: WorkKey) -> None:
    """Lands a part that no run landed, above whatever its URL has come to meanwhile, such as a deferral."""
    with warehouse.connect() as connection:
        newest = generations(connection, key).get(outcome.url, 0)
    if land(warehouse, [replace(outcome, generation=newest + 1)], key):
        raise WarehouseError(f"a run landed {outcome.url} just now; its rows stay")


def land_again(warehouse: Warehouse, holding: LandedShard, outcome: ShardOutcome) -> None:
    """Replaces a shard's rows by those of its part; which content of a URL is the newest stays as it was."""
    folder = slice_of(holding.shard.url)[0]

    def replace_rows() -> None:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE before AS "
            "SELECT shard_id, scorer_id, bank_id, calibration_id, bool_and(superseded) AS superseded, "
            "max(committed_at) AS committed_at FROM shards "
            "WHERE state = 'complete' AND (url = ? OR starts_with(url, ? || '#slice=')) GROUP BY ALL",
            [folder, folder],
        )
        land_shard(connection, replace(near, generation=holding.generation or 0), list(holding.ids))
        connection.execute(
            "UPDATE shards SET superseded = b.superseded, committed_at = b.committed_at FROM before b "
            "WHERE (shards.shard_id, shards.scorer_id, shards.bank_id, shards.calibration_id) "
            "= (b.shard_id, b.scorer_id, b.bank_id, b.calibration_id)"
        )

    with at_hand(outcome) as near, warehouse.connect() as connection:
        commit(connection, replace_rows)


def defer(warehouse: Warehouse, holding: LandedShard) -> None:
    """Takes a shard whose rows are wrong out of the views, so that the next curate scores it again."""
    sql = (
        f"UPDATE shards SET state = 'deferred', reason = 'verify: its rows were not whole and no part could restore them' "
        f"WHERE {_ROW}"
    )
    with warehouse.connect() as connection:
        commit(connection, partial(connection.execute, sql, [holding.shard_id, *holding.ids]))


def supersede(warehouse: Warehouse, older: list[LandedShard]) -> None:
    """Leaves the newest content of a URL as the only one that the views show."""

    def mark() -> None:
        for holding in older:
            connection.execute(f"UPDATE shards SET superseded = true WHERE {_ROW}", [holding.shard_id, *holding.ids])

    with warehouse.connect() as connection:
        commit(connection, mark)


def set_aside(path: str) -> None:
    """Renames a damaged part, so that it is in nobody's way and its bytes can still be looked at."""
    store_of(path).rename(path, path + ".damaged")
