"""Peers side by side: what is made of their runs, and that a run's memory counts all that it started."""

import io
import json
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fabricate import write_folder
from PIL import Image

from benchmarks.harness.corpora import as_laion, described, photographs, write_shards
from benchmarks.harness.frame import Better, Part, Record, Result, Setting
from benchmarks.peers import runs as peer_runs
from benchmarks.peers import side_by_side
from benchmarks.peers.runs import Run
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard


def run(rate: float, pss: float) -> Run:
    return Run(96, rate, 30.0, pss, 2 * pss)


def test_the_targets_stand_at_the_fastest_and_the_smallest_peer():
    runs = {
        "mdmf curate": [run(4.0, 900), run(6.0, 1000)],
        "A": [run(4.0, 2000), run(4.0, 2000)],
        "B": [run(2.0, 500), run(3.0, 500)],
    }
    found = {record.name: record for record in side_by_side._records(runs, {"A": (1, 2), "B": (0, 2)}, "96 images")}
    assert list(found) == [
        "mdmf curate over A, speed (the best of them)", "mdmf curate over A, memory",
        "mdmf curate over B, speed", "mdmf curate over B, memory (the best of them)",
    ]  # fmt: skip
    speed, memory = (
        found["mdmf curate over A, speed (the best of them)"],
        found["mdmf curate over B, memory (the best of them)"],
    )
    assert (speed.ratio, speed.low, speed.high, speed.target, speed.met) == (1.25, 1.0, 1.5, 1.2, True)
    assert (memory.ratio, memory.target, memory.met) == (1.9, 1.0, False)
    assert found["mdmf curate over B, speed"].target is None
    assert speed.parts["A"] == Part(4.0, "images/s")
    assert speed.parts["B, start to exit"] == Part(30.0, "s")
    assert memory.parts["B"] == Part(500, "MB")


def test_a_rate_leaves_out_the_first_batches_and_what_came_before_them():
    found = peer_runs._run([(16, 100.0), (16, 104.0), (8, 106.0)], 108.0, 1, 50.0, 700.0, 900.0)
    assert (found.images, found.images_per_second, found.seconds) == (40, 3.0, 50.0)
    found = peer_runs._run([(16, 100.0), (16, 100.5), (8, 106.0)], 108.5, 2, 50.0, 700.0, 900.0)
    assert found.images_per_second == 1.0  # two at a time: both of the first round are over when the clock starts


def test_our_batches_are_read_from_the_warehouse(three_shards):
    batches, landed = peer_runs.stamps_of(three_shards / "w.duckdb")
    assert [count for count, _ in batches] == [3, 3, 3]
    assert sorted(at for _, at in batches) == [at for _, at in batches]
    assert batches[-1][1] < landed


def test_memory_is_of_all_processes_that_a_run_started_even_those_it_left(tmp_path):
    hold = "import sys, time; block = bytearray(60_000_000); time.sleep(1.5)"
    code = f"import subprocess, sys; [subprocess.Popen([sys.executable, '-c', {hold!r}]).wait() for _ in range(1)]"
    seconds, pss, rss = peer_runs._watched([sys.executable, "-c", code], tmp_path / "out", {})
    assert seconds >= 1.5
    assert 60 < pss <= rss < 300


def test_a_peer_that_fails_says_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3: out of luck"):
        peer_runs._watched([sys.executable, "-c", "print('out of luck', flush=True); exit(3)"], tmp_path / "out", {})


def test_without_peers_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_runs, "ENVIRONMENTS", tmp_path)
    with pytest.raises(ValueError, match="make bench-peers"):
        peer_runs.installed()
    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match=r"peer_settings\.json; run: make bench-peers"):
        side_by_side.best_settings()


def test_each_peer_is_compared_at_its_best_setting(tmp_path, monkeypatch):
    def record(workers: int, ratio: float) -> Record:
        parts = {"workers": Part(workers, ""), "threads": Part(2, "")}
        return Record(
            f"Ray Data, {workers} workers, 2 threads, over its best setting", ratio, Better.HIGHER, ratio, ratio, 1, parts
        )

    Result("peer_settings", {}, 1.0, [record(1, 0.8), record(2, 1.0)]).write(tmp_path)
    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path)
    assert side_by_side.best_settings() == {"Ray Data": (2, 2)}


def test_shards_of_the_benchmarks_are_img2datasets_and_the_parquet_holds_the_same_bytes(tmp_path):
    setting = Setting(write_folder(tmp_path / "data", range(3)), Path(), tmp_path / "work", print)
    setting.work.mkdir()
    given = peer_runs.images(setting, 5, 2)  # more than there are: the first come again
    tars, bytes_of = sorted(given.tars.glob("*.tar")), []
    for path in tars:
        with tarfile.open(path) as tar:
            bytes_of += [tar.extractfile(entry).read() for entry in tar if entry.name.endswith(".jpg")]
        (shard,) = list_shards(str(path), 1000)
        with open_shard(shard, 10**8) as reader:
            assert len(list(reader)) == json.loads(path.with_name(f"{path.stem}_stats.json").read_text())["successes"]
    rows = [row for path in sorted(given.parquet.glob("*")) for row in pq.read_table(path).to_pylist()]
    assert [row["jpg"] for row in rows] == bytes_of
    assert len(bytes_of) == 5
    assert {min(Image.open(io.BytesIO(data)).size) for data in bytes_of} == {256}


def test_photographs_that_are_too_small_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="no JPEG of at least 224 px"):
        photographs(write_folder(tmp_path / "small", range(2), width=100, height=90), 2)


def test_a_corpus_is_described_by_count_weight_and_size(tmp_path):
    images = photographs(write_folder(tmp_path / "data", range(2)), 2)
    assert described(images).startswith("2 JPEGs of ")
    assert described(images).endswith("kB, median 256 x 240 px")
    assert described(list(as_laion(images))).endswith("median 273 x 256 px")
    assert len(write_shards(tmp_path / "shards", images, 2)) == 2
