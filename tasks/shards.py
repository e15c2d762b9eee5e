"""Planning a collection and opening its shards."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import fsspec

from mdmf_core.collections.folder import IMAGE_SUFFIXES, FolderReader, slices
from mdmf_core.collections.parquet import ParquetReader, parquet_row
from mdmf_core.collections.source import expand_braces, shard_kind
from mdmf_core.collections.tar import TarReader
from mdmf_core.collections.text import readable
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ShardUnfinished, SourceError
from mdmf_core.records import Shard
from tasks.storage import full_url, open_storage, read_bytes, storage_errors

Reader = TarReader | ParquetReader | FolderReader
_STATS = "_stats.json"  # img2dataset writes NNNNN_stats.json last: without it NNNNN.tar is unfinished


def list_shards(source: str, images_per_slice: int, storage_block: str | None = None) -> list[Shard]:
    """Every shard that ``source`` names, in order, from one listing per folder.

    Args:
        source: tar or parquet shards by path, brace range or glob; a folder that holds shards; or a folder of images.

    Raises:
        SourceError: nothing there, no access, or a kind of file that is not supported.
    """
    shards: list[Shard] = []
    listings: dict[str, dict[str, dict[str, Any]]] = {}
    for url in expand_braces(source):
        filesystem, path = open_storage(url, storage_block)
        with storage_errors(url):
            if "*" in path or "?" in path:
                found = sorted(filesystem.glob(path))
            elif shard_kind(path) is None:
                if not filesystem.isdir(path):
                    raise SourceError(f"{url}: neither a folder nor a .tar or .parquet shard, or it does not exist")
                found = _folder_shards(filesystem, path)
                if not found:
                    shards += _slices(filesystem, path, images_per_slice)
            else:
                found = [path]
            for shard_path in found:
                folder = os.path.dirname(shard_path)
                if folder not in listings:
                    listings[folder] = _listing(filesystem, folder)
                shards.append(_shard(filesystem, shard_path, listings[folder]))
    if not shards or all(shard.size_bytes < 0 for shard in shards):
        raise SourceError(f"{source}: no shards or images there. Check the path, the pattern and the bucket")
    return shards


def _folder_shards(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """The tars of a folder; without tars, its parquet files (beside tars those are img2dataset's own metadata)."""
    names = list(_listing(filesystem, path))
    for suffix in (".tar", ".parquet"):
        found = sorted(name for name in names if name.lower().endswith(suffix))
        if found:
            return found
    return []


def _listing(filesystem: fsspec.AbstractFileSystem, folder: str) -> dict[str, dict[str, Any]]:
    try:
        return {entry["name"]: entry for entry in filesystem.ls(folder, detail=True)}
    except FileNotFoundError:
        return {}


def _shard(filesystem: fsspec.AbstractFileSystem, path: str, listing: dict[str, dict[str, Any]]) -> Shard:
    url, kind = full_url(filesystem, path), shard_kind(path)
    if readable(url) != url:
        raise SourceError(f"{readable(url)}: the name is not valid UTF-8, so no table can hold it; rename the file")
    if kind is None:
        raise SourceError(f"{url}: the pattern names files that are neither .tar nor .parquet")
    entry = listing.get(path)
    if entry is None:
        return Shard(url, kind, -1, "", unfinished="not there (yet)")
    if not _is_file(entry):
        return Shard(url, kind, 0, "", unfinished="a FIFO, device, socket, folder or broken link, not a file")
    shard = Shard(url, kind, int(entry["size"]), _fingerprint(entry))
    stem = path.rpartition(".")[0]
    if kind == "tar" and stem + _STATS not in listing and any(name.endswith(_STATS) for name in listing):
        return replace(shard, unfinished=f"no {os.path.basename(stem)}{_STATS} yet: img2dataset is still writing it")
    return shard


def _is_file(entry: dict[str, Any]) -> bool:
    """Whether reading it comes to an end. Links count as what they lead to; a FIFO would block, a device never end."""
    return entry["type"] == "file" or (entry.get("islink", False) and os.path.isfile(entry["name"]))


def _fingerprint(entry: dict[str, Any]) -> str:
    tag = entry.get("ETag") or entry.get("etag")
    changed = entry.get("LastModified") or entry.get("mtime") or entry.get("last_modified") or ""
    return str(tag).strip('"') if tag else f"{entry['size']}-{changed}"


def _slices(filesystem: fsspec.AbstractFileSystem, path: str, per_slice: int) -> list[Shard]:
    root = path.rstrip("/") + "/"
    found = {
        name.removeprefix(root): entry
        for name, entry in filesystem.find(path, detail=True).items()
        if name.lower().endswith(IMAGE_SUFFIXES) and _is_file(entry)
    }
    parts = slices(found, per_slice)
    url = full_url(filesystem, path.rstrip("/"))
    shards = []
    for number, keys in enumerate(parts):
        entries = [found[key] for key in keys]
        state = json.dumps([[key, _fingerprint(entry)] for key, entry in zip(keys, entries, strict=True)])
        size = sum(int(entry["size"]) for entry in entries)
        name = f"{url}#slice={number}of{len(parts)}"
        shards.append(Shard(name, "folder", size, sha256_hex(state.encode()), keys=keys))
    return shards


@contextmanager
def open_shard(shard: Shard, max_bytes: int, storage_block: str | None = None) -> Iterator[Reader]:
    """A reader over the shard's members.

    Raises:
        ShardUnfinished: the listing already says so, or the file is gone.
        SourceError: the store refuses.
    """
    if shard.unfinished:
        raise ShardUnfinished(shard.unfinished)
    if shard.kind == "folder":
        yield _folder_reader(shard, max_bytes, storage_block)
        return
    filesystem, path = open_storage(shard.url, storage_block)
    with filesystem.open(path, "rb", block_size=8 * 2**20, cache_type="readahead") as file:
        yield TarReader(file, shard.size_bytes, max_bytes) if shard.kind == "tar" else ParquetReader(file, max_bytes)


def expected_members(shard: Shard, storage_block: str | None = None) -> int | None:
    """Images that the shard's own ``_stats.json`` promises; None without one."""
    if shard.kind != "tar":
        return None
    try:
        stats = json.loads(read_bytes(shard.url.removesuffix(".tar") + _STATS, storage_block))
        return int(stats["successes"])
    except (SourceError, KeyError, TypeError, ValueError):
        return None


def _folder_reader(shard: Shard, max_bytes: int, storage_block: str | None) -> FolderReader:
    folder = shard.url.rpartition("#slice=")[0]
    filesystem, root = open_storage(folder, storage_block)

    def size(key: str) -> int:
        return int(filesystem.size(f"{root}/{key}"))

    def read(key: str) -> bytes | None:
        return filesystem.cat_file(f"{root}/{key}") if size(key) <= max_bytes else None

    def caption(key: str) -> str | None:
        path = f"{root}/{key.rpartition('.')[0]}.txt"
        return filesystem.cat_file(path).decode("utf-8", "replace") if filesystem.isfile(path) else None

    return FolderReader(shard.keys, read, size, caption)


def read_member(shard_url: str, kind: str, key: str, locator: int | None, size: int, storage_block: str | None = None) -> bytes:
    """The bytes of one member by its locator, without reading the shard through.

    Raises:
        SourceError: the shard is gone or cannot be read.
    """
    if kind == "folder":
        return read_bytes(f"{shard_url.rpartition('#slice=')[0]}/{key}", storage_block)
    filesystem, path = open_storage(shard_url, storage_block)
    with storage_errors(shard_url):
        if kind == "tar":
            data: bytes = filesystem.cat_file(path, start=locator, end=(locator or 0) + size)
            return data
        with filesystem.open(path, "rb") as file:
            return parquet_row(file, locator or 0)
