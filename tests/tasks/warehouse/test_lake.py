"""A lake is a warehouse like the embedded one: the same rows, views and macros."""

import duckdb
import pytest
from lakes import KEY, RUN, made_outcome, needs_lakes, opened_registry, place
from warehouses import digest

from mdmf_core.errors import WarehouseError
from tasks.maintenance.backup import backup, restore
from tasks.maintenance.compaction import compact
from tasks.maintenance.copy_warehouse import copy_warehouse
from tasks.warehouse import extensions
from tasks.warehouse.address import Lake
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.questions import query
from tasks.warehouse.snapshots import run_snapshots
from tasks.warehouse.warehouse import Warehouse

SECOND_RUN = "00000000-0000-0000-0000-000000000002"
QUESTIONS = (
    "SELECT * FROM flagged(0.05) ORDER BY image_id",
    "SELECT image_id, decision FROM decisions(0.1) ORDER BY image_id",
    "SELECT count(*) AS n FROM kept(0.05)",
    "SELECT * FROM excluded ORDER BY key, image_id",
    "SELECT * EXCLUDE (committed_at) FROM accounting",
    "SELECT * FROM prevalence()",
    "SELECT * FROM prevalence('photo')",
    "SELECT * FROM by_host(0.05)",
    "SELECT * FROM by_shard(0.05)",
    "SELECT * FROM near_line(0.05)",
    "SELECT * FROM review_sample(0.05, 5)",
    "SELECT * FROM precision_estimate(0.05)",
    "SELECT * FROM expected_precision(0.05)",
    "SELECT * FROM discoveries(0.5) ORDER BY image_id",
)


@needs_lakes
def test_a_lake_gives_the_answers_of_the_embedded_warehouse(tmp_path):
    for kind in ("embedded", "sqlite"):
        warehouse = opened_registry(place(tmp_path, kind))
        land(Warehouse.at(warehouse), [made_outcome(warehouse, number) for number in range(3)], KEY)
        land(Warehouse.at(warehouse), [made_outcome(warehouse, 1, rows=12, content="2")], KEY)  # other content of the same URL
        land(Warehouse.at(warehouse), [made_outcome(warehouse, 2)], KEY)  # the same again
    here, there = (place(tmp_path, kind) for kind in ("embedded", "sqlite"))
    assert digest(here) == digest(there)
    for question in QUESTIONS:
        assert query(Warehouse.at(here), question).equals(query(Warehouse.at(there), question)), question
    assert query(Warehouse.at(there), "SELECT sum(members) AS n FROM accounting")["n"][0] == 20 + 12 + 20


@needs_lakes
def test_one_damaged_part_of_a_group_keeps_no_other_from_landing(tmp_path):
    warehouse = opened_registry(place(tmp_path, "sqlite"))
    outcomes = [made_outcome(warehouse, number) for number in range(3)]
    with open(outcomes[1].part, "r+b") as part:
        part.truncate(100)
    with pytest.raises(WarehouseError, match=r"/made/00001.tar: its part .* cannot be landed"):
        land(Warehouse.at(warehouse), outcomes, KEY)
    assert list(query(Warehouse.at(warehouse), "SELECT url FROM accounting")["url"]) == ["/made/00000.tar", "/made/00002.tar"]


@needs_lakes
def test_a_lake_is_asked_as_of_a_run_until_its_snapshots_expire(tmp_path):
    warehouse = opened_registry(place(tmp_path, "sqlite"))
    land(Warehouse.at(warehouse), [made_outcome(warehouse, 0)], KEY)
    land(Warehouse.at(warehouse), [made_outcome(warehouse, 1)], KEY)
    land(Warehouse.at(warehouse), [made_outcome(warehouse, 2, run=SECOND_RUN)], KEY)
    held = digest(warehouse)

    def shards(as_of: str | None) -> int:
        return query(Warehouse.at(warehouse), "SELECT count(DISTINCT shard_url) AS n FROM scored", as_of=as_of)["n"][0]

    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        runs = run_snapshots(connection)
        version = runs[0].snapshot
        told = connection.execute(f"SELECT count(*) FROM shards AT (VERSION => {version - 1})").fetchall()
    assert [run.run_id for run in runs] == [RUN, SECOND_RUN]
    assert (shards(None), shards(SECOND_RUN), shards(RUN), shards(str(version - 1)), told) == (3, 3, 2, 1, [(1,)])
    with pytest.raises(WarehouseError, match=f"no snapshot of run nobody.*{SECOND_RUN}"):
        shards("nobody")
    compact(Warehouse.at(warehouse), keep_days=1)
    assert (digest(warehouse), shards(RUN)) == (held, 2)
    assert compact(Warehouse.at(warehouse), keep_days=0).snapshots_expired > 3
    assert digest(warehouse) == held
    with pytest.raises(WarehouseError, match=f"no snapshot of run {RUN}, or it has expired"):
        shards(RUN)


