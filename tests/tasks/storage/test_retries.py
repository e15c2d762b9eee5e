"""Reads and writes through a proxy that breaks requests to a real S3 server."""

import errno
import hashlib
import random
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import write_folder, write_shard
from fault_proxy import UNCHECKED, FaultProxy, evenly

from mdmf_core.errors import ArtifactError, ChecksumDiffers, ShardCorrupt, ShardUnfinished, SourceError, SourceRefused
from mdmf_core.records import ExclusionReason, Shard
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import expected_members, open_shard, read_member
from tasks.storage import checked_reads as reading
from tasks.storage import retries as faults
from tasks.storage.checked_reads import VerifiedFile, read_bytes, read_range
from tasks.storage.filesystems import open_storage
from tasks.storage.publishing import new_directory, publish
from tasks.storage.retries import FaultBudget, may_pass

MB = 2**20


@pytest.fixture
def large(signed_in: Path) -> bytes:
    """What lies at s3://corpus/large.bin: three small blocks and a bit."""
    data = random.Random(7).randbytes(3 * MB + 12345)
    (signed_in / "large.bin").write_bytes(data)
    return data


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK", MB)


def only_objects(method: str, path: str) -> bool:
    """Leaves listings and HEAD alone."""
    return method == "GET" and ("large.bin" in path or ".tar" in path)


