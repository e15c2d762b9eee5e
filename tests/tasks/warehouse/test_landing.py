"""Landing: exactly once, all or nothing, and never two rows for one member."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from fabricate import encoded, open_warehouse, outcome_of, write_shard
from warehouses import held

from mdmf import to_pandas as query
from mdmf_core.errors import WarehouseError
from mdmf_core.records import Shard
from tasks.parts.outcome import ShardOutcome
from tasks.parts.part_files import finished_part, part_path, part_writer
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse


def content(warehouse: str) -> list[tuple]:
    frame = query(
        warehouse, "SELECT s.* EXCLUDE (scored_at), i.key FROM scores s JOIN images i USING (image_id) ORDER BY i.key"
    )
    return [tuple(row) for row in frame.itertuples(index=False)]


def test_landing_twice_is_landing_once(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(5)), warehouse, setup)
    land(Warehouse.at(warehouse), [outcome], setup.key)
    first = content(warehouse)
    land(Warehouse.at(warehouse), [outcome], setup.key)
    assert content(warehouse) == first
    assert query(warehouse, "SELECT count(*) AS n FROM shards")["n"][0] == 1


def test_a_part_that_does_not_add_up_lands_nothing_and_costs_no_other_shard(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    good = outcome_of(write_shard(tmp_path / "00000.tar", range(3)), warehouse, setup)
    bad = replace(outcome_of(write_shard(tmp_path / "00001.tar", range(9, 12)), warehouse, setup), members=4, scored=4)
    with pytest.raises(WarehouseError, match="the part holds 3 scored"):
        land(Warehouse.at(warehouse), [bad, good], setup.key)
    assert list(query(warehouse, "SELECT url FROM shards")["url"]) == [good.url]
    assert query(warehouse, "SELECT count(*) AS n FROM images")["n"][0] == 3


def test_rows_of_a_later_lease_cannot_be_replaced_by_those_of_an_earlier_one(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    source = write_shard(tmp_path / "00000.tar", range(3))
    slept = replace(outcome_of(source, warehouse, setup), generation=1)
    write_shard(source, range(5, 9))
    successor = replace(outcome_of(source, warehouse, setup), generation=2)
    assert land(Warehouse.at(warehouse), [successor], setup.key) == []
    assert land(Warehouse.at(warehouse), [slept], setup.key) == [slept.url]
    assert query(warehouse, "SELECT digest FROM shards WHERE NOT superseded")["digest"][0] == successor.digest
    assert land(Warehouse.at(warehouse), [replace(slept, state="deferred", part=None)], setup.key) == [slept.url]
    assert query(warehouse, "SELECT count(*) AS n FROM shards")["n"][0] == 1


def test_one_number_for_two_contents_lets_the_first_stand(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    source = write_shard(tmp_path / "00000.tar", range(3))
    early = replace(outcome_of(source, warehouse, setup), generation=1)  # planned before the other landed
    write_shard(source, range(5, 9))
    landed = replace(outcome_of(source, warehouse, setup), generation=1)
    assert land(Warehouse.at(warehouse), [landed], setup.key) == []
    for late in (early, deferred(early)):
        assert land(Warehouse.at(warehouse), [late], setup.key) == [early.url]
    assert query(warehouse, "SELECT digest, state FROM shards").values.tolist() == [[landed.digest, "complete"]]
    assert land(Warehouse.at(warehouse), [landed], setup.key) == []


def deferred(outcome: ShardOutcome) -> ShardOutcome:
    empty = {"part": None, "digest": None, "members": 0, "scored": 0, "excluded": 0}
    return replace(outcome, state="deferred", reason="unfinished: changed", **empty)


def test_a_failed_look_at_what_is_whole_is_no_news(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = replace(outcome_of(write_shard(tmp_path / "00000.tar", range(3)), warehouse, setup), generation=1)
    land(Warehouse.at(warehouse), [outcome], setup.key)
    land(Warehouse.at(warehouse), [replace(deferred(outcome), generation=2)], setup.key)
    assert list(query(warehouse, "SELECT state FROM shards")["state"]) == ["complete"]


def test_a_part_whose_data_is_damaged_costs_no_other_shard(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    bad = outcome_of(write_shard(tmp_path / "00000.tar", range(3)), warehouse, setup)
    good = outcome_of(write_shard(tmp_path / "00001.tar", range(5, 8)), warehouse, setup)
    with open(bad.part, "r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 3000)
    with pytest.raises(WarehouseError, match=r"00000.tar: its part .* cannot be landed"):
        land(Warehouse.at(warehouse), [bad, good], setup.key)
    assert list(query(warehouse, "SELECT url FROM shards")["url"]) == [good.url]


def test_a_tar_that_is_called_like_a_slice_takes_the_place_of_none(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcomes = [outcome_of(write_shard(tmp_path / f"0000{n}.tar", range(9 * n, 9 * n + 2)), warehouse, setup) for n in range(3)]
    names = {"a#slice=0of2": "folder", "a#slice=0of2.tar": "tar", "a#slice=0of4": "folder"}
    first, second, recut = (
        replace(outcome, url=name, kind=kind) for outcome, (name, kind) in zip(outcomes, names.items(), strict=True)
    )
    land(Warehouse.at(warehouse), [first, second], setup.key)
    assert not query(warehouse, "SELECT superseded FROM shards")["superseded"].any()
    land(Warehouse.at(warehouse), [recut], setup.key)
    assert list(query(warehouse, "SELECT url FROM shards WHERE superseded")["url"]) == [first.url]


def test_the_table_itself_refuses_a_shard_that_does_not_add_up(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    land(Warehouse.at(warehouse), [outcome_of(write_shard(tmp_path / "00000.tar", range(3)), warehouse, setup)], setup.key)
    with Warehouse.at(warehouse).connect() as connection, pytest.raises(duckdb.ConstraintException):
        connection.execute("UPDATE shards SET members = members + 1")


def test_a_part_appears_whole_or_not_at_all(setup, tmp_path):
    path = part_path(str(tmp_path), Shard("u", "tar", 1, "f"), setup.key)

    def write_and_fail() -> None:
        with part_writer(path) as part:
            part.write([{"key": "a"}])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_and_fail()
    assert finished_part(path) is None
    assert list(Path(path).parent.iterdir()) == []
    Path(path).write_bytes(b"PAR1 not really")
    with pytest.raises(WarehouseError, match="damaged"):
        finished_part(path)


def test_a_newer_warehouse_is_refused(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute("INSERT INTO migrations VALUES ('999_future.sql', now())")
        with pytest.raises(WarehouseError, match="newer version"):
            migrate(connection)


def test_a_file_that_is_no_warehouse_is_refused(tmp_path):
    (tmp_path / "w.duckdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(WarehouseError, match="cannot open warehouse"), Warehouse.at(str(tmp_path / "w.duckdb")).connect():
        pass


def test_a_commit_waits_for_another_process(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(2)), warehouse, setup)
    with ThreadPoolExecutor(1) as pool:
        with held(warehouse, "writing"):
            landing = pool.submit(land, Warehouse.at(warehouse), [outcome], setup.key)
            time.sleep(3)
            assert not landing.done()
        assert landing.result(60) == []
    assert query(warehouse, "SELECT count(*) AS n FROM images")["n"][0] == 2


def _land_until_killed(warehouse: str, outcomes: list[ShardOutcome], key) -> None:
    while True:
        land(Warehouse.at(warehouse), outcomes, key)


def test_killed_at_any_moment_the_next_landing_ends_with_the_same_table(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcomes = [
        outcome_of(write_shard(tmp_path / f"0000{n}.tar", range(n * 10, n * 10 + 4)), warehouse, setup) for n in range(3)
    ]
    land(Warehouse.at(warehouse), outcomes, setup.key)
    undisturbed = content(warehouse)
    context = multiprocessing.get_context("fork")
    for moment in range(8):
        process = context.Process(target=_land_until_killed, args=(warehouse, outcomes, setup.key))
        process.start()
        time.sleep(0.05 + 0.03 * moment)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        land(Warehouse.at(warehouse), outcomes, setup.key)
        assert content(warehouse) == undisturbed


def test_an_undecodable_image_still_has_its_identity(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    source = write_shard(tmp_path / "00000.tar", range(1), {"bad.jpg": encoded(5)[:3000]})
    land(Warehouse.at(warehouse), [outcome_of(source, warehouse, setup)], setup.key)
    row = query(warehouse, "SELECT key, reason, image_id FROM excluded").iloc[0]
    assert (row["key"], row["reason"]) == ("bad", "truncated")
    assert row["image_id"] is not None
