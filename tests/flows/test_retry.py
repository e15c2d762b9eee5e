"""Another try, by the class of the reason: only what may end otherwise, only those members."""

import json
import os
from pathlib import Path

import pytest
from fabricate import encoded, write_folder, write_shard
from pandas.testing import assert_frame_equal

from mdmf import to_pandas as query
from mdmf_core.errors import MdmfError
from mdmf_core.images.decode import ImageLimits
from mdmf_core.records import ExclusionReason
from tasks.collections.listing import list_shards
from tasks.maintenance.content_digest import content_digest
from tasks.parts.outcome import work_name
from tasks.parts.part_files import part_path
from tasks.runs.retry import require_retryable
from tasks.scoring import score_shard as extract
from tasks.scoring.decoder_pool import DecodePool
from tasks.scoring.loading import load_setup
from tasks.warehouse.warehouse import Warehouse

ROWS = "SELECT * EXCLUDE (run_id, scored_at) FROM scored ORDER BY key"


@pytest.fixture
def retry(curate, tiny_scorer, tiny_bank, tmp_path):
    """The flow on the tiny scorer and the warehouse of ``curate``."""
    from flows.retry import retry as flow

    def run(*reasons: str, **options: object) -> object:
        defaults = {"warehouse": str(tmp_path / "warehouse.duckdb"), "scorer": tiny_scorer, "bank": tiny_bank}
        return flow(reasons=reasons, **defaults | options)

    return run


def overwrite_in_place(path: Path, old: bytes, new: bytes) -> None:
    """Changes bytes of a file behind the back of its listing: same size, same times."""
    before, data = path.stat(), path.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(scope="module")
def small_decoders():
    """Decoders that take no image above 100,000 pixels."""
    pool = DecodePool(1, ImageLimits(max_pixels=100_000))
    yield lambda workers: pool
    pool.close()


def test_only_members_of_the_reason_are_read_and_only_their_rows_change(curate, retry, small_decoders, tmp_path, monkeypatch):
    warehouse = str(tmp_path / "warehouse.duckdb")
    large = encoded(7, width=400, height=300)
    source = write_shard(tmp_path / "00000.tar", range(3), {"large.jpg": large, "large.txt": b"big", "page.jpg": b"<html>"})
    monkeypatch.setattr(extract, "decode_pool", small_decoders)
    assert curate(source).excluded == 2
    before = query(warehouse, ROWS)
    monkeypatch.undo()
    overwrite_in_place(source, encoded(1)[-300:], b"z" * 300)  # another member, which must not be read
    result = retry("too_large", force=True)
    assert (result.complete, result.members, result.scored, result.excluded) == (1, 5, 4, 1)
    after = query(warehouse, ROWS)
    assert after[after["key"] != "large"].reset_index(drop=True).equals(before)
    mended = after.set_index("key").loc["large"]
    assert (mended["caption"], mended["width"]) == ("big", 400)
    assert list(query(warehouse, "SELECT reason FROM excluded")["reason"]) == ["not_an_image"]
    counted = query(warehouse, "SELECT members, scored, excluded FROM accounting").iloc[0]
    assert tuple(counted) == (5, 4, 1)
    overwrite_in_place(source, b"z" * 300, encoded(1)[-300:])
    undisturbed = tmp_path / "undisturbed.duckdb"
    curate(source, warehouse=str(undisturbed))
    # Scored alone or in a batch: processors with other instructions round otherwise.
    assert_frame_equal(query(str(undisturbed), ROWS), after, rtol=1e-5, atol=1e-6)
    assert retry("too_large", force=True).complete == 0


def test_kept_signatures_that_lack_the_mended_members_go(curate, retry, small_decoders, tmp_path, monkeypatch):
    source = write_shard(tmp_path / "00000.tar", range(2), {"large.jpg": encoded(7, width=400, height=300)})
    monkeypatch.setattr(extract, "decode_pool", small_decoders)
    curate(source, keep_signatures=1)
    kept = tmp_path / "warehouse.duckdb.parts" / "signatures"
    assert len(list(kept.iterdir())) == 1
    monkeypatch.undo()
    retry("too_large", force=True)
    assert list(kept.iterdir()) == []


