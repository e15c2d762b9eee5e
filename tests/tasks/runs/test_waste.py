"""What a run spent in vain: by hand, and through a shard on which others died."""

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import RUN, open_warehouse, write_shard

from tasks.collections.listing import list_shards
from tasks.parts.leases import acquire, owner
from tasks.parts.outcome import Work, wasted_seconds, without_part, work_name
from tasks.runs import leased_shard as work
from tasks.warehouse.warehouse import Warehouse


def test_dead_attempts_and_shards_without_rows(three_shards):
    (shard, *_) = list_shards(f"{three_shards}/*.tar", 1000)
    deferred = without_part(shard, "deferred", "storage: gone", RUN, seconds=3.0)
    elsewhere = without_part(shard, "elsewhere", "run x is at it", RUN, seconds=100.0)
    complete = without_part(shard, "complete", "", RUN, seconds=20.0)
    died = replace(complete, lost=7.0)
    assert wasted_seconds([complete, elsewhere]) == 0
    assert wasted_seconds([complete, deferred, elsewhere, died]) == 3.0 + 7.0


def _die(folder: str, shard: str) -> None:
    lease = owner(folder, "00000000-0000-0000-0000-000000000002")
    acquire(folder, shard, lease.__enter__(), 0)
    time.sleep(600)


@pytest.fixture
def died_at_it(setup, tmp_path):
    """A shard on which a run died after 50 seconds."""
    source = write_shard(tmp_path / "00000.tar", range(2))
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    (shard,) = list_shards(str(source), 1000)
    folder, name = Warehouse.at(warehouse).leases, work_name(shard.url, setup.key)
    process = multiprocessing.get_context("spawn").Process(target=_die, args=(folder, name))
    process.start()
    lease = Path(folder, "held", f"{name}.1.json")
    while not lease.exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    (dead,) = Path(folder, "owners").iterdir()
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"since": dead.stat().st_mtime - 50}))
    return shard, warehouse


@pytest.mark.parametrize("finished", [False, True])
def test_what_died_is_lost_unless_its_part_was_finished(setup, died_at_it, monkeypatch, finished):
    shard, warehouse = died_at_it
    if finished:
        found = without_part(shard, "complete", "", RUN, seconds=49.0)
        monkeypatch.setattr(work, "score_shard", lambda *_: found)
    with owner(Warehouse.at(warehouse).leases, RUN) as name:
        args = setup, Warehouse.at(warehouse).parts, Warehouse.at(warehouse).leases, name, None, lambda _: None
        outcome = work.score_under_lease(Work(shard, 0), *args)
    assert outcome.state == "complete"
    assert outcome.lost == pytest.approx(1.0 if finished else 50.0)
