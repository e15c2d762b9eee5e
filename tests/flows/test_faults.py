"""The whole flow through a proxy that breaks requests to a real S3 server."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from corpora import scored_warehouse
from fabricate import CONTENT, write_shard
from fault_proxy import FAULTS, UNCHECKED, FaultProxy, evenly

from mdmf import to_pandas as query
from tasks.keeplists.export import ExportSettings, export
from tasks.keeplists.reshard import reshard
from tasks.report.write import NoEvidence, write_report
from tasks.storage import checked_reads as reading
from tasks.storage import retries as faults
from tasks.warehouse.warehouse import Warehouse

SHARDS, IMAGES = 4, 4


@pytest.fixture
def corpus(proxied: FaultProxy, signed_in: Path) -> Path:
    """A folder of the bucket with some shards."""
    folder = signed_in / "flow"
    folder.mkdir(exist_ok=True)
    for number in range(SHARDS):
        write_shard(folder / f"{number:05d}.tar", range(number * 10, number * 10 + IMAGES))
    return folder


def test_faults_cost_no_row_and_double_none(curate, proxied, corpus, tmp_path, monkeypatch):
    curate(f"{corpus}/*.tar", warehouse=str(tmp_path / "disk.duckdb"))
    expected = query(str(tmp_path / "disk.duckdb"), CONTENT)
    assert len(expected) == SHARDS * IMAGES
    monkeypatch.setattr(reading, "_BLOCK", 8192)  # many requests a shard
    monkeypatch.setattr(faults, "LIMITS", replace(faults.LIMITS, tries=300, small_tries=30, skewed_tries=30, rereads=30))
    for share in (0.05, 0.3):
        warehouse = str(tmp_path / f"{share}.duckdb")
        proxied.chances = evenly(share, tuple(fault for fault in FAULTS if fault != "stall"))  # which would only take long
        proxied.injected.clear()
        there = curate("s3://corpus/flow/*.tar", warehouse=warehouse)
        assert (there.complete, there.members, there.excluded) == (SHARDS, SHARDS * IMAGES, 0)
        pd.testing.assert_frame_equal(query(warehouse, CONTENT), expected)
        assert query(warehouse, "SELECT count(*) AS n FROM scores")["n"][0] == SHARDS * IMAGES
        assert proxied.injected.total() > 0
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_store_that_keeps_failing_defers_one_shard_and_the_next_run_completes_it(curate, proxied, corpus, tmp_path):
    warehouse = str(tmp_path / "warehouse.duckdb")
    proxied.touches = lambda method, path: method == "GET" and path.endswith("00002.tar")
    proxied.chances = {"503": 1.0}
    first = curate("s3://corpus/flow/*.tar")
    assert (first.complete, first.deferred, first.failed) == (SHARDS - 1, 1, 0)
    assert proxied.injected == Counter({"503": faults.LIMITS.tries})
    reason = query(warehouse, "SELECT reason FROM accounting WHERE state = 'deferred'")["reason"][0]
    assert reason.startswith("storage: s3://corpus/flow/00002.tar: gave up after 12 failed tries")
    assert "reached byte 0 of" in reason
    proxied.calm()
    second = curate("s3://corpus/flow/*.tar")
    assert (second.complete, second.already_complete, second.deferred) == (1, SHARDS - 1, 0)
    assert len(query(warehouse, CONTENT)) == SHARDS * IMAGES


def test_bytes_that_come_damaged_again_and_again_are_never_landed(curate, proxied, corpus, tmp_path):
    proxied.touches = lambda method, path: path.endswith("00003.tar")
    proxied.chances = {"flip": 1.0}
    assert curate("s3://corpus/flow/*.tar", keep_signatures=1.0).deferred == 1
    reason = query(str(tmp_path / "warehouse.duckdb"), "SELECT reason FROM accounting WHERE state = 'deferred'")["reason"][0]
    assert "checksum differs" in reason
    assert proxied.injected["flip"] == 1 + faults.LIMITS.rereads
    assert len(list(tmp_path.rglob("signatures/*.parquet"))) == SHARDS - 1


def test_keep_lists_new_shards_and_reports_come_through_faults_whole(proxied, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "LIMITS", replace(faults.LIMITS, tries=300, small_tries=30, skewed_tries=30))
    monkeypatch.setattr(reading, "_BLOCK", 8192)
    warehouse = scored_warehouse(tmp_path / "w.duckdb", ["s3://corpus/flow/*.tar"])
    selection = {"sql": "SELECT shard_url, key FROM scored"}
    export(ExportSettings(warehouse=warehouse, out=str(tmp_path / "keep"), selection=selection))
    reshard(str(tmp_path / "keep"), str(tmp_path / "kept"))
    calm = write_report(Warehouse.at(warehouse), "t", None, NoEvidence("not asked for"), str(tmp_path / "report"))
    proxied.chances = evenly(0.3, tuple(fault for fault in UNCHECKED if fault != "stall"))
    export(ExportSettings(warehouse=warehouse, out="s3://corpus/broken/keep", selection=selection))
    assert reshard("s3://corpus/broken/keep", "s3://corpus/broken/kept").samples == SHARDS * IMAGES
    write_report(Warehouse.at(warehouse), "t", None, NoEvidence("not asked for"), "s3://corpus/broken/report")
    assert proxied.injected.total() > 50
    proxied.calm()
    folder = corpus.parent / "broken"
    for number in range(SHARDS):
        name = f"{number:05d}.tar"
        assert (folder / "kept" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    pictures = [
        sorted(path.name for path in (report / "pictures").iterdir()) for report in (folder / "report", Path(calm).parent)
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) > 0