def test_without_its_part_or_with_other_content_a_shard_is_scored_whole(curate, retry, tmp_path, tiny_scorer, tiny_bank):
    warehouse = str(tmp_path / "warehouse.duckdb")
    source = write_shard(tmp_path / "00000.tar", range(3), {"page.jpg": b"<html>"})
    curate(source)
    (shard,) = list_shards(str(source), 1000)
    os.remove(part_path(Warehouse.at(warehouse).parts, shard, load_setup(tiny_scorer, tiny_bank, "cpu", 8, 1, None).key))
    assert retry("not_an_image", force=True).members == 4
    write_shard(source, range(9), {"page.jpg": b"<html>"})
    assert retry("not_an_image", force=True).members == 10
    assert len(query(warehouse, ROWS)) == 9
    source.unlink()
    assert (retry("not_an_image", force=True).shards, len(query(warehouse, ROWS))) == (1, 9)


def test_slices_of_a_folder_are_found_again_however_they_were_cut(curate, retry, tmp_path):
    folder = write_folder(tmp_path / "pictures", range(6))
    for number in range(6):
        (folder / f"page{number}.jpg").write_bytes(b"<html>")
    curate(folder, images_per_slice=3)
    slices = len(query(str(tmp_path / "warehouse.duckdb"), "FROM accounting"))
    assert slices > 1
    first = retry("not_an_image", force=True)
    assert (first.members, first.excluded) == (12, 6)
    (folder / "page3.jpg").write_bytes(encoded(50))  # the listing of before must not be what the next one goes by
    second = retry("not_an_image", force=True)
    assert (second.members, second.scored, second.already_complete) == (12, 7, 0)
    assert len(query(str(tmp_path / "warehouse.duckdb"), "FROM accounting")) == slices


def test_of_a_url_with_rows_and_a_later_deferral_the_deferral_is_tried(curate, retry, tmp_path):
    warehouse = str(tmp_path / "warehouse.duckdb")
    source = write_shard(tmp_path / "00000.tar", range(2), {"page.jpg": b"<html>"})
    curate(source)
    whole = write_shard(source, range(5), {"page.jpg": b"<html>"}).read_bytes()
    source.write_bytes(whole[:-4096])
    assert curate(source).deferred == 1
    source.write_bytes(whole)
    result = retry("unfinished", "not_an_image", force=True)
    assert (result.shards, result.complete, result.members) == (1, 1, 6)
    assert list(query(warehouse, "SELECT state FROM accounting")["state"]) == ["complete"]


