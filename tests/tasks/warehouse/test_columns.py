"""The table of columns: what parts hold and land, and what a new column takes."""

import hashlib
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from lakes import KEY, KINDS, land_made, made_outcome, opened_registry, place
from warehouses import query_parts

from mdmf import to_pandas as query
from tasks.maintenance.verify import verify
from tasks.parts import columns
from tasks.parts.columns import Column, columns_of, part_schema
from tasks.parts.part_files import part_writer
from tasks.report.galleries import Sources, details
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.part_rows import compared_columns
from tasks.warehouse.warehouse import Warehouse

IDS = {"image_id", "shard_id", "scorer_id", "bank_id", "calibration_id", "run_id"}
# What a new column of provenance takes: a row of the table, and the columns and views that a migration brings.
ROWS = (
    Column("origin", columns.COLUMNS[0].arrow, "VARCHAR", ("images",), label="origin", hint="as its manifest says"),
    Column("signed", columns.part_schema().field("in_support").type, "BOOLEAN", ("images",), absent=False, label="signed"),
)
MIGRATION = """
ALTER TABLE images ADD COLUMN origin VARCHAR;
ALTER TABLE images ADD COLUMN signed BOOLEAN DEFAULT false;
CREATE OR REPLACE VIEW scored AS
  SELECT i.* EXCLUDE (shard_id), j.* EXCLUDE (image_id, host) FROM judged j JOIN images i USING (image_id);
CREATE OR REPLACE MACRO decisions(fpr) AS TABLE
  SELECT i.* EXCLUDE (shard_id), d.* EXCLUDE (image_id, host) FROM decided(fpr) d JOIN images i USING (image_id);
"""


@pytest.fixture
def upgraded(monkeypatch):
    """Brings this version to the next one, whose parts know where an image says that it comes from."""

    def upgrade(warehouse: str) -> None:
        monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, *ROWS))
        with Warehouse.at(warehouse).connect() as connection:
            connection.execute(MIGRATION)

    return upgrade


def test_the_columns_land_in_the_tables_with_the_types_of_the_table(tmp_path):
    with Warehouse.at(str(tmp_path / "w.duckdb")).connect() as connection:
        migrate(connection)
        rows = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
    for table, derived in (("images", set()), ("scores", {"host"}), ("exclusions", set())):
        held = {name: kind for of, name, kind in rows if of == table and name not in IDS | derived}
        assert held == {column.name: column.sql for column in columns_of(table)}


def test_parts_keep_the_schema_of_those_that_are_written(tmp_path):
    told = "\n".join(f"{field.name} {field.type} {field.nullable}" for field in part_schema())
    assert hashlib.sha256(told.encode()).hexdigest() == "af49485e4c8f19b24b67a05790c3bba6028a32322a72f92ac4cb0ac735c2e6fa"
    assert compared_columns("images")[:2] == ["image_id", "key"]
    assert "scored_at" not in compared_columns("scores")


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_from_before_a_column_lands_as_the_table_says(kind, tmp_path, upgraded):
    warehouse = opened_registry(place(tmp_path, kind))
    land_made(warehouse, [1])
    older = made_outcome(warehouse, 2)  # finished, not landed
    upgraded(warehouse)
    assert not {"origin", "signed"} & set(pq.read_schema(older.part).names)
    newer = with_origin(made_outcome(warehouse, 3))
    assert land(Warehouse.at(warehouse), [older, newer], KEY) == []
    said = query(warehouse, "SELECT shard_url, origin, signed, count(*) AS n FROM scored GROUP BY ALL ORDER BY ALL")
    said = [
        (url[-9:], None if origin != origin else origin, signed, n) for url, origin, signed, n in said.itertuples(index=False)
    ]
    assert said == [("00001.tar", None, False, 19), ("00002.tar", None, False, 19), ("00003.tar", "camera", True, 19)]
    assert [found for found in verify(Warehouse.at(warehouse)) if not found.note] == []
    if kind == "embedded":
        asked = query_parts(Warehouse.at(warehouse), "SELECT DISTINCT origin FROM scored ORDER BY ALL NULLS FIRST")
        assert [None if origin != origin else origin for origin in asked["origin"]] == [None, "camera"]
        with Warehouse.at(warehouse).connect() as connection:
            ((image,),) = connection.execute("SELECT min(image_id)::VARCHAR FROM scored WHERE origin = 'camera'").fetchall()
            shown = details(connection, [image], Sources.of(connection), 0.05)[image]
        assert (shown["origin"], shown["signed"]) == ("camera", True)


def test_verify_sees_a_value_of_a_new_column_that_is_not_the_part_s(tmp_path, upgraded):
    warehouse = opened_registry(place(tmp_path, "embedded"))
    upgraded(warehouse)
    land(Warehouse.at(warehouse), [with_origin(made_outcome(warehouse, 1))], KEY)
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute("UPDATE images SET origin = 'scanner' WHERE key LIKE '%3'")
    assert [found.check for found in verify(Warehouse.at(warehouse)) if not found.note] == ["content"]


def with_origin(outcome):
    """The part written again, with what its images say of themselves."""
    rows = pq.read_table(outcome.part).to_pylist()
    with part_writer(outcome.part) as part:
        part.write([row | {"origin": "camera", "signed": True} for row in rows])
        part.close_with(outcome)
    return replace(part.outcome, generation=outcome.generation)
