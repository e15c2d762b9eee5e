"""A host that works off shards until all are complete: leases and parts in an object store, the warehouse shared."""

import sys
from functools import partial

import tasks.runs.leased_shard
from tasks.collections.listing import list_shards
from tasks.parts.leases import acquire, owner, release
from tasks.parts.outcome import Work, work_name
from tasks.runs.backlog import still_to_do
from tasks.runs.leased_shard import score_under_lease
from tasks.scoring.loading import load_setup
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.warehouse.landing import generations, land
from tasks.warehouse.warehouse import Warehouse

EXPIRY = 3.0  # seconds, so that a test need not wait for a minute


def one_round(warehouse: str, parts: str, source: str, setup: ScoringSetup, name: str) -> bool:
    """Works on the shards that nobody else is at; returns whether everything is complete."""
    shards = list_shards(source, 1000)
    with Warehouse.at(warehouse).connect() as connection:
        waiting, _ = still_to_do(connection, shards, setup.key)
    for work in waiting:
        with Warehouse.at(warehouse).connect() as connection:
            floor = generations(connection, setup.key).get(work.shard.url, 0)
        print("at", work.shard.url, flush=True)
        outcome = score_under_lease(
            Work(work.shard, floor),
            setup,
            parts,
            f"{parts}/leases",
            name,
            None,
            lambda images: print("scored", images, flush=True),
        )
        if outcome.state == "elsewhere":
            continue
        land(Warehouse.at(warehouse), [outcome], setup.key)
        release(f"{parts}/leases", work_name(work.shard.url, setup.key), outcome.generation)
        print("landed", work.shard.url, outcome.generation, flush=True)
    return not waiting


if __name__ == "__main__":
    warehouse, parts, source, scorer, bank, run = sys.argv[1:]
    tasks.runs.leased_shard.acquire = partial(acquire, expiry=EXPIRY)
    with owner(f"{parts}/leases", run, heartbeat=0.5) as name:
        setup = load_setup(scorer, bank, "cpu", 8, 1, None)
        while not one_round(warehouse, parts, source, setup, name):
            pass
