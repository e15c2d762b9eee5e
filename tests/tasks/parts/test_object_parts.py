"""Parts in an object store: the same rows, the same checks, the same repairs as on disk."""

import os
from collections import deque
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from fabricate import RUN, encoded, open_warehouse, outcome_of, write_shard, write_tar
from fault_proxy import fault_proxy
from warehouses import change, copied, digest, query_parts

from mdmf import to_pandas as query
from mdmf_core.errors import PartDamaged, WarehouseError
from mdmf_core.records import Shard
from tasks.collections.listing import list_shards
from tasks.maintenance.stray_parts import not_landed
from tasks.maintenance.verify import verify
from tasks.parts.kept_signatures import read_signatures, signatures_path
from tasks.parts.outcome import Work
from tasks.parts.part_files import finished_part, list_parts, part_at_hand, part_path, part_writer
from tasks.parts.plans import read_plan, write_plan
from tasks.parts.store import near, remove, store_of, writing
from tasks.scoring.rescore import plan_rescore, rescore_shard
from tasks.scoring.retry_members import retry_members
from tasks.scoring.score_shard import score_shard
from tasks.storage import retries as faults
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse

SHARD = "(SELECT shard_id FROM shards WHERE url LIKE '%00001.tar')"


@pytest.fixture
def warehouse(three_shards, parts_in_lake, tmp_path) -> str:
    """The warehouse of the three shards, its parts in the store."""
    path = copied(three_shards, tmp_path)
    for part in sorted(Path(f"{path}.parts", "scores").iterdir()):
        with writing(f"{parts_in_lake}/scores/{part.name}") as sink:
            sink.write(part.read_bytes())
    return path


def put(url: str, data: bytes) -> None:
    s3fs.S3FileSystem().pipe_file(url, data)


def part_of(warehouse: str, name: str = "00001.tar") -> str:
    (path,) = query(warehouse, f"SELECT part_sha256 FROM shards WHERE url LIKE '%{name}'")["part_sha256"]
    (found,) = [part for part in list_parts_of(warehouse) if store_of(part).digest(part) == path]
    return found


def list_parts_of(warehouse: str) -> list[str]:
    return list_parts(Warehouse.at(warehouse).parts)


def wrong(warehouse: str, repair: bool = False) -> list[tuple[str, bool]]:
    return [(found.check, found.repaired) for found in verify(Warehouse.at(warehouse), repair) if not found.note]


def test_the_rows_are_those_of_parts_on_disk(three_shards, parts_in_lake, setup, tmp_path):
    path = open_warehouse(tmp_path / "w.duckdb", setup)
    land(Warehouse.at(path), [outcome_of(three_shards / f"0000{number}.tar", path, setup) for number in range(3)], setup.key)
    assert digest(path) == digest(str(three_shards / "w.duckdb"))
    assert len(list_parts(parts_in_lake)) == 3
    assert wrong(path) == []
    with Warehouse.at(path).connect(read_only=True) as connection:
        assert not_landed(connection, parts_in_lake) == []


def test_rows_that_are_lost_come_back_from_the_store(warehouse, three_shards):
    change(warehouse, f"DELETE FROM scores WHERE shard_id = {SHARD}")
    assert wrong(warehouse, repair=True) == [("accounting", True)]
    assert wrong(warehouse) == []
    assert digest(warehouse) == digest(str(three_shards / "w.duckdb"))


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:50] + b"!" + data[51:], lambda data: b""])
def test_a_damaged_part_is_found_by_its_bytes_and_set_aside(warehouse, damage):
    path = part_of(warehouse)
    with near(path) as copy:
        put(path, damage(Path(copy).read_bytes()))
    assert wrong(warehouse, repair=True) == [("damaged part", True)]
    assert store_of(path).exists(path + ".damaged")
    assert path not in list_parts_of(warehouse)
    assert wrong(warehouse) == []


def test_a_part_that_was_never_landed_is_landed_by_the_repair(warehouse, three_shards):
    change(warehouse, *(f"DELETE FROM {table} WHERE shard_id = {SHARD}" for table in ("images", "scores", "exclusions")))
    change(warehouse, "DELETE FROM shards WHERE url LIKE '%00001.tar'")
    assert wrong(warehouse, repair=True) == [("orphan part", True)]
    assert digest(warehouse) == digest(str(three_shards / "w.duckdb"))


