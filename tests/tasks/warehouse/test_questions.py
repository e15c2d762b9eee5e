"""Questions read: whatever is asked, the warehouse stays as it is."""

import hashlib
import json
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from fabricate import landed, write_shard
from warehouses import query_parts

import mdmf
from mdmf import to_pandas as query
from mdmf_core.errors import MdmfError
from tasks.warehouse.questions import json_lines
from tasks.warehouse.warehouse import Warehouse


@pytest.fixture(scope="module")
def warehouse(setup, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("asked")
    return landed(folder / "w.duckdb", write_shard(folder / "00000.tar", range(3)), setup)


@pytest.mark.parametrize(
    "ask", [mdmf.to_pandas, mdmf.to_arrow, lambda warehouse, sql: query_parts(Warehouse.at(warehouse), sql)]
)
@pytest.mark.parametrize(
    "sql",
    [
        "USE memory; DETACH warehouse; ATTACH '{file}' AS again; DELETE FROM again.scores",
        "ATTACH '{file}' AS again",
        "COPY FROM DATABASE memory TO warehouse",
        "DELETE FROM scores",
        "SELECT 1; DROP TABLE scores",
        "IMPORT DATABASE '{file}'",
    ],
)
def test_what_could_change_it_is_refused(warehouse, ask, sql):
    before = hashlib.sha256(Path(warehouse).read_bytes()).hexdigest()
    with pytest.raises(MdmfError, match="is no question: SELECT, COPY"):
        ask(warehouse, sql.format(file=warehouse))
    assert hashlib.sha256(Path(warehouse).read_bytes()).hexdigest() == before


def test_questions_of_every_kind_are_answered(warehouse, tmp_path):
    out = tmp_path / "keys.parquet"
    assert query(warehouse, f"COPY (SELECT key FROM scored) TO '{out}'").iloc[0, 0] == 3
    for sql in ("FROM scored", f"FROM '{out}'", "SUMMARIZE scored", "DESCRIBE scored", "SHOW TABLES", "EXPLAIN FROM scored"):
        assert len(query(warehouse, sql)) > 0
    assert len(query(warehouse, "PIVOT (SELECT domain, score FROM scored) ON domain USING avg(score)")) == 1
    assert mdmf.to_arrow(warehouse, "FROM scored WHERE key = ?", ["000000001"]).num_rows == 1
    query(warehouse, f"COPY scores TO '{out}'")
    with pytest.raises(duckdb.Error, match="read-only"):
        query(warehouse, f"COPY scores FROM '{out}'")


def test_parts_say_of_every_image_what_the_warehouse_says(warehouse):
    there = set(query_parts(Warehouse.at(warehouse), "FROM scored LIMIT 0").columns)
    columns = [name for name in query(warehouse, "FROM scored LIMIT 0").columns if name in there]
    assert set(query(warehouse, "FROM scored LIMIT 0").columns) - there == {"image_id", "shard_id"}
    sql = f"SELECT {', '.join(columns)} FROM scored ORDER BY key"
    pd.testing.assert_frame_equal(query_parts(Warehouse.at(warehouse), sql), query(warehouse, sql))


def test_json_has_every_type_and_integers_of_any_size():
    sql = (
        "SELECT '00000000-0000-0000-0000-00000000000a'::UUID AS u, 170141183460469231731687303715884105727::HUGEINT AS h, "
        "'nan'::DOUBLE AS n, TIMESTAMPTZ '2020-01-02 03:04:05+00' AS at, 'ab'::BLOB AS b, 1.25::DECIMAL(4, 2) AS d, "
        "[{'x': '-inf'::DOUBLE, 'when': DATE '2020-01-02'}] AS nested, MAP {1: 'one'} AS m, INTERVAL 1 DAY AS i, NULL AS none"
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        (line,) = json_lines(connection, sql)
    assert json.loads(line) == {
        "u": "00000000-0000-0000-0000-00000000000a", "h": 2**127 - 1, "n": None, "at": "2020-01-02T03:04:05+00:00", "b": "6162",
        "d": 1.25, "nested": [{"x": None, "when": "2020-01-02"}], "m": {"1": "one"}, "i": "1 day, 0:00:00", "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("sql", ["", " \n", "-- only a comment"])
def test_no_query_at_all_is_refused(warehouse, sql):
    with pytest.raises(MdmfError, match="no query in"):
        query(warehouse, sql)
    assert len(query(warehouse, "-- a comment first\nSELECT 1")) == 1
