"""A host that works off shards until all are complete: leases and parts in an object store, the warehouse shared."""

import sys
from functools import partial

import tasks.work
from tasks.kit import ScoringKit
from tasks.landing import generations, land
from tasks.leases import acquire, owner, release
from tasks.parts import Work, work_name
from tasks.runs import still_to_do
from tasks.scorers import load_kit
from tasks.shards import list_shards
from tasks.warehouse import connect
from tasks.work import work_off

EXPIRY = 3.0  # seconds, so that a test need not wait for a minute


def one_round(warehouse: str, parts: str, source: str, kit: ScoringKit, name: str) -> bool:
    """Does what nobody else is at; whether everything is complete."""
    shards = list_shards(source, 1000)
    with connect(warehouse) as connection:
        waiting, _ = still_to_do(connection, shards, kit.key)
    for work in waiting:
        with connect(warehouse) as connection:
            floor = generations(connection, kit.key).get(work.shard.url, 0)
        print("at", work.shard.url, flush=True)
        outcome = work_off(
            Work(work.shard, floor),
            kit,
            parts,
            f"{parts}/leases",
            name,
            None,
            lambda images: print("scored", images, flush=True),
        )
        if outcome.state == "elsewhere":
            continue
        land(warehouse, [outcome], kit.key)
        release(f"{parts}/leases", work_name(work.shard.url, kit.key), outcome.generation)
        print("landed", work.shard.url, outcome.generation, flush=True)
    return not waiting


if __name__ == "__main__":
    warehouse, parts, source, scorer, bank, run = sys.argv[1:]
    tasks.work.acquire = partial(acquire, expiry=EXPIRY)
    with owner(f"{parts}/leases", run, heartbeat=0.5) as name:
        kit = load_kit(scorer, bank, "cpu", 8, 1, None)
        while not one_round(warehouse, parts, source, kit, name):
            pass