def test_a_finished_part_is_taken_as_it_is_and_its_digest_is_that_of_its_bytes(warehouse, three_shards, setup):
    before = finished_part(part_of(warehouse))
    with part_at_hand(part_of(warehouse)) as copied_part:
        assert before == replace(copied_part, part=before.part)
    assert outcome_of(three_shards / "00001.tar", warehouse, setup) == before  # scores nothing
    with near(part_of(warehouse)) as copy:
        data = Path(copy).read_bytes()
    put(before.part, data)  # without metadata, as another tool writes it
    assert finished_part(before.part) == before


def test_what_ends_badly_leaves_nothing(parts_in_lake):
    path = f"{parts_in_lake}/scores/a.parquet"
    with pytest.raises(pa.ArrowInvalid), part_writer(path) as part:
        part.write([{"key": "a"}, {"key": None}])
    assert list_parts(parts_in_lake) == []
    assert finished_part(path) is None
    remove(path)


def test_no_part_is_half_there_when_an_upload_in_pieces_fails(parts_in_lake, sign_in, monkeypatch):
    monkeypatch.setattr(faults, "LIMITS", replace(faults.LIMITS, small_tries=2, pause=0.0))
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize: 5 * 2**20)
    path = f"{parts_in_lake}/signatures/a.parquet"
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        sign_in(proxy.url)
        proxy.touches = lambda method, path: method == "PUT" and "partNumber=2" in path
        proxy.chances = {"500": 1.0}
        with pytest.raises(WarehouseError, match="gave up after 2 failed tries"), writing(path) as sink:
            sink.write(bytes(11 * 2**20))
        assert not store_of(path).exists(path)


def test_a_store_of_parts_that_is_away_is_no_fault_of_the_shard(parts_in_lake, sign_in, setup, three_shards, monkeypatch):
    monkeypatch.setattr(faults, "LIMITS", replace(faults.LIMITS, small_tries=2, pause=0.0))
    (shard,) = list_shards(str(three_shards / "00000.tar"), 1000)
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        sign_in(proxy.url)
        proxy.chances = {"503": 1.0}
        with pytest.raises(WarehouseError, match=r"the store of the warehouse's parts: s3://.*gave up after 2 failed tries"):
            score_shard(shard, setup, parts_in_lake, RUN, None, lambda images: None)


def test_a_part_is_sent_once_and_fetched_once(parts_in_lake, sign_in, setup, tmp_path):
    path, requests = open_warehouse(tmp_path / "w.duckdb", setup), []
    source = write_shard(tmp_path / "a.tar", range(3))
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        sign_in(proxy.url)
        proxy.passed = lambda method, path, sent, received: requests.append((method, path, sent, received))
        outcome = outcome_of(source, path, setup)
        of_part = [(method, sent) for method, path, sent, _ in requests if "/scores/" in path and method in ("PUT", "GET")]
        assert [method for method, _ in of_part] == ["PUT"]
        size = of_part[0][1]
        requests.clear()
        land(Warehouse.at(path), [replace(outcome, generation=1)], setup.key)
        assert [received for method, path, _, received in requests if method == "GET" and "/scores/" in path] == [size]
    assert query(path, "SELECT part_sha256 FROM shards")["part_sha256"][0] == outcome.part_sha256


@pytest.mark.parametrize("where", ["disk", "store"])
def test_the_writer_knows_what_a_reader_finds(where, setup, tmp_path, request):
    if where == "store":
        request.getfixturevalue("parts_in_lake")
    path = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = outcome_of(write_shard(tmp_path / "a.tar", range(3)), path, setup)
    with part_at_hand(outcome.part) as copied_part:
        assert replace(copied_part, part=outcome.part) == outcome == finished_part(outcome.part)


def test_a_part_that_changes_on_its_way_to_the_store_is_refused_and_sent_again(proxied, signed_in):
    proxied.touches = lambda method, path: method == "PUT"
    proxied.script = deque(["flip_sent"] * 2)
    with writing("s3://corpus/w.parts/scores/a.parquet") as sink:
        sink.write(b"rows" * 1000)
    assert proxied.injected == {"flip_sent": 2}
    assert (signed_in / "w.parts" / "scores" / "a.parquet").read_bytes() == b"rows" * 1000
    proxied.chances = {"flip_sent": 1.0}
    with pytest.raises(WarehouseError, match="gave up after 6 failed tries"), writing("s3://corpus/w.parts/scores/b") as sink:
        sink.write(b"rows")


