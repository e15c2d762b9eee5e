"""Backup and restore: whole or not at all, and faithful."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import duckdb
import pytest
from fabricate import open_warehouse, outcome_of, write_shard
from typer.testing import CliRunner

from mdmf import to_pandas as query
from mdmf_cli.main import app
from mdmf_core.errors import WarehouseError
from tasks.maintenance.backup import backup, restore
from tasks.maintenance.content_digest import content_digest, table_digests
from tasks.maintenance.verify import verify
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse

NEWER = "INSERT INTO migrations VALUES ('999_future.sql', now())"


@pytest.fixture
def warehouse(setup, tmp_path) -> str:
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    land(Warehouse.at(warehouse), [outcome_of(write_shard(tmp_path / "00000.tar", range(4)), warehouse, setup)], setup.key)
    return warehouse


def digest(warehouse: str) -> str:
    with Warehouse.at(warehouse).connect(read_only=True, any_version=True) as connection:
        return content_digest(connection)


def whole(warehouse: str) -> dict:
    with Warehouse.at(warehouse).connect(read_only=True, any_version=True) as connection:
        return table_digests(connection)


def test_a_restored_warehouse_is_the_same_with_its_views_and_macros(warehouse, tmp_path):
    out = str(tmp_path / "backup.duckdb")
    copied = backup(Warehouse.at(warehouse), out)
    assert (copied.path, copied.size_bytes, copied.content_digest) == (out, os.path.getsize(out), digest(warehouse))
    found = restore(out, Warehouse.at(str(tmp_path / "other" / "w.duckdb")))
    assert (found.copied.content_digest, found.earlier, found.not_landed, found.missing) == (digest(warehouse), None, [], [])
    assert whole(found.copied.path) == whole(warehouse)
    for question in ("scored", "flagged(0.9)", "kept(0.5)", "unsure()", "prevalence()", "expected_precision(0.5)", "budgets"):
        ask = f"SELECT * FROM {question} ORDER BY ALL"
        assert query(found.copied.path, ask).equals(query(warehouse, ask))
    with Warehouse.at(found.copied.path).connect() as connection, pytest.raises(duckdb.ConstraintException):
        connection.execute("UPDATE shards SET members = members + 1")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".wal"))) == []
    with duckdb.connect(out, read_only=True) as connection:
        (tags,) = connection.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'backup'").fetchone()
    assert tags["storage_version"].startswith("v1.5.0")


def test_nothing_is_written_over_unasked(warehouse, tmp_path):
    out = str(tmp_path / "backup.duckdb")
    backup(Warehouse.at(warehouse), out)
    with pytest.raises(WarehouseError, match="exists; name another file"):
        backup(Warehouse.at(warehouse), out)
    with pytest.raises(WarehouseError, match="the warehouse itself"):
        backup(Warehouse.at(warehouse), warehouse, force=True)
    with pytest.raises(WarehouseError, match="the warehouse itself"):
        restore(warehouse, Warehouse.at(warehouse), force=True)
    with pytest.raises(WarehouseError, match="or with --force, which keeps it"):
        restore(out, Warehouse.at(warehouse))
    backup(Warehouse.at(warehouse), out, force=True)


def test_restoring_keeps_what_was_there_and_tells_of_newer_parts(warehouse, setup, tmp_path):
    out = str(tmp_path / "backup.duckdb")
    backup(Warehouse.at(warehouse), out)
    land(Warehouse.at(warehouse), [outcome_of(write_shard(tmp_path / "00001.tar", range(10, 13)), warehouse, setup)], setup.key)
    later = digest(warehouse)
    found = restore(out, Warehouse.at(warehouse), force=True)
    assert found.earlier == warehouse + ".before-restore"
    assert digest(found.earlier) == later
    assert digest(warehouse) == digest(out) != later
    assert len(found.not_landed) == 1
    with pytest.raises(WarehouseError, match="from an earlier restore; move it away"):
        restore(out, Warehouse.at(warehouse), force=True)
    assert [f.check for f in verify(Warehouse.at(warehouse), repair=True) if not f.note] == ["orphan part"]
    assert digest(warehouse) == later


def test_what_is_no_backup_or_a_newer_one_is_refused_and_the_warehouse_stays(warehouse, tmp_path):
    before, out = digest(warehouse), str(tmp_path / "backup.duckdb")
    Path(out).write_bytes(b"not a database" * 1000)
    with pytest.raises(WarehouseError, match="cannot open"):
        restore(out, Warehouse.at(warehouse), force=True)
    os.remove(out)
    with duckdb.connect(out) as connection:
        connection.execute("CREATE TABLE others (a INTEGER)")
    with pytest.raises(WarehouseError, match="no mdmf warehouse"):
        restore(out, Warehouse.at(warehouse), force=True)
    backup(Warehouse.at(warehouse), out, force=True)
    with Warehouse.at(out).connect() as connection:
        connection.execute(NEWER)
    with pytest.raises(WarehouseError, match="newer version"):
        restore(out, Warehouse.at(warehouse), force=True)
    assert digest(warehouse) == before
    assert not os.path.exists(warehouse + ".before-restore")


def test_a_damaged_warehouse_is_replaced_and_kept(warehouse, tmp_path):
    out = str(tmp_path / "backup.duckdb")
    good = backup(Warehouse.at(warehouse), out).content_digest
    damage = b"not a database" * 1000
    Path(warehouse).write_bytes(damage)
    Path(warehouse + ".wal").write_bytes(b"log")
    found = restore(out, Warehouse.at(warehouse), force=True)
    assert Path(found.earlier).read_bytes() == damage
    assert not os.path.exists(warehouse + ".wal")
    assert digest(warehouse) == good


def test_a_backup_waits_for_whoever_writes(warehouse, tmp_path):
    out = str(tmp_path / "backup.duckdb")
    with Warehouse.at(warehouse).connect() as connection:
        waiting = threading.Thread(target=backup, args=(Warehouse.at(warehouse), out))
        waiting.start()
        connection.execute("UPDATE runs SET message = 'written meanwhile'")
        assert not os.path.exists(out)
    waiting.join(60)
    assert query(out, "SELECT message FROM runs")["message"][0] == "written meanwhile"


def _back_up_until_killed(warehouse: str, out: str) -> None:
    while True:
        backup(Warehouse.at(warehouse), out, force=True)


def test_killed_at_any_moment_a_backup_leaves_warehouse_and_earlier_backup_whole(warehouse, tmp_path):
    with Warehouse.at(warehouse).connect() as connection:  # large enough for a copy that takes a moment
        connection.execute(
            "INSERT INTO exclusions SELECT shard_id, range::VARCHAR, uuid(), 'empty', 'none', scorer_id, bank_id, "
            "calibration_id, run_id FROM (SELECT * FROM shards LIMIT 1), range(50000)"
        )
    out = str(tmp_path / "backup.duckdb")
    backup(Warehouse.at(warehouse), out)
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute("UPDATE shards SET superseded = true")
    earlier, now = digest(out), digest(warehouse)
    context = multiprocessing.get_context("fork")
    for moment in range(8):
        process = context.Process(target=_back_up_until_killed, args=(warehouse, out))
        process.start()
        time.sleep(0.03 + 0.04 * moment)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert digest(warehouse) == now
        assert digest(out) in (earlier, now)
    backup(Warehouse.at(warehouse), out, force=True)
    assert digest(out) == now


def test_the_commands_tell_size_digest_and_what_comes_next(warehouse, setup, tmp_path):
    out, content = str(tmp_path / "backup.duckdb"), digest(warehouse)
    result = CliRunner().invoke(app, ["backup", out, "--warehouse", warehouse])
    assert (result.exit_code, result.output) == (0, f"{out}: {os.path.getsize(out) / 1e6:.1f} MB, content {content}\n")
    land(Warehouse.at(warehouse), [outcome_of(write_shard(tmp_path / "00001.tar", range(10, 13)), warehouse, setup)], setup.key)
    assert CliRunner().invoke(app, ["restore", out, "--warehouse", warehouse]).exit_code == 1
    result = CliRunner().invoke(app, ["restore", out, "--warehouse", warehouse, "--force"])
    assert result.exit_code == 0
    assert f"what was there before: {warehouse}.before-restore" in result.output
    assert f"1 parts are newer than the backup; next: mdmf verify --repair --warehouse {warehouse}" in result.output