def test_a_retry_that_breaks_leaves_the_rows_that_were_there(curate, retry, tmp_path, monkeypatch):
    warehouse = str(tmp_path / "warehouse.duckdb")
    curate(write_shard(tmp_path / "00000.tar", range(2), {"page.jpg": b"<html>"}))
    from tasks.scoring import retry_members as mend

    def broken(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(mend, "scored_rows", broken)
    with pytest.raises(MdmfError, match="device lost"):
        retry("not_an_image", force=True)
    assert list(query(warehouse, "SELECT state FROM accounting")["state"]) == ["complete"]
    assert len(query(warehouse, ROWS)) == 2


def test_shards_of_a_reason_are_read_whole(curate, retry, tmp_path):
    warehouse = str(tmp_path / "warehouse.duckdb")
    folder = tmp_path / "pictures"
    folder.mkdir()
    source = write_shard(tmp_path / "00000.tar", range(3))
    whole = source.read_bytes()
    source.write_bytes(whole[:-4096])
    assert curate(source).deferred == 1
    assert retry("storage").shards == 0
    source.write_bytes(whole)
    assert retry("unfinished").scored == 3
    assert set(query(warehouse, "SELECT state FROM accounting")["state"]) == {"complete"}


def test_a_shard_that_failed_for_what_it_is_waits_for_a_forced_retry(curate, retry, tmp_path):
    write_shard(tmp_path / "00001.tar", range(20, 22))
    source = write_shard(tmp_path / "00000.tar", range(3))
    whole = source.read_bytes()
    source.write_bytes(whole[:512] + b"\xff" * 512 + whole[1024:])
    broken = whole.replace(b"000000001.jpg", b"\xff00000001.jpg", 1)
    source.write_bytes(broken)
    first = curate(f"{tmp_path}/*.tar")
    assert (first.failed, first.complete) == (1, 1)
    second = curate(f"{tmp_path}/*.tar")
    assert (second.failed, second.set_aside, second.already_complete) == (0, 1, 1)
    with pytest.raises(MdmfError, match="corrupt is permanent"):
        retry("corrupt")
    with pytest.raises(MdmfError, match="none of 1 shards could be scored"):
        retry("corrupt", force=True)
    source.write_bytes(whole)
    assert curate(f"{tmp_path}/*.tar").scored == 3


def test_a_shard_that_kills_its_runs_is_set_aside_and_tried_again_on_demand(curate, retry, tmp_path, tiny_scorer, tiny_bank):
    warehouse = str(tmp_path / "warehouse.duckdb")
    for number in range(2):
        write_shard(tmp_path / f"0000{number}.tar", range(number * 10, number * 10 + 2))
    name = work_name(str(tmp_path / "00000.tar"), load_setup(tiny_scorer, tiny_bank, "cpu", 8, 1, None).key)
    held = Path(Warehouse.at(warehouse).leases) / "held"
    held.mkdir(parents=True)
    (held / f"{name}.5.json").write_text(json.dumps({"owner": "gone.0", "attempts": 5}))
    first = curate(f"{tmp_path}/*.tar")
    assert (first.failed, first.complete) == (1, 1)
    reason = query(warehouse, "SELECT reason FROM accounting WHERE state = 'failed'")["reason"][0]
    assert reason.startswith("killed: 5 processes died while they were at it")
    assert curate(f"{tmp_path}/*.tar").set_aside == 1
    assert retry("killed").scored == 2


def test_an_error_in_one_shard_fails_the_run_by_name_and_costs_no_other_shard(curate, tmp_path, monkeypatch):
    for number in range(3):
        write_shard(tmp_path / f"0000{number}.tar", range(number * 10, number * 10 + 2))
    from tasks.runs import leased_shard as work

    real = work.score_shard

    def broken(shard, *rest):
        if shard.url.endswith("00001.tar"):
            raise RuntimeError("device lost")
        return real(shard, *rest)

    monkeypatch.setattr(work, "score_shard", broken)
    with pytest.raises(MdmfError, match=r"1 of 3 shards failed; first: .*00001.tar: error: RuntimeError: device lost"):
        curate(f"{tmp_path}/*.tar")
    warehouse = str(tmp_path / "warehouse.duckdb")
    assert query(warehouse, "SELECT count(*) AS n FROM scored")["n"][0] == 4
    monkeypatch.undo()
    assert curate(f"{tmp_path}/*.tar").scored == 2  # an error is not set aside


@pytest.mark.parametrize(
    ("reason", "force", "message"),
    [("undecodable", False, "permanent"), ("duplicate_key", True, "other members"), ("sunspots", False, "unknown reason")],
)
def test_what_another_try_cannot_change_is_refused(reason, force, message):
    with pytest.raises(MdmfError, match=message):
        require_retryable((reason,), force)


def test_a_warehouse_that_is_not_there_is_not_made(retry, tmp_path):
    with pytest.raises(MdmfError, match=f"no warehouse at {tmp_path}"):
        retry("storage")
    assert list(tmp_path.iterdir()) == []


def test_passing_reasons_need_no_force():
    require_retryable(tuple(reason for reason in ExclusionReason if reason.passes), False)
    require_retryable(("undecodable", "corrupt"), True)


def test_a_file_that_the_store_did_not_give_is_read_again_alone(curate, retry, proxied, signed_in, tmp_path):
    write_folder(signed_in / "pictures", range(5))
    (signed_in / "pictures" / "3.txt").write_text("three")
    undisturbed = tmp_path / "undisturbed.duckdb"
    curate("s3://corpus/pictures", warehouse=str(undisturbed))
    warehouse = tmp_path / "warehouse.duckdb"
    proxied.touches = lambda method, path: path.endswith("/3.jpg")
    proxied.chances = {"404": 1.0}
    first = curate("s3://corpus/pictures")
    assert (first.complete, first.scored, first.excluded) == (1, 4, 1)
    assert list(query(str(warehouse), "SELECT key, reason FROM excluded").iloc[0]) == ["3.jpg", "storage"]
    assert retry("storage").excluded == 1  # it is not there yet
    proxied.calm()
    second = retry("storage")
    assert (second.members, second.scored) == (5, 5)
    digests = []
    for path in (undisturbed, warehouse):
        with Warehouse.at(str(path)).connect(read_only=True) as connection:
            digests.append(content_digest(connection))
    assert digests[0] == digests[1]
