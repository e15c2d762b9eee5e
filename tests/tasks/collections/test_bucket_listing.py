"""Listing a bucket: the shards that a listing as a whole gives, for the fewest requests."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import fault_proxy
from s3fs import S3FileSystem

from mdmf_core.errors import SourceError
from tasks.collections.listing import iter_shards, list_shards, listed
from tasks.collections.open_shards import expected_members
from tasks.storage.s3_pages import pages_with

SHARDS = 400  # with three files each: two pages of a listing


@pytest.fixture
def corpus(signed_in: Path) -> Iterator[Path]:
    """An empty folder of the bucket."""
    folder = signed_in / "paged"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def asked(signed_in, sign_in) -> Iterator[list[tuple[str, str]]]:
    """Method and path of every request from here on."""
    seen: list[tuple[str, str]] = []
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        sign_in(proxy.url)
        proxy.touches = lambda method, path: seen.append((method, path)) or False
        yield seen


def img2dataset(folder: Path, numbers: range, without_stats: tuple[int, ...] = ()) -> None:
    for number in numbers:
        (folder / f"{number:05d}.tar").write_bytes(bytes(number % 7))
        (folder / f"{number:05d}.parquet").write_bytes(b"")
        if number not in without_stats:
            (folder / f"{number:05d}_stats.json").write_text("{}")


def lists(asked: list[tuple[str, str]]) -> int:
    """LIST requests so far; there must be no others."""
    assert {method for method, _ in asked} <= {"GET"}
    assert all("list-type=2" in path for _, path in asked)
    return len(asked)


def facts(shards: list[Any], root: str) -> list[tuple[str, int, str | None]]:
    return [(shard.url.removeprefix(root), shard.size_bytes, shard.unfinished) for shard in shards]


@pytest.mark.parametrize(
    ("pattern", "shards", "requests"),
    [
        ("{00000..00399}.tar", 400, 2),  # 1,200 files
        ("*.tar", 400, 2),
        ("", 400, 2),
        ("{00100..00109}.tar", 10, 1),
        ("{00003,00390}.tar", 2, 2),
        ("0039?.tar", 10, 2),  # the folder's first page tells that img2dataset writes it
        ("00399.tar", 1, 2),  # has no stats file, so that the folder is asked likewise
    ],
)
def test_requests_grow_with_what_is_asked_for_and_no_shard_costs_one(corpus, asked, pattern, shards, requests):
    img2dataset(corpus, range(SHARDS), without_stats=(399,))
    found = list_shards(f"s3://corpus/paged/{pattern}", 1000)
    assert len(found) == shards
    if pattern:
        assert lists(asked) == requests
    else:  # and what the name means
        assert [method for method, _ in asked] == ["HEAD", *["GET"] * (requests + 1)]
    assert [shard.unfinished is not None for shard in found] == [shard.url.endswith("399.tar") for shard in found]
    assert facts(found, "s3://corpus/paged/") == facts(list_shards(f"{corpus}/{pattern}", 1000), f"{corpus}/")


def test_a_gap_of_more_than_a_page_is_not_listed(corpus, asked):
    img2dataset(corpus, range(2 * SHARDS))  # 2,400 files: three pages from the first name to the last
    found = list_shards("s3://corpus/paged/{00003,00790}.tar", 1000)
    assert [shard.url.rpartition("/")[2] for shard in found] == ["00003.tar", "00790.tar"]
    assert lists(asked) == 2


def test_the_first_shard_comes_with_the_first_page(corpus, asked):
    img2dataset(corpus, range(SHARDS))
    shards = iter_shards("s3://corpus/paged/*.tar", 1000)
    assert next(shards).url == "s3://corpus/paged/00000.tar"
    assert lists(asked) == 1
    assert len(list(shards)) == SHARDS - 1


TREE = """
1.tar 1_stats.json 10.tar 100.tar 100_stats.json 2.tar 2_stats.json a.tar.gz notes.txt B.TAR x/1.tar x-y/1.tar x-y/2.tar
x/deep/1.tar x/2.parquet p/1.parquet p/2.parquet p/read.me pictures/a.jpg pictures/b/c.png
"""
PATTERNS = """
{1,10,100,2}.tar {10,2,3,1}.tar *[0-9].tar 1*.tar ?.tar */1.tar x*/?.tar **/1.tar p p/ x x-y {x,x-y}/{1..2}.tar p/*.parquet
pictures B.TAR x/{1.tar,2.parquet}
"""


@pytest.mark.parametrize("pattern", PATTERNS.split())
def test_the_shards_are_those_of_the_same_files_on_disk(corpus, pattern):
    for name in TREE.split():
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_bytes(name.encode())
    here = facts(list_shards(f"{corpus}/{pattern}", 1000), str(corpus))
    assert facts(list_shards(f"s3://corpus/paged/{pattern}", 1000), "s3://corpus/paged") == here


def test_pages_that_hold_nothing_but_folders_are_passed(corpus, asked):
    for number in range(1100):
        (corpus / f"1{number:04d}").mkdir()
        (corpus / f"1{number:04d}" / "x").write_bytes(b"")
    for name in ("0.tar", "10000.tar", "11090.tar", "2.tar"):
        (corpus / name).write_bytes(b"1")
    assert [shard.size_bytes for shard in list_shards("s3://corpus/paged/{0,10000,11090,2}.tar", 1000)] == [1] * 4
    assert lists(asked) <= 4


def test_a_folder_without_stats_files_is_finished(corpus):
    for number in range(3):
        (corpus / f"{number}.tar").write_bytes(b"1")
    for pattern in ("*.tar", "{0..2}.tar", ""):
        assert [shard.unfinished for shard in list_shards(f"s3://corpus/paged/{pattern}", 1000)] == [None] * 3


def test_what_is_not_there_is_said_and_a_source_of_nothing_refused(corpus):
    (corpus / "0.tar").write_bytes(b"1")
    sizes = [shard.size_bytes for shard in list_shards("s3://corpus/paged/{0..2}.tar", 1000)]
    assert sizes == [1, -1, -1]
    assert [shard.size_bytes for shard in listed(["s3://corpus/paged/8.tar", "s3://corpus/other/0.tar"], 1000)] == [-1, -1]
    for pattern in ("{7..8}.tar", "7*.tar", "nothing*/1.tar"):
        with pytest.raises(SourceError, match="no shards or images there"):
            list_shards(f"s3://corpus/paged/{pattern}", 1000)
    with pytest.raises(SourceError, match="the bucket must be named"):
        list_shards("s3://*/1.tar", 1000)
    with pytest.raises(SourceError, match=r"neither a folder nor a \.tar"):
        list_shards("s3://corpus/paged/nowhere", 1000)
    (corpus / "a.txt").write_bytes(b"1")
    with pytest.raises(SourceError, match=r"neither \.tar nor \.parquet"):
        list_shards("s3://corpus/paged/*", 1000)


