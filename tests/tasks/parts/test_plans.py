"""Plans are written while a source is listed, in bounded memory, and read group by group."""

import subprocess
import sys
from dataclasses import replace
from itertools import chain

import pyarrow.parquet as pq
import pytest
from fabricate import ROOT, landed, outcome_of, write_shard
from hypothesis import given, settings
from hypothesis import strategies as st

from mdmf_core.records import Shard
from tasks.collections.listing import list_shards
from tasks.parts import plans
from tasks.parts.outcome import Work, without_part
from tasks.parts.plans import read_plan, write_plan
from tasks.runs import backlog
from tasks.runs.backlog import Tally, accounted, left_of
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse


def made_up(count: int) -> list[Work]:
    return [Work(Shard(f"s3://b/{n:05d}.tar", "tar", n, f"etag{n}"), n, ("storage",) * (n % 2)) for n in range(count)]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 30))
def test_any_plan_is_read_back_group_by_group(tmp_path_factory, count, size, rows):
    path = str(tmp_path_factory.mktemp("plan") / "plan.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "_ROWS", rows)
        groups = write_plan(path, iter(made_up(count)), size)
    found = [read_plan(path, group) for group in range(groups)]
    assert list(chain.from_iterable(found)) == made_up(count)
    assert all(len(group) == size for group in found[:-1])
    assert pq.read_metadata(path).num_row_groups <= -(-count // max(1, rows - rows % size)) if count else True


def test_a_plan_whose_listing_breaks_off_is_not_there(tmp_path):
    def listing():
        yield from made_up(5000)
        raise OSError("the store went away")

    with pytest.raises(OSError, match="went away"):
        write_plan(str(tmp_path / "plan.parquet"), listing(), 4)
    assert list(tmp_path.iterdir()) == []


def test_a_million_shards_take_no_more_memory_than_a_batch(tmp_path):
    """Held as objects, the four batches between the two would take about 100 MB more."""
    script = [sys.executable, str(ROOT / "benchmarks" / "scale" / "plan.py"), "20000", "100000"]
    table = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()[2:]
    small, large = ([float(cell.replace(",", "")) for cell in row.strip("| ").split("|")] for row in table)
    assert (small[0], large[0], large[1]) == (20_000, 100_000, 50_000)
    assert large[4] - large[3] < small[4] - small[3] + 30


@pytest.fixture
def warehouse(tmp_path, setup, tiny_scorer):
    """Five shards: 0 and 1 complete, 2 failed, 3 deferred, 4 unknown."""
    for number in range(5):
        write_shard(tmp_path / f"{number}.tar", range(10 * number, 10 * number + 1 + number))
    made = landed(tmp_path / "w.duckdb", f"{tmp_path}/{{0,1}}.tar", setup, tiny_scorer)
    two, three = list_shards(f"{tmp_path}/{{2,3}}.tar", 1000)
    run = outcome_of(tmp_path / "4.tar", made, setup).run_id
    failed = replace(without_part(two, "failed", "corrupt: torn", run), generation=3)
    land(Warehouse.at(made), [failed, without_part(three, "deferred", "storage: gone", run)], setup.key)
    return made


@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize("most", [None, 0, 1, 2])
def test_what_is_left_to_do_does_not_depend_on_the_batches(warehouse, tmp_path, setup, monkeypatch, batch, most):
    monkeypatch.setattr(backlog, "_BATCH", batch)
    shards, tally = list_shards(f"{tmp_path}/{{0..4}}.tar", 1000), Tally()
    work = list(left_of(iter(shards), Warehouse.at(warehouse), setup.key, most, tally))
    assert [one.shard for one in work] == shards[3:][:most]
    assert tally == Tally(shards=5, already_complete=2, set_aside=1, to_do=len(work))


def test_a_changed_shard_is_to_do_again_under_its_newest_generation(warehouse, tmp_path, setup):
    (two,) = list_shards(f"{tmp_path}/2.tar", 1000)
    assert list(left_of([replace(two, fingerprint="new")], Warehouse.at(warehouse), setup.key, None, Tally())) == [
        Work(replace(two, fingerprint="new"), 3)
    ]
    assert len(list(left_of([two], Warehouse.at(warehouse), replace(setup.key, bank_id="f" * 64), None, Tally()))) == 1


def test_portions_are_counted_by_what_the_warehouse_holds_of_just_this_content(warehouse, tmp_path, setup):
    shards = list_shards(f"{tmp_path}/{{0..4}}.tar", 1000)
    changed = [replace(shards[0], fingerprint="new"), *shards[1:]]
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        assert accounted(connection, shards, setup.key) == {
            "complete": 2, "deferred": 1, "failed": 1, "members": 3, "scored": 3, "excluded": 0,
        }  # fmt: skip
        assert accounted(connection, changed, setup.key)["complete"] == 1
        assert accounted(connection, shards, replace(setup.key, bank_id="f" * 64))["complete"] == 0
