"""Warehouses of earlier versions: carried forward with what they hold."""

import multiprocessing
import os
import signal
import time
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdmf import to_pandas as query
from mdmf_cli.main import app
from mdmf_core.errors import WarehouseError
from tasks.maintenance.backup import backup, restore
from tasks.maintenance.verify import verify
from tasks.warehouse.migrations import migrate
from tasks.warehouse.registry import find
from tasks.warehouse.warehouse import Warehouse

SCORER, SHARD, RUN = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 8, 9))
BANKS = {f"00000000-0000-0000-0000-0000000000{n}0": f"00000000-0000-0000-0000-0000000000{n}1" for n in (1, 2)}


STEPS = sorted(entry.name for entry in files("warehouse").iterdir() if entry.name.endswith(".sql"))


def made(path: str, steps: int = 2) -> str:
    """A warehouse as the first ``steps`` migrations left it, with two banks of one name and an image scored by each."""
    with Warehouse.at(path).connect() as connection:
        connection.execute("CREATE TABLE migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)")
        for name in STEPS[:steps]:
            connection.execute((files("warehouse") / name).read_text())
            connection.execute("INSERT INTO migrations VALUES (?, now())", [name])
        for day, (bank, calibration) in enumerate(BANKS.items(), start=1):
            _insert(connection, "banks", [bank, SCORER, "photos", "b" * 64, 9, 99, 5, 1.0, 0.01, f"2026-01-0{day} 00:00:00+00"])
            _insert(
                connection, "calibrations", [calibration, SCORER, bank, "photo", "c" * 64, 99, 0.01, "2026-01-01 00:00:00+00"]
            )
            _insert(connection, "bank_aliases", ["production", SCORER, bank, calibration, f"2026-01-0{day} 00:00:00+00"])
            _insert(
                connection, "shards",
                [SHARD, "u", "tar", "d", 1, "f", "complete", None, 1, 1, 0, False, SCORER, bank, calibration, RUN, 1,
                 "2026-01-03 00:00:00+00"],
            )  # fmt: skip
            _insert(
                connection, "scores",
                [RUN, SHARD, SCORER, bank, calibration, RUN, 1, 0, 0, 0, 0, 0, 9, 0.02, "photo", True,
                 "2026-01-03 00:00:00+00"],
            )  # fmt: skip
            if steps > 2:
                connection.execute("INSERT INTO calibration_slices VALUES (?, 'photo', 99, 0.01)", [calibration])
        _insert(connection, "images", [RUN, SHARD, "k", "s", "JPEG", 1, 1, 1, 1, 90, 0])
    return path


def _insert(connection, table: str, values: list) -> None:
    """The first columns of a row; what later migrations added stays null."""
    columns = [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()][: len(values)]
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)


@pytest.fixture
def before_banks(tmp_path):
    return made(str(tmp_path / "w.duckdb"))


@pytest.mark.parametrize("steps", range(2, len(STEPS) + 1))
def test_every_released_schema_is_carried_forward_with_its_rows(tmp_path, steps):
    warehouse = made(str(tmp_path / "w.duckdb"), steps)
    with Warehouse.at(warehouse).connect() as connection:
        assert migrate(connection) == STEPS[steps:]
    assert list(query(warehouse, "SELECT key, score FROM flagged(0.05)").itertuples(index=False, name=None)) == [("k", 1.0)]
    assert list(query(warehouse, "SELECT generation, part_sha256 FROM shards").isna().all()) == [True, True]
    made_now = str(tmp_path / "now.duckdb")
    with Warehouse.at(made_now).connect() as connection:
        migrate(connection)
    columns = "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    assert query(warehouse, columns).equals(query(made_now, columns))


@pytest.mark.parametrize("steps", range(2, len(STEPS)))
def test_a_reader_of_an_earlier_schema_is_told_what_to_do_and_changes_nothing(tmp_path, steps):
    warehouse = made(str(tmp_path / "w.duckdb"), steps)
    before = Path(warehouse).read_bytes()
    for command in (("sql", "SELECT 1"), ("report",), ("bank", "list"), ("bank", "show")):
        result = CliRunner().invoke(app, [*command, "--warehouse", warehouse])
        assert (result.exit_code, f"run `mdmf migrate --warehouse {warehouse}`" in result.output) == (1, True)
    assert Path(warehouse).read_bytes() == before
    assert CliRunner().invoke(app, ["migrate", "--warehouse", warehouse]).output == f"{warehouse}: {', '.join(STEPS[steps:])}\n"
    assert CliRunner().invoke(app, ["sql", "SELECT 1", "--warehouse", warehouse]).exit_code == 0