def test_a_stats_file_costs_its_own_read_and_no_listing(corpus, asked):
    (corpus / "0.tar").write_bytes(b"1")
    (corpus / "0_stats.json").write_text(json.dumps({"successes": 5}))
    (shard,) = list_shards("s3://corpus/paged/0.tar", 1000)
    asked.clear()
    assert expected_members(shard) == 5
    assert [(method, path) for method, path in asked] == [(how, "/corpus/paged/0_stats.json") for how in ("HEAD", "GET")]


class WithoutStartAfter(S3FileSystem):
    """A bucket of 30 names in pages of ten, whose server does not know `StartAfter`; no such server can be had here."""

    def call_s3(self, method: str, **request: str) -> dict[str, Any]:
        first = int(request.get("ContinuationToken", 0))
        page = [{"Key": f"f/{number:02d}", "Size": 1} for number in range(first, first + 10)]
        return {"Contents": page, "IsTruncated": first < 20, "NextContinuationToken": str(first + 10)}


def test_a_store_that_cannot_begin_in_between_is_listed_from_its_start():
    store = WithoutStartAfter(anon=True, skip_instance_cache=True)
    names = [entry["name"] for page in pages_with(store, "bucket/f", ["05", "11", "29"]) for entry in page]
    assert {"bucket/f/05", "bucket/f/11", "bucket/f/29"} <= set(names)
    assert len(names) <= 40
