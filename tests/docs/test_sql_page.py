"""docs/sql.md and docs/schema.md: every query runs and answers, in Python and in the plain shell; the schema is today's."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from fabricate import ROOT

from benchmarks.storage import sql

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # DuckDB 1.5's own way with time zones
PAGE = ROOT / "docs" / "sql.md"
QUERIES = sql.queries(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six thousand images of many hosts, licences and months, two scorers, reviews, metadata and a part."""
    folder = tmp_path_factory.mktemp("page") / "corpus"
    sql.fill(folder, 6000)
    sql.review(folder / "warehouse.duckdb")
    return folder


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with duckdb.connect("warehouse.duckdb", read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@pytest.mark.parametrize(("heading", "query"), QUERIES, ids=[heading for heading, _ in QUERIES])
def test_every_query_has_an_answer(inside, heading, query):
    found = inside.execute(query).df()
    assert len(found) > 0
    if "COPY" not in query:
        assert found.notna().any().all(), "a column without a value"


def test_every_query_is_timed():
    times = dict(re.findall(r"^\| ([^|]+) \| (\d+\.\d\d) \|$", PAGE.read_text(), re.MULTILINE))
    assert list(times) == [heading for heading, _ in QUERIES], "run benchmarks/storage/sql.py"


def test_the_plain_shell_answers_them_all(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "c")
    shell = str(Path(sys.executable).with_name("duckdb"))
    text = "\n".join(query for _, query in QUERIES)
    done = subprocess.run(
        [shell, "-readonly", "-bail", "-csv", "warehouse.duckdb"],
        input=text,
        cwd=tmp_path / "c",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "flagged_share" in done.stdout


def test_the_page_works_from_pandas(inside):
    inside.close()
    text = PAGE.read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, pd.DataFrame] = {}
    exec(text, names)
    assert len(names["flagged"]) > 100
    assert names["worst"]["flagged_share"].is_monotonic_decreasing


def test_counts_are_those_of_pandas(inside):
    rows = inside.execute(
        "SELECT split_part(d.url, '/', 3) AS host, shard_url, decision, LICENSE "
        "FROM decisions(0.05) d JOIN 'metadata/*.parquet' USING (key)"
    ).df()
    assert len(rows) == inside.execute("SELECT count(*) FROM scored").fetchall()[0][0]
    for name, column in (("by_host", "host"), ("by_shard", "shard_url")):
        expected = rows.assign(flagged=rows["decision"] == "flagged", unsure=rows["decision"] == "unsure")
        expected = expected.groupby(column).agg(
            images=("flagged", "size"), flagged=("flagged", "sum"), unsure=("unsure", "sum")
        )
        found = inside.execute(f"FROM {name}(0.05)").df().set_index(column)
        pd.testing.assert_frame_equal(found[expected.columns].sort_index(), expected.sort_index(), check_dtype=False)
        share = expected["flagged"] / (expected["images"] - expected["unsure"])
        pd.testing.assert_series_equal(found["flagged_share"].sort_index(), share.sort_index(), check_names=False)
    (licences,) = (query for heading, query in QUERIES if "licence" in heading)
    found = inside.execute(licences).df().set_index("LICENSE")["flagged_share"].sort_index()
    expected = (rows["decision"] == "flagged").groupby(rows["LICENSE"]).mean()
    pd.testing.assert_series_equal(found, expected, check_names=False)


def test_two_scorers_are_compared_by_name_and_by_id_and_never_mixed(inside):
    by_name = inside.execute("SELECT * FROM scorer_diff('forensic', 'clip', 0.05)").df()
    ids = dict(inside.execute("SELECT name, scorer_id::VARCHAR FROM scorers").fetchall())
    by_id = inside.execute("SELECT * FROM scorer_diff(?, ?, 0.05)", [ids["forensic"], ids["clip"]]).df()
    pd.testing.assert_frame_equal(by_name, by_id)
    oracle = inside.execute(
        "SELECT count(*) FROM scores a JOIN scores b USING (image_id) WHERE a.scorer_id = ?::UUID AND b.scorer_id = ?::UUID",
        [ids["forensic"], ids["clip"]],
    ).fetchall()
    assert oracle == [(len(by_name),)]
    same = inside.execute("SELECT count(*) FROM decided(0.05) d JOIN scorer_diff('forensic', 'clip', 0.05) USING (image_id) "
                          "WHERE d.by_score <> decision_a").fetchall()  # fmt: skip
    assert same == [(0,)]  # forensic is the promoted one


def test_the_schema_page_is_of_this_schema_and_explains_all_of_it():
    spec = importlib.util.spec_from_file_location("schema", ROOT / "docs" / "schema.py")
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    page = schema.page()
    assert (ROOT / "docs" / "schema.md").read_text() == page, "run `make schema`"
    silent = [line for line in page.splitlines() if line.endswith(("|  |", "| None |")) or line == "None"]
    assert silent == [], "COMMENT ON what these mean, in a migration"
