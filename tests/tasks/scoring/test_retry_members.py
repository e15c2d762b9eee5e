"""Mending a part: what another look at single members may and may not cost."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import RUN, encoded, open_warehouse, write_folder, write_tar

from mdmf import to_pandas as query
from mdmf_core.images.decode import ImageLimits
from mdmf_core.records import Shard
from tasks.collections.listing import list_shards
from tasks.parts.outcome import ShardOutcome
from tasks.scoring import retry_members as mend
from tasks.scoring.retry_members import retry_members
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse


@pytest.fixture
def scored(setup, tmp_path):
    """Scores a source into its part; mends the part for some reasons."""

    def score(source: Path) -> Shard:
        (shard,) = list_shards(str(source), 1000)
        score_shard(shard, setup, str(tmp_path / "parts"), RUN, None, lambda images: None)
        return shard

    return score


def mended(shard: Shard, setup: ScoringSetup, folder: Path, *reasons: str, told: list[int] | None = None) -> ShardOutcome:
    return retry_members(shard, reasons, setup, str(folder / "parts"), RUN, None, (told if told is not None else []).append)


def test_a_parquet_file_that_was_damaged_since_costs_only_what_is_read_again(setup, scored, tmp_path):
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [encoded(1), encoded(2)[:3000]]}), source)
    shard = scored(source)
    source.write_bytes(source.read_bytes()[:-4] + b"gone")
    after = mended(shard, setup, tmp_path, "truncated")
    assert (after.members, after.scored) == (2, 1)
    rows = pq.read_table(after.part).to_pylist()
    assert rows[1]["reason"] == "storage"
    assert "no parquet footer" in rows[1]["detail"]


def test_a_member_above_the_limit_is_not_read_at_all(setup, scored, tmp_path):
    source = write_tar(tmp_path / "a.tar", {"a.jpg": encoded(1), "b.jpg": bytes(ImageLimits().max_bytes + 1)})
    shard = scored(source)
    source.unlink()  # so that reading would show
    after = mended(shard, setup, tmp_path, "too_large")
    assert pq.read_table(after.part)["reason"].to_pylist() == [None, "too_large"]


def test_only_members_of_the_reason_are_asked_of_the_store(setup, scored, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "pictures", range(3))
    (folder / "page.jpg").write_bytes(b"<html>")
    shard, asked, real, told = scored(folder), [], mend.read_member, []

    def counted(url, kind, key, *rest):
        asked.append(key)
        return real(url, kind, key, *rest)

    monkeypatch.setattr(mend, "read_member", counted)
    before = mended(shard, setup, tmp_path, "not_an_image", told=told)
    assert asked == ["page.jpg"]
    assert told == [1]
    assert (before.members, before.excluded) == (4, 1)


def test_a_slice_that_gains_a_file_takes_the_place_of_what_it_was_without_it(setup, tmp_path):
    warehouse, folder = open_warehouse(tmp_path / "w.duckdb", setup), write_folder(tmp_path / "pictures", range(3))
    (folder / "1.txt").write_text("one")
    (shard,) = list_shards(str(folder), 1000)
    (folder / "1.jpg").rename(tmp_path / "away.jpg")
    first = score_shard(shard, setup, str(tmp_path / "parts"), RUN, None, lambda images: None)
    land(Warehouse.at(warehouse), [first], setup.key)
    (tmp_path / "away.jpg").rename(folder / "1.jpg")
    second = mended(shard, setup, tmp_path, "storage")
    assert (first.scored, second.scored) == (2, 3)
    assert first.digest != second.digest
    land(Warehouse.at(warehouse), [second], setup.key)
    held = [query(warehouse, f"SELECT count(*) AS n FROM {table}")["n"][0] for table in ("shards", "images", "exclusions")]
    assert held == [1, 3, 0]
    assert query(warehouse, "SELECT caption FROM scored WHERE key = '1.jpg'")["caption"][0] == "one"