@pytest.fixture
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fault; a store that stalls is not waited for as long as usual."""
    if request.param == "stall":
        monkeypatch.setattr(faults, "LIMITS", replace(faults.LIMITS, stall=0.5))
    return request.param


def shards(source: str) -> list[Shard]:
    return list_shards(source, 1000)


def members(shard: Shard) -> list[tuple[str, bytes]]:
    with open_shard(shard, MB) as reader:
        return [(member.key, member.data) for member in reader]


@pytest.mark.parametrize("fault", UNCHECKED, indirect=True)
def test_every_kind_of_fault_is_tried_again_and_the_bytes_are_right(proxied: FaultProxy, large: bytes, fault: str):
    proxied.touches = only_objects
    proxied.script = deque([fault] * 2)
    assert read_bytes("s3://corpus/large.bin") == large
    assert proxied.injected == {fault: 2}
    assert proxied.requests == 6 or fault == "stall"  # four blocks, two of them twice


@pytest.mark.parametrize("fault", UNCHECKED, indirect=True)
def test_listing_and_size_are_tried_again(proxied: FaultProxy, signed_in: Path, fault: str):
    write_shard(signed_in / "listed-0.tar", range(1))
    expected = [shard.url for shard in shards("s3://corpus/listed-*.tar")]
    proxied.script = deque([fault] * 2)
    assert [shard.url for shard in shards("s3://corpus/listed-*.tar")] == expected
    assert not proxied.script
    proxied.script = deque([fault])
    assert expected_members(shards("s3://corpus/listed-0.tar")[0]) == 1


def test_a_broken_answer_is_resumed_from_the_byte_where_it_broke(proxied: FaultProxy, large: bytes):
    proxied.touches = only_objects
    proxied.script = deque(["truncated"])
    read_range("s3://corpus/large.bin", 0, MB)
    assert proxied.ranges == [f"bytes=0-{MB - 1}", f"bytes={MB // 2}-{MB - 1}"]


def test_pages_of_a_listing_are_tried_again_one_by_one(proxied: FaultProxy, signed_in: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "LIMITS", replace(faults.LIMITS, page_tries=3, small_tries=1))
    write_shard(signed_in / "paged-0.tar", range(1))
    proxied.script = deque(["503"])
    assert len(shards("s3://corpus/paged-*.tar")) == 1
    assert proxied.injected == {"503": 1}


@pytest.mark.parametrize(("kind", "says"), [("503", "reduce your request rate"), ("short", "too few")])
def test_a_permanent_fault_spends_the_budget_and_says_so(proxied: FaultProxy, large: bytes, kind: str, says: str):
    proxied.touches = only_objects
    proxied.chances = {kind: 1.0}
    with pytest.raises(SourceError, match=rf"gave up after 6 failed tries; last: .*{says}.*; reached byte \d+ of {len(large)}"):
        read_bytes("s3://corpus/large.bin")
    assert proxied.requests == 6  # neither the S3 client nor fsspec tries again underneath


@pytest.mark.parametrize("answer", ["404", "403"])
def test_a_no_is_taken_at_once(proxied: FaultProxy, large: bytes, answer: str):
    proxied.chances = {answer: 1.0}
    proxied.touches = only_objects
    with pytest.raises(SourceRefused, match=r"large\.bin"):
        read_bytes("s3://corpus/large.bin")
    assert proxied.requests == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_clock_that_differs_is_named(proxied: FaultProxy, large: bytes, method: str):
    proxied.touches = lambda asked, path: asked == method
    proxied.chances = {"skew": 1.0}
    with pytest.raises(SourceError, match=r"clock differs from the store's by 3[56]\d\d s"):
        read_bytes("s3://corpus/large.bin")
    assert proxied.requests == faults.LIMITS.skewed_tries


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_disks_that_stumble_are_tried_again_and_others_not(code: int):
    assert may_pass(OSError(code, "x"))
    assert not any(may_pass(OSError(other, "x")) for other in (errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EISDIR))


@pytest.mark.parametrize("where", ["s3", "disk"])
def test_random_seeks_and_reads_equal_the_file(proxied: FaultProxy, signed_in: Path, large: bytes, where: str):
    proxied.touches = only_objects
    proxied.chances = evenly(0.2, tuple(fault for fault in UNCHECKED if fault not in ("stall", "skew")))
    chance = random.Random(11)
    url = "s3://corpus/large.bin" if where == "s3" else str(signed_in / "large.bin")
    with VerifiedFile(*open_storage(url), FaultBudget(1000)) as file:
        for _ in range(150):
            if chance.random() < 0.5:
                file.seek(chance.randrange(len(large) + 100))
            start, size = file.tell(), chance.choice([0, 1, 1000, MB, 2 * MB + 5])
            assert file.read(size) == large[start : start + size]
            assert file.tell() == max(start, min(start + size, len(large)))
    assert where == "disk" or sum(proxied.injected.values()) > 5


def test_shards_and_single_members_read_through_faults_as_from_disk(proxied: FaultProxy, signed_in: Path):
    expected = members(shards(str(write_shard(signed_in / "read.tar", range(6))))[0])
    (shard,) = shards("s3://corpus/read.tar")
    proxied.script = deque(fault for fault in UNCHECKED if fault != "stall")
    assert members(shard) == expected
    key, locator = "000000002", None
    with open_shard(shard, MB) as reader:
        locator, size, data = next((m.locator, m.size, m.data) for m in reader if m.key == key)
    proxied.script = deque(["short", "503"])
    assert read_member(shard.url, "tar", key, locator, size) == data


def test_a_flipped_byte_is_noticed_by_the_checksum(proxied: FaultProxy, signed_in: Path):
    data = write_shard(signed_in / "flip.tar", range(3)).read_bytes()
    (shard,) = shards("s3://corpus/flip.tar")
    assert shard.fingerprint == hashlib.md5(data).hexdigest()
    proxied.script = deque(["flip"])
    with pytest.raises(ChecksumDiffers, match="checksum differs"):
        members(shard)
    assert members(shard)


def test_damage_in_the_store_is_still_the_shard_and_not_the_store(proxied: FaultProxy, signed_in: Path):
    data = bytearray(write_shard(signed_in / "bad.tar", range(3)).read_bytes())
    middle = data.index(b"000000001.jpg")
    data[middle + 148 : middle + 156] = b"99999999"
    (signed_in / "bad.tar").write_bytes(data)
    with pytest.raises(ShardCorrupt):
        members(shards("s3://corpus/bad.tar")[0])


@pytest.mark.parametrize("where", ["s3", "disk"])
def test_a_shard_that_changes_after_its_listing_or_while_it_is_read_is_put_off(proxied, signed_in, where: str):
    path = write_shard(signed_in / "changing.tar", range(30))
    source = "s3://corpus/changing.tar" if where == "s3" else str(path)
    (shard,) = shards(source)
    write_shard(path, range(100, 130))
    with pytest.raises(ShardUnfinished, match="changed while it was read"):
        members(replace(shard, size_bytes=path.stat().st_size))
    write_shard(path, range(90))
    (shard,) = shards(source)
    assert shard.size_bytes > MB

    def read_while_it_changes() -> None:
        with open_shard(shard, MB) as reader:
            rest = iter(reader)
            next(rest)
            write_shard(path, range(100, 190))
            list(rest)

    with pytest.raises(ShardUnfinished, match="changed while it was read"):
        read_while_it_changes()


def test_a_folder_file_that_is_gone_is_an_exclusion_and_a_store_that_fails_puts_the_slice_off(proxied, signed_in):
    folder = write_folder(signed_in / "folder", range(4))
    for source in ("s3://corpus/folder", str(folder)):
        (folder / "2.jpg").write_bytes((folder / "0.jpg").read_bytes())
        (shard,) = shards(source)
        (folder / "2.jpg").unlink()
        with open_shard(shard, MB) as reader:
            found = {member.key: member for member in reader}
        assert [key for key, member in found.items() if member.excluded] == ["2.jpg"]
        assert found["2.jpg"].excluded == ExclusionReason.STORAGE
        assert "2.jpg: not found" in found["2.jpg"].detail
        assert found["3.jpg"].data == (folder / "3.jpg").read_bytes()
    (shard,) = shards("s3://corpus/folder")
    proxied.touches = lambda method, path: method == "GET" and path.endswith(".jpg")
    proxied.script = deque(["503", "short", "reset_body"])
    assert len(members(shard)) == 4 - 1
    proxied.chances = {"503": 1.0}
    with pytest.raises(SourceError, match=r"folder/0\.jpg: gave up after 12 failed tries"):
        members(shard)


@pytest.mark.parametrize("fault", ["500", "503", "skew", "reset", "reset_body", "stall"], indirect=True)
def test_writes_are_tried_again_and_end_the_same(proxied: FaultProxy, signed_in: Path, fault: str):
    name = f"bank-{fault}"
    proxied.touches = lambda method, path: method == "PUT"
    proxied.script = deque([fault] * 2)
    publish(f"s3://corpus/{name}", {"a.json": b"{}", "b/c.bin": bytes(1000)}, None)
    assert proxied.injected == {fault: 2}
    assert (signed_in / name / "a.json").read_bytes() == b"{}"
    assert (signed_in / name / "b" / "c.bin").read_bytes() == bytes(1000)


@pytest.mark.parametrize("where", ["s3", "disk"])
def test_a_directory_is_new_or_named_by_its_content(signed_in: Path, where: str, tmp_path: Path):
    at = f"{'s3://corpus' if where == 's3' else signed_in}/published-{where}"
    folder = signed_in / f"published-{where}"
    publish(at, {"sub/b.bin": b"b", "card.json": b"{}"}, None)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {"sub/b.bin", "card.json"}
    with pytest.raises(ArtifactError, match="exists; what is published does not change"):
        publish(at, {"card.json": b"[]"}, None)
    assert (folder / "card.json").read_bytes() == b"{}"
    if where == "s3":  # a killed writer's leavings are written over
        publish(at, {"card.json": b"{1}"}, None, named_by_content=True)
        assert (folder / "card.json").read_bytes() == b"{1}"
    else:
        with pytest.raises(SourceError, match="Directory not empty"):
            publish(at, {"card.json": b"[]"}, None, named_by_content=True)
        assert (folder / "card.json").read_bytes() == b"{}"
    assert not list(signed_in.glob("*.tmp"))


def test_a_directory_whose_making_fails_is_not_there(signed_in: Path):
    def fail(at: str) -> None:
        with new_directory(at, "card.json", None) as folder:
            Path(folder, "card.json").write_bytes(b"{}")
            raise KeyError(at)

    for at in ("s3://corpus/failed", str(signed_in / "failed")):
        with pytest.raises(KeyError):
            fail(at)
        assert not (signed_in / "failed").exists()


def test_the_card_of_a_directory_arrives_last(proxied: FaultProxy, signed_in: Path):
    puts: list[str] = []
    proxied.passed = lambda method, path, sent, received: puts.append(path) if method == "PUT" else None
    publish("s3://corpus/ordered", {"z.bin": b"z", "b/c.bin": b"c", "card.json": b"{}"}, None)
    assert [path.partition("/ordered/")[2] for path in puts] == ["b/c.bin", "z.bin", "card.json"]
