"""Planning a collection and opening its shards."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import fsspec

from mdmf_core.collections.folder import IMAGE_SUFFIXES, FolderReader, slice_of, slices
from mdmf_core.collections.parquet import ParquetReader, parquet_row
from mdmf_core.collections.source import expand_braces, shard_kind
from mdmf_core.collections.tar import TarReader
from mdmf_core.collections.text import readable
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ShardUnfinished, SourceError, SourceRefused
from mdmf_core.records import ExclusionReason, ImageExcluded, Shard
from tasks.faults import Budget, storage_errors, with_retries
from tasks.reading import SteadyFile, open_file, open_shard_file, read_bytes, read_range
from tasks.storage import entry_of, fingerprint, full_url, listing, open_storage

Reader = TarReader | ParquetReader | FolderReader
_STATS = "_stats.json"  # img2dataset writes NNNNN_stats.json last: without it NNNNN.tar is unfinished


def list_shards(source: str, images_per_slice: int, storage_block: str | None = None) -> list[Shard]:
    """Every shard that ``source`` names, in order, from one listing per folder.

    Args:
        source: tar or parquet shards by path, brace range or glob; a folder that holds shards; or a folder of images.

    Raises:
        SourceError: nothing there, no access, or a kind of file that is not supported.
    """
    shards = listed(expand_braces(source), images_per_slice, storage_block)
    if not shards or all(shard.size_bytes < 0 for shard in shards):
        raise SourceError(f"{source}: no shards or images there. Check the path, the pattern and the bucket")
    return shards


def listed(urls: Iterable[str], images_per_slice: int, storage_block: str | None = None) -> list[Shard]:
    """The same for several sources without braces; a shard that is not there has a size of -1.

    Raises:
        SourceError: no access, or a kind of file that is not supported.
    """
    shards: list[Shard] = []
    listings: dict[str, dict[str, dict[str, Any]]] = {}
    for url in urls:
        filesystem, path = open_storage(url, storage_block, listing=True)
        if not listings:
            filesystem.invalidate_cache()  # what an earlier run in this process saw
        if "*" in path or "?" in path:
            found = sorted(with_retries(url, filesystem.glob, path))
        elif shard_kind(path) is None:
            if (entry_of(url, filesystem, path) or {}).get("type") != "directory":
                raise SourceError(f"{url}: neither a folder nor a .tar or .parquet shard, or it does not exist")
            found = _folder_shards(filesystem, path)
            if not found:
                shards += _slices(filesystem, path, images_per_slice)
        else:
            found = [path]
        for shard_path in found:
            folder = os.path.dirname(shard_path)
            if folder not in listings:
                listings[folder] = {entry["name"]: entry for entry in listing(filesystem, folder)}
            shards.append(_shard(filesystem, shard_path, listings[folder]))
    return shards


def _folder_shards(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """The tars of a folder; without tars, its parquet files (beside tars those are img2dataset's own metadata)."""
    names = [entry["name"] for entry in listing(filesystem, path)]
    for suffix in (".tar", ".parquet"):
        found = sorted(name for name in names if name.lower().endswith(suffix))
        if found:
            return found
    return []


def _shard(filesystem: fsspec.AbstractFileSystem, path: str, beside: dict[str, dict[str, Any]]) -> Shard:
    url, kind = full_url(filesystem, path), shard_kind(path)
    if readable(url) != url:
        raise SourceError(f"{readable(url)}: the name is not valid UTF-8, so no table can hold it; rename the file")
    if kind is None:
        raise SourceError(f"{url}: the pattern names files that are neither .tar nor .parquet")
    entry = beside.get(path)
    if entry is None:
        return Shard(url, kind, -1, "", unfinished="not there (yet)")
    if not _is_file(entry):
        return Shard(url, kind, 0, "", unfinished="a FIFO, device, socket, folder or broken link, not a file")
    shard = Shard(url, kind, int(entry["size"]), fingerprint(entry))
    stem = path.rpartition(".")[0]
    if kind == "tar" and stem + _STATS not in beside and any(name.endswith(_STATS) for name in beside):
        return replace(shard, unfinished=f"no {os.path.basename(stem)}{_STATS} yet: img2dataset is still writing it")
    return shard


def _is_file(entry: dict[str, Any]) -> bool:
    """Whether reading it comes to an end. Links count as what they lead to; a FIFO would block, a device never end."""
    return entry["type"] == "file" or (entry.get("islink", False) and os.path.isfile(entry["name"]))


def _slices(filesystem: fsspec.AbstractFileSystem, path: str, per_slice: int) -> list[Shard]:
    root = path.rstrip("/") + "/"
    url = full_url(filesystem, path.rstrip("/"))
    found = {
        name.removeprefix(root): entry
        for name, entry in with_retries(url, filesystem.find, path, detail=True).items()
        if name.lower().endswith(IMAGE_SUFFIXES) and _is_file(entry)
    }
    parts = slices(found, per_slice)
    shards = []
    for number, keys in enumerate(parts):
        entries = [found[key] for key in keys]
        state = json.dumps([[key, fingerprint(entry)] for key, entry in zip(keys, entries, strict=True)])
        size = sum(int(entry["size"]) for entry in entries)
        name = f"{url}#slice={number}of{len(parts)}"
        shards.append(Shard(name, "folder", size, sha256_hex(state.encode()), keys=keys))
    return shards


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
        stats = json.loads(read_bytes(shard.url.removesuffix(".tar") + _STATS, storage_block))
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
