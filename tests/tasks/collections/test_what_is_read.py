"""What is there is read, excluded with a reason, or said not to be read; and one place has one name."""

import gzip
import json
import logging
import os
from pathlib import Path

import pytest
from corpora import jpeg, sample
from fabricate import write_tar

from mdmf_core.errors import ShardCorrupt, SourceError
from mdmf_core.records import Member
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard, read_beside


def members(source: object) -> list[Member]:
    found: list[Member] = []
    for shard in list_shards(str(source), 1000):
        with open_shard(shard, 1 << 24) as reader:
            found += list(reader)
    return found


def test_images_of_any_name_are_read_and_others_are_counted_in_one_line(tmp_path, caplog):
    images = ["a.jpg", "b.JFIF", "c.jpe", "0f3a9c", "d.jpg?w=300", "e.img"]
    for name in images:
        (tmp_path / name).write_bytes(jpeg(len(name)))
    for name in ("notes.md", "more.md", "page.html", "._a.jpg", "a.txt", "a.json"):
        (tmp_path / name).write_bytes(b"{}")
    with caplog.at_level(logging.WARNING):
        assert {member.key for member in members(tmp_path)} == set(images)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "not read" in said
    assert "2 .md" in said
    assert "1 .html" in said


def test_caption_and_json_beside_a_file_are_read_as_from_a_tar(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "1.txt").write_text("words")
    (tmp_path / "1.json").write_text(json.dumps({"url": "http://host.example/1.jpg"}))
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    first, second = members(tmp_path)
    assert (first.caption, first.url) == ("words", "http://host.example/1.jpg")
    assert json.loads(first.sidecar) == {"url": "http://host.example/1.jpg"}
    assert (second.caption, second.url, second.sidecar) == (None, None, None)
    assert read_beside(f"{tmp_path}#slice=0of1", "1.jpg") == (first.caption, first.sidecar)
    assert read_beside(f"{tmp_path}#slice=0of1", "2.jpg") == (None, None)


def test_shards_deeper_down_are_named_and_not_passed_over(tmp_path):
    for folder in ("data", "assets"):
        (tmp_path / folder).mkdir()
    write_tar(tmp_path / "data" / "0.tar", sample("a", 1))
    (tmp_path / "assets" / "thumb.png").write_bytes(jpeg(1))
    with pytest.raises(SourceError, match=rf"1 shards deeper down, such as data/0\.tar.*{tmp_path}/data, .*/\*\*/\*\.tar"):
        list_shards(str(tmp_path), 10)
    assert len(members(tmp_path / "**" / "*.tar")) == 1
    (tmp_path / "data" / "0.jpg").write_bytes(jpeg(2))  # a table beside images says something of them
    assert len(members(tmp_path)) == 2


def test_a_folder_of_compressed_tars_is_told_what_to_do(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(SourceError, match="compressed tars are not supported"):
        list_shards(str(tmp_path), 10)


@pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
def test_a_pointer_of_git_lfs_is_no_shard_that_is_still_being_written(tmp_path, name):
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1\n")
    with pytest.raises(ShardCorrupt, match="git lfs pull"):
        members(tmp_path)


def test_one_place_has_one_name_however_it_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    write_tar(tmp_path / "d" / "a.tar", sample("a", 1))
    write_tar(tmp_path / "d" / "b.tar", sample("b", 2))
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    real = os.path.realpath(tmp_path / "d")
    spellings = ["d", "d/", "./d", f"{tmp_path}//d", f"../{tmp_path.name}/d", "link", f"file://{tmp_path}/d", "deep/up/../d"]
    spellings += ["d/*.tar", "link/?.tar", "d/{a,b}.tar", "../*/d/*.tar"]
    for spelling in spellings:
        assert [shard.url for shard in list_shards(spelling, 10)] == [f"{real}/a.tar", f"{real}/b.tar"], spelling


def test_a_linked_shard_keeps_the_name_that_tells_its_kind(tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write_tar(tmp_path / "blobs" / "0123abcd", sample("a", 1))
    (tmp_path / "snapshot" / "a.tar").symlink_to(tmp_path / "blobs" / "0123abcd")
    for source in (tmp_path / "snapshot", tmp_path / "snapshot" / "a.tar"):
        assert [member.key for member in members(source)] == ["a"]
