"""Questions while the warehouse is being written."""

import uuid
from pathlib import Path

import pytest
from fabricate import write_shard
from typer.testing import CliRunner
from warehouses import held, query_parts

from mdmf import to_pandas as query
from mdmf_cli.main import app
from mdmf_core.errors import WarehouseError
from tasks.collections.listing import list_shards
from tasks.runs.records import RunRecord, start_run
from tasks.scoring.score_shard import score_shard
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.parts_view import connect_parts
from tasks.warehouse.warehouse import Warehouse


def part(source: Path, warehouse: str, setup, run: str):
    """A finished part of a shard, not landed."""
    (shard,) = list_shards(str(source), 1000)
    return score_shard(shard, setup, Warehouse.at(warehouse).parts, run, None, lambda members: None)


def test_parts_are_asked_while_another_process_writes_the_warehouse(setup, tmp_path):
    warehouse, (older, newer) = str(tmp_path / "w.duckdb"), (str(uuid.UUID(int=at)) for at in (1, 2))
    with Warehouse.at(warehouse).connect() as connection:
        migrate(connection)
        start_run(connection, RunRecord(newer, "curate", "s", {}, "0", "h", "cpu"), setup, promote=False)
    part(write_shard(tmp_path / "00000.tar", range(3)), warehouse, setup, older)
    landed = part(write_shard(tmp_path / "00001.tar", range(10, 14), {"bad.jpg": b"<html>"}), warehouse, setup, newer)
    land(Warehouse.at(warehouse), [landed], setup.key)
    part(write_shard(tmp_path / "it's.tar", range(20, 26)), warehouse, setup, newer)
    kept = "key, sha256, score, p_value, domain, in_support, width, caption, url, sidecar, shard_url"
    assert query(warehouse, "SELECT DISTINCT host FROM judged")["host"].tolist() == ["example.org"]
    in_warehouse = query(warehouse, f"SELECT {kept} FROM scored ORDER BY key")
    with held(warehouse, "writing"), connect_parts(Warehouse.at(warehouse)) as connection:
        asked = connection.execute(f"SELECT {kept} FROM scored ORDER BY key").df()
        done = CliRunner().invoke(app, ["sql", "--parts", "FROM accounting", "--warehouse", warehouse, "--format", "csv"])
        assert (done.exit_code, done.output.count("\n")) == (0, 3), done.output
        assert connection.execute("SELECT key, reason FROM excluded").fetchall() == [("bad", "not_an_image")]
        assert connection.execute("SELECT sum(members), sum(scored), sum(excluded) FROM accounting").fetchall() == [(11, 10, 1)]
        assert connection.execute("SELECT count(*) FROM scored WHERE sidecar->>'url' = url").fetchall() == [(10,)]
    assert asked["key"].tolist() == [f"{seed:09d}" for seed in (*range(10, 14), *range(20, 26))]  # nothing of the older run
    assert asked.head(4).to_dict("records") == in_warehouse.to_dict("records")
    assert len(query_parts(Warehouse.at(warehouse), "SELECT * FROM scored WHERE in_support AND p_value <= 0.5")) <= 10


def test_where_nothing_is_finished_it_says_so(tmp_path):
    with pytest.raises(WarehouseError, match=r"no finished parts in .*ask the warehouse itself"):
        query_parts(Warehouse.at(str(tmp_path / "w.duckdb")), "SELECT 1")
