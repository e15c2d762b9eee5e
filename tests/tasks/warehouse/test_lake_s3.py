"""A lake whose data lie in an object store."""

import pytest
from lakes import KEY, made_outcome, needs_lakes, opened_registry
from s3_server import KEY as USER
from s3_server import SECRET, s3_server
from warehouses import digest

from tasks.maintenance.compaction import compact
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse

pytestmark = needs_lakes


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder behind the bucket `corpus` of a real S3 server, with the AWS variables that let one in."""
    with s3_server(tmp_path / "s3") as (folder, url):
        variables = {"ACCESS_KEY_ID": USER, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT_URL": url, "REGION": "us-east-1"}
        for name, value in variables.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield folder


def test_rows_land_and_are_compacted_in_s3(store, tmp_path):
    here = opened_registry(str(tmp_path / "here.duckdb"))
    there = opened_registry(f"ducklake:sqlite:{tmp_path}/w.sqlite?data=s3://corpus/lake")
    outcomes = [made_outcome(here, number) for number in range(4)]
    land(Warehouse.at(here), outcomes, KEY)
    for start in (0, 2):
        land(Warehouse.at(there), outcomes[start : start + 2], KEY)
    assert digest(there) == digest(here)
    assert list((store / "lake" / "main" / "scores").rglob("*.parquet"))
    compact(Warehouse.at(there), keep_days=0)
    assert digest(there) == digest(here)


def test_wrong_credentials_are_refused_by_the_store(store, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    there = opened_registry(f"ducklake:sqlite:{tmp_path}/w.sqlite?data=s3://corpus/lake")
    here = str(tmp_path / "here.duckdb")
    with pytest.raises(Exception, match=r"403|Forbidden|denied"), Warehouse.at(there).connect():
        land(Warehouse.at(there), [made_outcome(here, 1)], KEY)