def test_verify_finds_an_earlier_schema_and_a_restored_backup_says_so(before_banks, tmp_path):
    (finding,) = verify(Warehouse.at(before_banks))
    assert (finding.check, finding.repairable) == ("schema", True)
    backup(Warehouse.at(before_banks), str(tmp_path / "b.duckdb"))
    assert restore(str(tmp_path / "b.duckdb"), Warehouse.at(str(tmp_path / "r.duckdb"))).missing == STEPS[2:]
    assert [f.check for f in verify(Warehouse.at(before_banks), repair=True) if f.repaired] == ["schema"]


@pytest.fixture
def next_steps(tmp_path):
    """The migrations, and a folder where a further one can be put."""
    folder = tmp_path / "steps"
    folder.mkdir()
    for name in STEPS:
        (folder / name).write_text((files("warehouse") / name).read_text())
    return folder


HALF = "ALTER TABLE shards ADD COLUMN later INTEGER; DELETE FROM scores; DROP VIEW scored CASCADE;"
ENDLESS = "SELECT sum(a.range) FROM range(1000000000) a, range(1000000000) b"


def test_a_migration_that_fails_halfway_leaves_the_version_before_it(before_banks, next_steps):
    (next_steps / "998_broken.sql").write_text(f"{HALF} SELECT error('broken');")
    with (
        Warehouse.at(before_banks).connect() as connection,
        pytest.raises(WarehouseError, match=r"998_broken.sql failed, .*as before"),
    ):
        migrate(connection, next_steps)
    assert list(query(before_banks, "SELECT key FROM flagged(0.05)")["key"]) == ["k"]  # 003 and 004 stayed


def _migrate(warehouse: str, folder: Path, started: Path) -> None:
    with Warehouse.at(warehouse).connect() as connection:
        started.touch()
        migrate(connection, folder)


def test_killed_in_a_migration_the_warehouse_is_as_before_it(before_banks, next_steps, tmp_path):
    with Warehouse.at(before_banks).connect() as connection:
        migrate(connection)
    (next_steps / "998_endless.sql").write_text(f"{HALF} CREATE TABLE long AS {ENDLESS};")
    context = multiprocessing.get_context("fork")
    for moment in range(4):
        process = context.Process(target=_migrate, args=(before_banks, next_steps, tmp_path / "started"))
        process.start()
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        time.sleep(0.05 + 0.1 * moment)
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        (tmp_path / "started").unlink()
        assert list(query(before_banks, "SELECT key FROM flagged(0.05)")["key"]) == ["k"]


def test_banks_get_versions_by_age_and_their_rows_keep_their_decisions(before_banks):
    with Warehouse.at(before_banks).connect() as connection:
        migrate(connection)
        migrate(connection)  # again changes nothing
        versions = connection.execute("SELECT bank_id::VARCHAR, version FROM banks ORDER BY version").fetchall()
        assert versions == [(bank, number) for number, bank in enumerate(BANKS, start=1)]
        assert connection.execute("SELECT domain, images, smallest_budget FROM slices").fetchall() == [("photo", 99, 0.01)]
        assert [row[0] for row in connection.execute("SELECT key FROM flagged(0.05)").fetchall()] == ["k"]
        assert connection.execute("SELECT count(*) FROM kept(0.01)").fetchone() == (1,)
        entry = find(connection, "@production")
        assert (entry.title, entry.url) == ("photos@2", None)


def test_a_warehouse_of_a_newer_version_is_refused(before_banks):
    with Warehouse.at(before_banks).connect() as connection:
        connection.execute("INSERT INTO migrations VALUES ('999_future.sql', now())")
        with pytest.raises(WarehouseError, match=r"newer version .*999_future"):
            migrate(connection)


def test_scores_of_before_learn_the_host_of_their_image(tmp_path):
    with Warehouse.at(str(tmp_path / "w.duckdb")).connect() as connection:
        steps = sorted(
            entry.name for entry in files("warehouse").iterdir() if entry.name < "005" and entry.name.endswith(".sql")
        )
        connection.execute("CREATE TABLE migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)")
        for name in steps:
            connection.execute((files("warehouse") / name).read_text())
            connection.execute("INSERT INTO migrations VALUES (?, now())", [name])
        connection.execute(
            "INSERT INTO images SELECT md5(u)::UUID, md5(u)::UUID, 'k', 's', 'JPEG', 1, 1, 1, 1, 90, 0, NULL, NULL, "
            "nullif(u, ''), NULL "
            "FROM (VALUES ('https://a.example.org/x/1.jpg'), ('no url'), ('')) given(u)"
        )
        connection.execute(
            "INSERT INTO scores SELECT image_id, shard_id, image_id, image_id, image_id, image_id, 1, 0, 0, 0, 0, 0, 9, 0.02, "
            "'photo', true, now() FROM images"
        )
        migrate(connection)
        found = connection.execute("SELECT i.url, s.host FROM scores s JOIN images i USING (image_id)").fetchall()
    assert dict(found) == {"https://a.example.org/x/1.jpg": "a.example.org", "no url": None, None: None}
