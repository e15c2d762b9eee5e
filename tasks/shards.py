"""Planning a collection and opening its shards."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import fsspec

from mdmf_core.collections.folder import FolderReader, slice_of
from mdmf_core.collections.parquet import ParquetReader, parquet_row
from mdmf_core.collections.source import expand_braces, shard_kind
from mdmf_core.collections.tar import TarReader
from mdmf_core.errors import ShardUnfinished, SourceError, SourceRefused
from mdmf_core.records import ExclusionReason, ImageExcluded, Shard
from tasks.faults import Budget, storage_errors, with_retries
from tasks.listing import is_s3
from tasks.paged_shards import paged
from tasks.reading import SteadyFile, open_file, open_shard_file, read_bytes, read_range
from tasks.shard_entries import STATS, folder_slices, require_folder, shard_of
from tasks.storage import listing, open_storage, refuse_credentials

Reader = TarReader | ParquetReader | FolderReader


def iter_shards(source: str, images_per_slice: int, storage_block: str | None = None) -> Iterator[Shard]:
    """Every shard that ``source`` names, in order, as the listing goes; of a bucket no more than some pages are held.

    Args:
        source: tar or parquet shards by path, brace range or glob; a folder that holds shards; or a folder of images.

    Raises:
        SourceError: no access, or a kind of file that is not supported; at the end, when there was nothing.
    """
    there = False
    for shard in _listed(expand_braces(source), images_per_slice, storage_block):
        there = there or shard.size_bytes >= 0
        yield shard
    if not there:
        raise SourceError(f"{source}: no shards or images there. Check the path, the pattern and the bucket")


def list_shards(source: str, images_per_slice: int, storage_block: str | None = None) -> list[Shard]:
    """The same, held; raises before it gives any."""
    return list(iter_shards(source, images_per_slice, storage_block))


def listed(urls: Iterable[str], images_per_slice: int, storage_block: str | None = None) -> list[Shard]:
    """The same for several sources without braces; a shard that is not there has a size of -1.

    Raises:
        SourceError: no access, or a kind of file that is not supported.
    """
    return list(_listed(urls, images_per_slice, storage_block))


def _listed(urls: Iterable[str], images_per_slice: int, storage_block: str | None) -> Iterator[Shard]:
    held: dict[str, _Folder] = {}
    for number, (_, group) in enumerate(groupby(urls, key=os.path.dirname)):
        first = next(group)
        filesystem, _ = open_storage(first, storage_block, listing=True)
        if number == 0:
            filesystem.invalidate_cache()  # what an earlier run in this process saw
        if is_s3(filesystem):
            yield from paged(filesystem, chain([first], group), images_per_slice)
            continue
        for url in chain([first], group):
            yield from _from_whole_listings(filesystem, url, held, images_per_slice)


@dataclass(frozen=True)
class _Folder:
    """A listing."""

    entries: dict[str, dict[str, Any]]
    by_img2dataset: bool


def _from_whole_listings(
    filesystem: fsspec.AbstractFileSystem, url: str, held: dict[str, _Folder], images_per_slice: int
) -> Iterator[Shard]:
    """What one URL names; a folder is listed once."""
    refuse_credentials(url)
    path = filesystem._strip_protocol(url)
    if "*" in path or "?" in path:
        found = sorted(with_retries(url, filesystem.glob, path))
    elif shard_kind(path) is None:
        require_folder(filesystem, url)
        found = _folder_shards(filesystem, path)
        if not found:
            yield from folder_slices(filesystem, path, images_per_slice)
    else:
        found = [path]
    for shard_path in found:
        folder = os.path.dirname(shard_path)
        if folder not in held:
            entries = {entry["name"]: entry for entry in listing(filesystem, folder)}
            held[folder] = _Folder(entries, any(name.endswith(STATS) for name in entries))
        yield shard_of(filesystem, shard_path, held[folder].entries, held[folder].by_img2dataset)


def _folder_shards(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """The tars of a folder; without tars, its parquet files (beside tars those are img2dataset's own metadata)."""
    names = [entry["name"] for entry in listing(filesystem, path)]
    for suffix in (".tar", ".parquet"):
        found = sorted(name for name in names if name.lower().endswith(suffix))
        if found:
            return found
    return []


@contextmanager
def open_shard(shard: Shard, max_bytes: int, storage_block: str | None = None) -> Iterator[Reader]:
    """A reader over the shard's members. What is wrong with the bytes as a whole is said when the block ends.

    Raises:
        ShardUnfinished: the listing already says so, or the file changed since or meanwhile.
        SourceError: the store refuses, or failed too often, or gave other bytes than those of its checksum.
    """
    if shard.unfinished:
        raise ShardUnfinished(shard.unfinished)
    if shard.kind == "folder":
        yield _folder_reader(shard, max_bytes, storage_block)
        return
    with open_shard_file(shard, storage_block) as file:
        yield TarReader(file, shard.size_bytes, max_bytes) if shard.kind == "tar" else ParquetReader(file, max_bytes)


def expected_members(shard: Shard, storage_block: str | None = None) -> int | None:
    """Images that the shard's own ``_stats.json`` promises; None without one.

    Raises:
        SourceError: the store does not say.
    """
    if shard.kind != "tar":
        return None
    try:
        stats = json.loads(read_bytes(shard.url.removesuffix(".tar") + STATS, storage_block))
        return int(stats["successes"])
    except (SourceRefused, KeyError, TypeError, ValueError):
        return None


def _folder_reader(shard: Shard, max_bytes: int, storage_block: str | None) -> FolderReader:
    """All files of the slice share one budget; one that is gone or denied is an exclusion."""
    filesystem, root = open_storage(slice_of(shard.url)[0], storage_block)
    budget = Budget.of_shard()

    def read(key: str) -> tuple[bytes | None, int]:
        try:
            with SteadyFile(filesystem, f"{root}/{key}", budget) as file:
                return (file.readall() if file.size <= max_bytes else None), file.size
        except SourceRefused as error:
            raise ImageExcluded(ExclusionReason.STORAGE, str(error)) from error

    def caption(key: str) -> str | None:
        try:
            with SteadyFile(filesystem, caption_path(root, key), budget) as file:
                return file.readall().decode("utf-8", "replace")
        except SourceRefused:
            return None

    return FolderReader(shard.keys, read, caption)


def caption_path(root: str, key: str) -> str:
    """Where the text beside a folder's image lies."""
    return f"{root}/{key.rpartition('.')[0]}.txt"


def read_caption(shard_url: str, key: str, storage_block: str | None = None) -> str | None:
    """The text beside one image of a folder's slice; None without one.

    Raises:
        SourceError: the store does not say.
    """
    try:
        return read_bytes(caption_path(slice_of(shard_url)[0], key), storage_block).decode("utf-8", "replace")
    except SourceRefused:
        return None


def read_member(shard_url: str, kind: str, key: str, locator: int | None, size: int, storage_block: str | None = None) -> bytes:
    """The bytes of one member by its locator, without reading the shard through.

    Raises:
        SourceError: the shard is gone or cannot be read.
    """
    if kind == "folder":
        return read_bytes(f"{slice_of(shard_url)[0]}/{key}", storage_block)
    if kind == "tar":
        return read_range(shard_url, locator or 0, size, storage_block)
    with storage_errors(shard_url), open_file(shard_url, storage_block) as file:
        return parquet_row(file, locator or 0)
