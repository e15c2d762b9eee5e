"""The main job on real shards, through a real Prefect server."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from fabricate import CONTENT, ROOT, encoded, write_shard, write_tar

from mdmf import to_pandas as query
from mdmf_core.errors import ArtifactError, MdmfError
from tasks.collections.listing import list_shards
from tasks.parts.part_files import part_path
from tasks.warehouse.warehouse import Warehouse

SAMPLES = ROOT / "samples" / "laion-mini"


def rows(warehouse: object, sql: str = CONTENT) -> pd.DataFrame:
    return query(str(warehouse), sql)


def test_bundled_shards_account_for_every_member(curate, tmp_path):
    result = curate(f"{SAMPLES}/{{00000..00001}}.tar")
    assert result.complete == 2
    assert result.members == result.scored + result.excluded
    expected = sum(len(pd.read_parquet(SAMPLES / f"0000{n}.parquet").query("status == 'success'")) for n in (0, 1))
    assert result.members == expected
    reasons = set(rows(tmp_path / "warehouse.duckdb", "SELECT reason FROM excluded")["reason"])
    assert {"truncated", "too_small", "not_an_image"} <= reasons


def test_captions_urls_and_json_travel_with_their_row(curate, tmp_path):
    curate(write_shard(tmp_path / "00000.tar", range(3)))
    found = rows(tmp_path / "warehouse.duckdb")
    assert list(found["key"]) == ["000000000", "000000001", "000000002"]
    assert list(found["caption"]) == ["caption 0", "caption 1", "caption 2"]
    assert found["url"][2] == "https://example.org/2.jpg"
    assert '"key": "000000001"' in found["sidecar"][1]


def test_second_run_scores_nothing_and_changes_nothing(curate, tmp_path):
    source = write_shard(tmp_path / "00000.tar", range(5))
    assert curate(source).scored == 5
    before = rows(tmp_path / "warehouse.duckdb")
    again = curate(source)
    assert (again.scored, again.already_complete, again.complete) == (0, 1, 0)
    assert not [*(tmp_path / "warehouse.duckdb.parts" / "plans").iterdir()]
    pd.testing.assert_frame_equal(rows(tmp_path / "warehouse.duckdb"), before)


def test_changed_shard_replaces_what_the_views_show_and_keeps_the_old_rows(curate, tmp_path):
    source = write_shard(tmp_path / "00000.tar", range(4))
    curate(source)
    write_shard(source, range(2, 8))
    curate(source)
    warehouse = tmp_path / "warehouse.duckdb"
    assert list(rows(warehouse)["key"]) == [f"{n:09d}" for n in range(2, 8)]
    assert rows(warehouse, "SELECT count(*) AS n FROM scores")["n"][0] == 10


def test_unfinished_shards_are_deferred_with_a_reason_and_taken_up_later(curate, tmp_path):
    whole = write_shard(tmp_path / "00000.tar", range(4)).read_bytes()
    cut = tmp_path / "00001.tar"
    write_shard(cut, range(10, 14))
    finished = cut.read_bytes()
    cut.write_bytes(finished[: len(finished) // 2])
    result = curate(f"{tmp_path}/{{00000..00002}}.tar")
    warehouse = tmp_path / "warehouse.duckdb"
    assert (result.complete, result.deferred) == (1, 2)
    assert (tmp_path / "00000.tar").read_bytes() == whole
    reasons = rows(warehouse, "SELECT reason FROM accounting WHERE state = 'deferred' ORDER BY url")["reason"]
    assert reasons[0].startswith("unfinished: the entry at byte ")
    assert "not there" in reasons[1]
    assert rows(warehouse, "SELECT count(*) AS n FROM images")["n"][0] == 4

    cut.write_bytes(finished)
    result = curate(f"{tmp_path}/{{00000..00001}}.tar")
    assert (result.complete, result.already_complete) == (1, 1)
    assert set(rows(warehouse, "SELECT state FROM accounting WHERE url LIKE '%00001.tar'")["state"]) == {"complete"}


def test_fewer_members_than_the_stats_promise_defers_the_shard(curate, tmp_path):
    source = write_shard(tmp_path / "00000.tar", range(4))
    (tmp_path / "00000_stats.json").write_text('{"successes": 5}')
    assert curate(source).deferred == 1


def test_corrupt_archive_fails_its_shard_and_no_other(curate, tmp_path):
    data = bytearray(write_shard(tmp_path / "00000.tar", range(4)).read_bytes())
    middle = data.index(b"000000002.jpg")
    data[middle + 148 : middle + 156] = b"99999999"
    (tmp_path / "00000.tar").write_bytes(data)
    write_shard(tmp_path / "00001.tar", range(10, 13))
    result = curate(f"{tmp_path}/*.tar")
    assert (result.failed, result.complete, result.scored) == (1, 1, 3)


def test_a_run_in_which_nothing_could_be_scored_fails_and_says_why(curate, tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.jpg": encoded(1)})
    data = bytearray(path.read_bytes())
    data[512 + len(encoded(1)) // 512 * 512 + 1024] = 7
    path.write_bytes(data)
    with pytest.raises(MdmfError, match=r"none of 1 shards could be scored"):
        curate(path)
    assert rows(tmp_path / "warehouse.duckdb", "SELECT state FROM runs")["state"][0] == "failed"


def test_a_run_that_breaks_after_landing_is_closed_as_failed_and_keeps_its_rows(curate, tmp_path):
    (tmp_path / "warehouse.duckdb.report").write_text("a file where the report's folder should be")
    with pytest.raises(ArtifactError, match="it is a file"):
        curate(write_shard(tmp_path / "00000.tar", range(2)))
    run = rows(tmp_path / "warehouse.duckdb", "SELECT state, finished_at FROM runs").iloc[0]
    assert run["state"] == "failed"
    assert pd.notna(run["finished_at"])
    assert len(rows(tmp_path / "warehouse.duckdb")) == 2


def test_groups_and_batches_of_any_size_give_the_same_rows(curate, tmp_path):
    for number in range(3):
        write_shard(tmp_path / f"0000{number}.tar", range(number * 10, number * 10 + 5))
    frames = []
    for number, parameters in enumerate(({"shards_per_task": 1, "batch_images": 1}, {"shards_per_task": 3, "batch_images": 7})):
        warehouse = tmp_path / f"w{number}.duckdb"
        curate(f"{tmp_path}/*.tar", warehouse=str(warehouse), **parameters)
        frames.append(rows(warehouse))
    # The stated tolerance: 1e-5 in score between batch sizes, in float32 on one machine.
    pd.testing.assert_frame_equal(*(frame.drop(columns=["score", "p_value", "top_patch"]) for frame in frames))
    assert (frames[0]["score"] - frames[1]["score"]).abs().max() < 1e-5


def test_max_shards_stops_and_the_next_run_goes_on(curate, tmp_path):
    for number in range(3):
        write_shard(tmp_path / f"0000{number}.tar", range(number * 10, number * 10 + 2))
    first = curate(f"{tmp_path}/*.tar", max_shards=2)
    assert (first.shards, first.complete, first.already_complete) == (3, 2, 0)
    second = curate(f"{tmp_path}/*.tar", max_shards=2)
    assert (second.complete, second.already_complete) == (1, 2)


def test_a_run_that_cannot_write_its_plan_leaves_no_row_that_nobody_closes(curate, tmp_path):
    (tmp_path / "warehouse.duckdb.parts").mkdir()
    (tmp_path / "warehouse.duckdb.parts" / "plans").touch()
    with pytest.raises(FileExistsError):
        curate(write_shard(tmp_path / "00000.tar", range(2)))
    assert not (tmp_path / "warehouse.duckdb").exists()


def test_a_damaged_part_costs_its_shard_and_no_other(curate, setup, tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"0000{number}.tar", range(number * 10, number * 10 + 2))
    warehouse = str(tmp_path / "warehouse.duckdb")
    (shard, _) = list_shards(f"{tmp_path}/*.tar", 1000)
    part = Path(part_path(Warehouse.at(warehouse).parts, shard, setup.key))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"PAR1 not really")
    with pytest.raises(MdmfError, match=r"1 of 2 shards failed; first: .*00000.tar: error: part .* is damaged"):
        curate(f"{tmp_path}/*.tar")
    assert len(rows(warehouse)) == 2
    part.unlink()
    curate(f"{tmp_path}/*.tar")
    assert len(rows(warehouse)) == 4


def test_folder_with_a_new_image_reads_one_slice_again(curate, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for seed in range(12):
        (folder / ("sub" if seed % 2 else ".") / f"{seed}.jpg").write_bytes(encoded(seed))
    (folder / "sub" / "3.txt").write_text("three")
    first = curate(folder, images_per_slice=4)
    assert (first.shards, first.scored) == (4, 12)
    warehouse = tmp_path / "warehouse.duckdb"
    assert rows(warehouse, "SELECT caption FROM scored WHERE key = 'sub/3.jpg'")["caption"][0] == "three"
    (folder / "new.jpg").write_bytes(encoded(99))
    second = curate(folder, images_per_slice=4)
    assert (second.complete, second.already_complete) == (1, 3)
    assert len(rows(warehouse)) == 13
    for seed in range(200, 210):
        (folder / f"{seed}.jpg").write_bytes(encoded(seed))
    curate(folder, images_per_slice=4)  # more images, another number of slices: still one row per image
    assert len(rows(warehouse)) == 23
    assert rows(warehouse)["key"].is_unique


def test_parquet_of_a_data_set_hub(curate, tmp_path):
    table = pd.DataFrame(
        {"image": [{"bytes": encoded(n), "path": f"{n}.jpg"} for n in range(4)], "text": [f"t{n}" for n in range(4)]}
    )
    table.loc[3, "image"] = None
    table.to_parquet(tmp_path / "train-00000.parquet")
    result = curate(tmp_path / "train-00000.parquet")
    assert (result.members, result.scored, result.excluded) == (4, 3, 1)
    assert list(rows(tmp_path / "warehouse.duckdb")["caption"]) == ["t0", "t1", "t2"]


def test_hostile_names_captions_and_sidecars_land_unharmed(curate, tmp_path):
    name = "a'; DROP TABLE images; --\n\"<script>alert(1)</script>"
    files = {f"{name}.jpg": encoded(1), f"{name}.txt": b"\xff\xfe'); <img src=x>", f"{name}.json": b'{"url": "\\ud800", NaN'}
    files |= {"../../etc/passwd.jpg": encoded(2), "../../etc/passwd.json": b'{"url": "\\udfff"}'}
    result = curate(write_tar(tmp_path / "x.tar", files))
    found = rows(tmp_path / "warehouse.duckdb")
    assert result.scored == 2
    assert set(found["key"]) == {name, "../../etc/passwd"}
    page = (Path(result.report)).read_text()
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;" in page


def test_a_finished_part_of_a_killed_run_is_landed_not_scored_again(curate, tmp_path):
    source = write_shard(tmp_path / "00000.tar", range(4))
    first = curate(source)
    warehouse = tmp_path / "warehouse.duckdb"
    before = rows(warehouse)
    warehouse.unlink()  # as if the run had died between its part and its commit
    assert curate(source).scored == 4
    pd.testing.assert_frame_equal(rows(warehouse), before)
    assert set(rows(warehouse, "SELECT run_id::VARCHAR AS r FROM scored")["r"]) == {first.run_id}


def test_views_show_one_scorer_and_bank_and_promotion_switches_them(curate, tmp_path, tiny_scorer, real_folder):
    source = write_shard(tmp_path / "00000.tar", range(4))
    curate(source)
    from flows.bank import build_bank

    warehouse = tmp_path / "warehouse.duckdb"
    other = build_bank(real_folder, "other", str(tmp_path), str(warehouse), tiny_scorer, points=50).directory
    assert not curate(source, bank=other).promoted
    assert len(rows(warehouse)) == 4
    assert rows(warehouse, "SELECT count(*) AS n FROM scores")["n"][0] == 8
    before = rows(warehouse)
    assert curate(source, bank=other, promote=True).promoted
    after = rows(warehouse)
    assert len(after) == 4
    assert (before["score"] != after["score"]).any()
    banks = rows(warehouse, "SELECT bank_id::VARCHAR AS id FROM banks ORDER BY registered_at")["id"]
    assert len(rows(warehouse, f"FROM version_diff('{banks[0]}', '{banks[1]}')")) == 4


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"source": "/nowhere/x.tar"}, "no shards or images there"),
        ({"source": "/proc/nowhere"}, "neither a folder nor"),
        ({"bank": "default"}, "is a backbone without a bank of its own"),
        ({"bank": "/nowhere"}, "not found"),
        ({"scorer": ""}, "the scorer's name is empty"),
        ({"warehouse": ""}, "the warehouse's address is empty"),
        ({"scorer": "timm:vit_tiny_patch16_224"}, r"needs its weights pinned"),
        ({"warehouse": "/proc/x.duckdb"}, "cannot open warehouse"),
        ({"device": "cuda:7"}, "is not there"),
        ({"batch_images": -1}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(curate, tmp_path, parameters, message):
    source = parameters.pop("source", write_shard(tmp_path / "00000.tar", range(2)))
    with pytest.raises(Exception, match=message):
        curate(source, **parameters)
    assert not (tmp_path / "warehouse.duckdb").exists()


def test_bank_of_another_scorer_is_refused_with_both_digests(curate, tmp_path, tiny_scorer, tiny_bank):
    from tasks.scoring.loading import load_bank, load_scorer

    source = write_shard(tmp_path / "00000.tar", range(2))
    other = f"{tiny_scorer}&blocks=3"
    with pytest.raises(ArtifactError) as refused:
        curate(source, scorer=other)
    assert load_scorer(other, "auto").scorer_id in str(refused.value)
    assert load_bank(tiny_bank)[0].scorer_id in str(refused.value)
    shutil.copytree(tiny_bank, tmp_path / "copy")
    assert curate(source, bank=str(tmp_path / "copy")).scored == 2
