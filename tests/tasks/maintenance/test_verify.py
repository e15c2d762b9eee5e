"""Verification: everything that can be broken is found, and mended where something is left to mend it with."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import RUN, outcome_of, write_shard
from typer.testing import CliRunner
from warehouses import change, copied, digest

from mdmf import to_pandas as query
from mdmf_cli.main import app
from tasks.collections.listing import list_shards
from tasks.maintenance.verify import verify
from tasks.parts.part_files import part_path, part_writer
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse

SHARD = "(SELECT shard_id FROM shards WHERE url LIKE '%00001.tar')"


@pytest.fixture
def warehouse(three_shards, tmp_path) -> str:
    return copied(three_shards, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(three_shards) -> str:
    return digest(str(three_shards / "w.duckdb"))


def part_of(warehouse: str, setup, name: str = "00001.tar") -> str:
    row = query(warehouse, f"SELECT url FROM shards WHERE url LIKE '%{name}'").iloc[0]
    (shard,) = list_shards(row["url"], 1000)
    return part_path(Warehouse.at(warehouse).parts, shard, setup.key)


def wrong(warehouse: str, repair: bool = False) -> list[tuple[str, bool]]:
    """What remains wrong, without notes."""
    return [(f.check, f.repaired) for f in verify(Warehouse.at(warehouse), repair) if not f.note]


def test_an_undisturbed_warehouse_has_nothing_but_notes(warehouse):
    assert [(f.check, f.subject) for f in verify(Warehouse.at(warehouse))] == [("run", RUN)]


# The shards table as before, without the CHECK that would refuse it.
NO_CHECK = (
    "CREATE TABLE free AS SELECT * FROM shards",
    "DROP TABLE shards",
    "ALTER TABLE free RENAME TO shards",
)

EVERYWHERE = tuple(f"DELETE FROM {table} WHERE shard_id = {SHARD}" for table in ("images", "scores", "exclusions", "shards"))


@pytest.mark.parametrize(
    ("statements", "check"),
    [
        ((f"DELETE FROM scores WHERE shard_id = {SHARD}",), "accounting"),
        ((f"DELETE FROM exclusions WHERE shard_id = {SHARD} AND reason = 'not_an_image'",), "accounting"),
        ((f"INSERT INTO exclusions SELECT * FROM exclusions WHERE shard_id = {SHARD}",), "accounting"),
        ((f"INSERT INTO scores SELECT * FROM scores WHERE shard_id = {SHARD}",), "accounting"),
        (
            (
                f"CREATE TEMP TABLE one AS SELECT * FROM scores WHERE shard_id = {SHARD} ORDER BY image_id LIMIT 2",
                "DELETE FROM scores WHERE image_id = (SELECT max(image_id) FROM one)",
                "INSERT INTO scores SELECT * FROM one ORDER BY image_id LIMIT 1",
            ),
            "doubled rows",
        ),
        ((f"INSERT INTO images SELECT * FROM images WHERE shard_id = {SHARD}",), "doubled rows"),
        ((f"DELETE FROM images WHERE shard_id = {SHARD} AND format = 'JPEG'",), "missing images"),
        ((f"DELETE FROM images WHERE shard_id = {SHARD} AND format = 'PNG'",), "content"),
        ((f"UPDATE scores SET p_value = 0.99 WHERE shard_id = {SHARD}",), "content"),
        ((f"UPDATE images SET caption = 'another' WHERE shard_id = {SHARD}",), "content"),
        ((f"UPDATE exclusions SET reason = 'empty' WHERE shard_id = {SHARD}",), "content"),
        ((*NO_CHECK, f"UPDATE shards SET members = 99 WHERE shard_id = {SHARD}"), "accounting"),
        ((*NO_CHECK, f"UPDATE shards SET members = 6, scored = 4 WHERE shard_id = {SHARD}"), "accounting"),
        ((f"INSERT INTO shards SELECT * FROM shards WHERE shard_id = {SHARD}",), "doubled shard"),
        ((f"DELETE FROM shards WHERE shard_id = {SHARD}",), "orphan part"),
        (EVERYWHERE, "orphan part"),
    ],
)
def test_wrong_rows_are_restored_from_the_part(warehouse, undisturbed, statements, check):
    change(warehouse, *statements)
    assert digest(warehouse) != undisturbed
    assert wrong(warehouse) == [(check, False)]
    assert wrong(warehouse, repair=True) == [(check, True)]
    assert wrong(warehouse) == []
    assert digest(warehouse) == undisturbed


def flip(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 3] ^= 1
    Path(path).write_bytes(data)


def truncate(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_part_is_set_aside_and_the_rows_stay(warehouse, undisturbed, setup, damage):
    path = part_of(warehouse, setup)
    damage(path)
    assert wrong(warehouse) == [("damaged part", False)]
    assert wrong(warehouse, repair=True) == [("damaged part", True)]
    assert wrong(warehouse) == []
    assert (os.path.exists(path), os.path.exists(path + ".damaged")) == (False, True)
    assert digest(warehouse) == undisturbed


@pytest.mark.parametrize("damage", [flip, os.remove])
def test_what_no_part_restores_is_deferred_and_the_next_curate_completes_it(warehouse, undisturbed, setup, damage):
    change(warehouse, f"DELETE FROM scores WHERE shard_id = {SHARD}")
    path = part_of(warehouse, setup)
    source = Path(query(warehouse, "SELECT url FROM shards WHERE url LIKE '%00001.tar'")["url"][0])
    damage(path)
    (finding,) = [f for f in verify(Warehouse.at(warehouse)) if f.check == "accounting"]
    assert "`mdmf curate` of its source" in finding.detail
    assert ("accounting", True) in wrong(warehouse, repair=True)
    assert wrong(warehouse) == []
    assert query(warehouse, "SELECT count(*) AS n FROM scored")["n"][0] == 6
    land(Warehouse.at(warehouse), [outcome_of(source, warehouse, setup)], setup.key)
    assert digest(warehouse) == undisturbed


def test_missing_parts_are_a_note(warehouse, setup):
    os.remove(part_of(warehouse, setup))
    (note,) = [f for f in verify(Warehouse.at(warehouse)) if f.check == "missing parts"]
    assert note.note
    assert note.detail.startswith("1 of 3 complete shards have no part")


def test_rows_without_any_shard_or_part_are_told_and_kept(warehouse, setup):
    os.remove(part_of(warehouse, setup))
    change(warehouse, f"DELETE FROM shards WHERE shard_id = {SHARD}")
    before = digest(warehouse)
    assert wrong(warehouse, repair=True) == [("orphan rows", False)] * 3
    assert digest(warehouse) == before


def test_a_run_killed_between_part_and_landing(warehouse, setup, tmp_path):
    outcome = outcome_of(write_shard(tmp_path / "00009.tar", range(90, 92)), warehouse, setup)
    assert wrong(warehouse, repair=True) == [("orphan part", True)]
    assert wrong(warehouse) == []
    mended = digest(warehouse)
    land(Warehouse.at(warehouse), [outcome], setup.key)
    assert digest(warehouse) == mended


def test_a_part_that_was_not_landed_is_landed_over_the_deferral_before_it(warehouse, setup, tmp_path):
    outcome = outcome_of(write_shard(tmp_path / "00009.tar", range(90, 92)), warehouse, setup)
    empty = {"part": None, "digest": None, "members": 0, "scored": 0, "excluded": 0}
    land(
        Warehouse.at(warehouse), [replace(outcome, state="deferred", reason="storage: away", generation=3, **empty)], setup.key
    )
    assert wrong(warehouse, repair=True) == [("orphan part", True)]
    assert list(query(warehouse, "SELECT state FROM shards WHERE url LIKE '%00009.tar'")["state"]) == ["complete"]
    assert wrong(warehouse) == []


def test_an_older_content_never_takes_the_place_of_a_newer(warehouse, setup, tmp_path):
    source = tmp_path / "00009.tar"
    outcome_of(write_shard(source, range(90, 92)), warehouse, setup)  # never landed
    land(Warehouse.at(warehouse), [outcome_of(write_shard(source, range(95, 98)), warehouse, setup)], setup.key)
    before = digest(warehouse)
    (finding,) = [f for f in verify(Warehouse.at(warehouse), repair=True) if f.check == "outdated part"]
    assert finding.note
    assert digest(warehouse) == before


def test_the_repair_of_superseded_rows_leaves_the_newer_ones_in_force(warehouse, setup, tmp_path):
    source = tmp_path / "00009.tar"
    for seeds in (range(90, 92), range(95, 98)):
        land(Warehouse.at(warehouse), [outcome_of(write_shard(source, seeds), warehouse, setup)], setup.key)
    before = digest(warehouse)
    change(warehouse, "DELETE FROM scores WHERE shard_id = (SELECT shard_id FROM shards WHERE superseded)")
    assert wrong(warehouse, repair=True) == [("accounting", True)]
    assert digest(warehouse) == before
    change(warehouse, "UPDATE shards SET superseded = false")
    assert wrong(warehouse, repair=True) == [("doubled shard", True)]
    assert digest(warehouse) == before


def test_a_part_of_an_unknown_bank_is_told(warehouse, setup):
    path = part_of(warehouse, setup)
    os.rename(path, path.replace(".parquet", "0.parquet"))
    assert wrong(warehouse, repair=True) == [("unknown part", False)]


def test_temporaries_and_plans_that_nobody_needs(warehouse, setup):
    path = part_of(warehouse, setup)
    yesterday = time.time() - 25 * 3600
    for name, age in ((path + ".1.tmp", yesterday), (path + ".2.tmp", time.time()), (warehouse + ".3.tmp", yesterday)):
        Path(name).write_bytes(b"half")
        os.utime(name, (age, age))
    plans = Path(Warehouse.at(warehouse).parts, "plans")
    plans.mkdir()
    change(
        warehouse,
        "INSERT INTO runs SELECT * REPLACE (uuid() AS run_id, 'completed' AS state) FROM runs",
    )
    ended = query(warehouse, "SELECT run_id::VARCHAR AS run FROM runs WHERE state = 'completed'")["run"][0]
    for run in (ended, RUN):
        (plans / f"{run}.parquet").write_bytes(b"plan")
    assert wrong(warehouse, repair=True) == [("temporary", True)] * 2
    assert os.path.exists(path + ".2.tmp")
    assert [plan.stem for plan in plans.iterdir()] == [RUN]


def test_rows_that_differ_from_a_part_of_unrecorded_digest_are_not_overruled(warehouse, setup):
    change(warehouse, "UPDATE shards SET part_sha256 = NULL", f"UPDATE scores SET p_value = 0.99 WHERE shard_id = {SHARD}")
    (finding,) = [f for f in verify(Warehouse.at(warehouse), repair=True) if not f.note]
    assert (finding.check, finding.repairable) == ("content", False)
    assert "either may be wrong" in finding.detail


def test_a_repair_that_fails_says_why_and_changes_nothing(warehouse, setup, tmp_path):
    outcome = outcome_of(write_shard(tmp_path / "00009.tar", range(90, 92)), warehouse, setup)
    with part_writer(outcome.part) as part:  # says of itself that it has two members, and holds none
        part.close_with(outcome)
    before = digest(warehouse)
    (finding,) = [f for f in verify(Warehouse.at(warehouse), repair=True) if not f.note]
    assert (finding.repairable, finding.repaired) == (True, False)
    assert "the repair failed" in finding.detail
    assert digest(warehouse) == before


def mdmf(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_the_command_ends_with_status_1_while_something_is_wrong(warehouse, undisturbed):
    assert mdmf("verify", "--warehouse", warehouse)[0] == 0
    change(warehouse, f"DELETE FROM scores WHERE shard_id = {SHARD}")
    status, text = mdmf("verify", "--warehouse", warehouse)
    assert (status, "findings that remain: 1; --repair mends 1 of them" in text) == (1, True)
    status, text = mdmf("verify", "--warehouse", warehouse, "--repair")
    assert status == 0
    assert f"content {undisturbed}\neverything adds up\n" in text
    status, text = mdmf("verify", "--warehouse", warehouse + "x")
    assert (status, "no warehouse at" in text) == (1, True)