@needs_lakes
def test_compaction_leaves_few_files_and_every_row(tmp_path):
    warehouse = opened_registry(place(tmp_path, "sqlite"))
    for number in range(20):
        land(Warehouse.at(warehouse), [made_outcome(warehouse, number, rows=12)], KEY)
    held = digest(warehouse)
    found = compact(Warehouse.at(warehouse), keep_days=0)
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        files = connection.execute(
            "SELECT file_count FROM ducklake_table_info('warehouse') WHERE table_name = 'scores'"
        ).fetchall()
    assert files[0][0] <= 16 < 20  # at most one for each bucket
    assert (found.files_removed > 0, digest(warehouse)) == (True, held)


def test_only_lakes_are_compacted_for_days_that_are_not_negative(tmp_path):
    with pytest.raises(WarehouseError, match="embedded warehouse"):
        compact(Warehouse.at(str(tmp_path / "w.duckdb")), 30)
    with pytest.raises(ValueError, match=r"keep_days .* got -1"):
        compact(Warehouse.at(place(tmp_path, "sqlite")), -1)


@needs_lakes
def test_rows_are_copied_into_a_lake_and_back_with_the_same_content(tmp_path):
    here = opened_registry(place(tmp_path, "embedded"))
    land(Warehouse.at(here), [made_outcome(here, number) for number in range(3)], KEY)
    there, back = place(tmp_path, "sqlite"), str(tmp_path / "back.duckdb")
    copied = [copy_warehouse(Warehouse.at(here), Warehouse.at(there)), copy_warehouse(Warehouse.at(there), Warehouse.at(back))]
    assert copied[0] == copied[1]
    assert copied[0].content_digest == digest(here) == digest(there) == digest(back)
    assert query(Warehouse.at(back), QUESTIONS[0]).equals(query(Warehouse.at(here), QUESTIONS[0]))
    with Warehouse.at(back).connect() as connection:
        assert migrate(connection) == []
    with pytest.raises(WarehouseError, match=r"holds rows already, in .*scores"):
        copy_warehouse(Warehouse.at(here), Warehouse.at(there))


def test_a_file_is_copied_to_a_file_and_never_over_one(tmp_path):
    here, other = opened_registry(place(tmp_path, "embedded")), str(tmp_path / "other.duckdb")
    assert copy_warehouse(Warehouse.at(here), Warehouse.at(other)).content_digest == digest(here)
    for target, said in ((other, "exists; name another"), (here, "the warehouse itself")):
        with pytest.raises(WarehouseError, match=said):
            copy_warehouse(Warehouse.at(here), Warehouse.at(target))


@needs_lakes
def test_what_a_lake_does_not_do_is_said(tmp_path):
    warehouse = place(tmp_path, "sqlite")
    assert not Warehouse.at(warehouse).exists()
    with pytest.raises(WarehouseError, match=r"no warehouse at ducklake:sqlite:"):
        query(Warehouse.at(warehouse), "SELECT 1")
    with pytest.raises(WarehouseError, match=r"is a lake: back it up with its catalog's own tools.*mdmf warehouse copy"):
        backup(Warehouse.at(warehouse), str(tmp_path / "b.duckdb"))
    with pytest.raises(WarehouseError, match="is a lake: restore it"):
        restore(str(tmp_path / "b.duckdb"), Warehouse.at(warehouse))
    opened_registry(warehouse)
    with pytest.raises(WarehouseError, match="its catalog knows another data folder"):
        query(Warehouse.at(warehouse + "2"), "SELECT 1")
    with pytest.raises(WarehouseError, match="no PostgreSQL answers there"):
        query(Warehouse.at(f"ducklake:postgres:host=127.0.0.1 port=1 dbname=x?data={tmp_path}"), "SELECT 1")


def test_an_embedded_warehouse_knows_only_its_present(tmp_path):
    with pytest.raises(WarehouseError, match="knows only its present"):
        query(Warehouse.at(opened_registry(place(tmp_path, "embedded"))), "SELECT 1", as_of=RUN)


def test_an_extension_that_cannot_be_had_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(extensions, "_packaged", lambda name: None)
    with duckdb.connect() as connection:
        connection.execute("SET extension_directory = '/dev/null/nowhere'")
        connection.execute("SET custom_extension_repository = 'http://127.0.0.1:1'")
        with pytest.raises(WarehouseError, match=r"extension ducklake.*extensions.duckdb.org.*pip install 'mdmf\[lake\]'"):
            extensions.load_for(connection, Lake("sqlite", "/w", "/d"))