def test_landing_takes_rows_counts_and_digest_from_one_file(parts_in_lake, setup, tmp_path):
    """A run that slept through the end of its lease writes over the part after its successor read it."""
    path = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = outcome_of(write_shard(tmp_path / "a.tar", range(3)), path, setup)
    with near(outcome.part) as copy:
        rows = pq.read_table(copy).to_pylist()
    with part_writer(outcome.part) as part:
        part.write([rows[0] | {"score": None, "reason": "storage", "detail": "later"}, *rows[1:]])
        part.close_with(replace(outcome, scored=2, excluded=1))
    land(Warehouse.at(path), [replace(outcome, generation=3)], setup.key)
    row = query(path, "SELECT scored, excluded, generation, part_sha256 FROM shards").iloc[0]
    assert (row["scored"], row["excluded"], row["generation"]) == (2, 1, 3)
    assert row["part_sha256"] == store_of(outcome.part).digest(outcome.part)
    assert wrong(path) == []


def test_a_damaged_part_keeps_no_other_from_landing(parts_in_lake, setup, tmp_path):
    path = open_warehouse(tmp_path / "w.duckdb", setup)
    outcomes = [outcome_of(write_shard(tmp_path / f"{n}.tar", range(n, n + 2)), path, setup) for n in range(2)]
    put(outcomes[0].part, b"PAR1")
    with pytest.raises(WarehouseError, match="is damaged"):
        land(Warehouse.at(path), outcomes, setup.key)
    assert list(query(path, "SELECT url FROM shards")["url"]) == [outcomes[1].url]
    with pytest.raises(PartDamaged):
        finished_part(outcomes[0].part)


def test_a_part_is_mended_in_the_store(parts_in_lake, setup, tmp_path):
    source = write_tar(tmp_path / "a.tar", {"a.jpg": encoded(1), "b.jpg": encoded(2)})
    (shard,) = list_shards(str(source), 1000)
    before = score_shard(shard, replace(setup, keep_signatures=1.0), parts_in_lake, RUN, None, lambda images: None)
    with near(before.part) as copy:
        rows = pq.read_table(copy).to_pylist()
    with part_writer(before.part) as part:
        part.write([rows[0], rows[1] | {"score": None, "reason": "storage", "detail": "was away"}])
        part.close_with(replace(before, scored=1, excluded=1))
    kept = signatures_path(parts_in_lake, shard.url, shard.size_bytes, shard.fingerprint, setup.key.scorer_id)
    assert store_of(kept).exists(kept)
    after = retry_members(shard, ("storage",), setup, parts_in_lake, RUN, None, lambda images: None)
    assert (after.members, after.scored) == (2, 2)
    assert not store_of(kept).exists(kept)
    with near(after.part) as copy:
        assert [row["score"] for row in pq.read_table(copy).to_pylist()] == pytest.approx([row["score"] for row in rows])


def test_shards_are_scored_again_from_signatures_in_the_store(parts_in_lake, setup, tmp_path):
    path = open_warehouse(tmp_path / "w.duckdb", setup)
    (shard,) = list_shards(str(write_shard(tmp_path / "a.tar", range(4))), 1000)
    keeping = replace(setup, keep_signatures=1.0)
    land(Warehouse.at(path), [score_shard(shard, keeping, parts_in_lake, RUN, None, lambda images: None)], setup.key)
    kept = signatures_path(parts_in_lake, shard.url, shard.size_bytes, shard.fingerprint, setup.key.scorer_id)
    assert [len(batch.keys) for batch in read_signatures(kept, 3)] in ([3, 1], [4])
    shifted = [replace(part, scores=tuple(score + 0.5 for score in part.scores)) for part in setup.calibration.slices]
    other = replace(setup, calibration=replace(setup.calibration, slices=tuple(shifted)))
    plan = plan_rescore(Warehouse.at(path), parts_in_lake, other)
    assert [(work.shard, old) for work, old in plan.shards] == [(shard, setup.key)]
    outcome = rescore_shard(shard, setup.key, other, parts_in_lake, RUN)
    assert (outcome.members, outcome.scored) == (4, 4)
    assert outcome.part == part_path(parts_in_lake, shard, other.key)


def test_finished_parts_answer_questions_from_the_store(warehouse):
    found = query_parts(Warehouse.at(warehouse), "SELECT count(*) AS n, count(DISTINCT shard_url) AS shards FROM scored").iloc[
        0
    ]
    assert (found["n"], found["shards"]) == (9, 3)
    assert len(query_parts(Warehouse.at(warehouse), "SELECT * FROM accounting")) == 3


def test_a_plan_lies_in_the_store_and_goes_when_its_run_is_over(warehouse, parts_in_lake):
    path = f"{parts_in_lake}/plans/{RUN[:-1]}9.parquet"
    work = [Work(Shard(f"/{number}.tar", "tar", 5, "x"), number) for number in range(3)]
    write_plan(path, work, 2)
    assert read_plan(path, 1) == work[2:]
    assert [found.check for found in verify(Warehouse.at(warehouse)) if found.subject == path] == []
