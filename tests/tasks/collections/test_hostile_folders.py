"""Folders with names and files that are no images: nothing blocks, nothing is lost, nothing is mistaken for another shard."""

import os
import socket
from pathlib import Path

import pytest

from mdmf_core.errors import ShardUnfinished, SourceError
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard
from tasks.parts.outcome import Work
from tasks.parts.plans import read_plan, write_plan
from tasks.storage.filesystems import open_storage

NAMES = [
    "a\nb.jpg",
    "'\"`$(x).jpg",
    "#slice=0of2.jpg",
    "100%25.jpg",
    "<script>.jpg",
    "\u202egpj.jpg",
    "caf\udce9.jpg",
    "{a,b}*?.jpg",
]


def keys(folder: Path) -> list[str]:
    return [member.key for shard in list_shards(str(folder), 1000) for member in _members(shard)]


def _members(shard):
    with open_shard(shard, 1 << 20) as reader:
        return list(reader)


def test_any_name_is_read_and_becomes_a_key(tmp_path):
    folder = tmp_path / "a#slice=1of2"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(b"x")
    shards = list_shards(str(folder), 1000)
    write_plan(str(tmp_path / "plan.parquet"), [Work(shard, 0) for shard in shards], 1000)
    planned = [work.shard for work in read_plan(str(tmp_path / "plan.parquet"), 0)]
    assert planned == shards
    members = [member for shard in planned for member in _members(shard)]
    assert {member.key for member in members} == {name.replace("\udce9", "\\xe9") for name in NAMES}
    assert all(member.data == b"x" for member in members)


def test_what_is_no_file_never_blocks_a_run(tmp_path):
    folder, outside = tmp_path / "images", tmp_path / "outside.jpg"
    folder.mkdir()
    outside.write_bytes(b"x")
    os.mkfifo(folder / "fifo.jpg")
    os.mkfifo(folder / "real.txt")
    (folder / "real.jpg").write_bytes(b"x")
    (folder / "folder.jpg").mkdir()
    for name, target in {
        "link": outside,
        "loop": "loop.jpg",
        "gone": "gone",
        "zero": "/dev/zero",
        "pipe": folder / "fifo.jpg",
    }.items():
        (folder / f"{name}.jpg").symlink_to(target)
    (folder / "around").symlink_to(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.jpg"))
        assert keys(folder) == ["link.jpg", "real.jpg"]


def test_a_shard_that_is_no_file_is_deferred(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    (shard,) = list_shards(str(tmp_path / "a.tar"), 1000)
    with pytest.raises(ShardUnfinished, match="FIFO"), open_shard(shard, 1000):
        pass


def test_a_shard_whose_name_no_table_can_hold_is_refused(tmp_path):
    (tmp_path / "caf\udce9.tar").write_bytes(bytes(1024))
    with pytest.raises(SourceError, match=r"caf\\xe9.tar.* rename the file"):
        list_shards(str(tmp_path), 1000)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hush-hush@bucket/a.tar",
        "s3://AKIA:hush/hush@bucket/a.tar",
        "https://user:hush-hush@host:8080/a.tar",
        "https://hush-hush@host/a.tar",
        "https://host/a.tar?X-Amz-Credential=x&X-Amz-Signature=hush-hush",
        "https://host/a.tar?sv=1&sig=hush-hush",
        "simplecache::s3://AKIA:hush-hush@bucket/{0..3}.tar",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(SourceError, match=r"AWS_SECRET_ACCESS_KEY.*Prefect Secret block") as caught:
        list_shards(url, 1000)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["/data/a@b:c/x.tar", "memory://host:9000/x.tar", "memory://b/a@b.tar", "memory://b/?.tar"])
def test_other_urls_pass(url):
    open_storage(url)


@pytest.mark.parametrize("source", ["", "  "])
def test_an_empty_source_is_not_the_working_directory(source):
    with pytest.raises(SourceError, match="the source is empty"):
        list_shards(source, 1000)


@pytest.mark.parametrize("url", ["http://host/a.tar", "https://host/{0..3}.tar", "hf://datasets/a/b.parquet"])
def test_the_web_is_no_store(url):
    with pytest.raises(SourceError, match=r"local disk or s3://, not from the web"):
        list_shards(url, 1000)
