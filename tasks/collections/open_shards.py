"""Opening shards: their members one after the other, and one member by itself."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mdmf_core.collections.folder import FolderReader, slice_of
from mdmf_core.collections.formats import FORMATS, Reader
from mdmf_core.collections.samples import MAX_SIDECAR
from mdmf_core.errors import ShardCorrupt, ShardUnfinished, SourceRefused
from mdmf_core.records import ExclusionReason, ImageExcluded, Shard
from tasks.collections.shard_entries import STATS
from tasks.storage.checked_reads import VerifiedFile, open_shard_file, open_unbuffered, read_bytes
from tasks.storage.filesystems import open_storage
from tasks.storage.retries import FaultBudget, storage_errors

_POINTER, _POINTER_BYTES = b"version https://git-lfs", 1024


@contextmanager
def open_shard(shard: Shard, max_bytes: int, storage_block: str | None = None) -> Iterator[Reader]:
    """A reader over the shard's members. What is wrong with the bytes as a whole is said when the block ends.

    Raises:
        ShardUnfinished: the listing already says so, or the file changed since or meanwhile.
        SourceError: the store refuses, or failed too often, or gave other bytes than those of its checksum.
    """
    if shard.unfinished:
        raise ShardUnfinished(shard.unfinished)
    opened = FORMATS[shard.kind].open
    if opened is None:
        yield _folder_reader(shard, max_bytes, storage_block)
        return
    with open_shard_file(shard, storage_block) as file:
        if shard.size_bytes < _POINTER_BYTES and file.read(len(_POINTER)) == _POINTER:
            raise ShardCorrupt("a Git LFS pointer, not the file itself: run `git lfs pull` in its repository")
        file.seek(0)
        yield opened(file, shard.size_bytes, max_bytes)


def expected_members(shard: Shard, storage_block: str | None = None) -> int | None:
    """Images that the shard's own ``_stats.json`` promises; None without one.

    Raises:
        SourceError: the store does not say.
    """
    if not FORMATS[shard.kind].stats_complete_it:
        return None
    try:
        stats = json.loads(read_bytes(shard.url.rpartition(".")[0] + STATS, storage_block))
        return int(stats["successes"])
    except (SourceRefused, KeyError, TypeError, ValueError):
        return None


def _folder_reader(shard: Shard, max_bytes: int, storage_block: str | None) -> FolderReader:
    """All files of the slice share one budget; one that is gone or denied is an exclusion."""
    filesystem, root = open_storage(slice_of(shard.url)[0], storage_block)
    budget = FaultBudget.of_shard()

    def read(key: str) -> tuple[bytes | None, int]:
        try:
            with VerifiedFile(filesystem, f"{root}/{key}", budget) as file:
                return (file.readall() if file.size <= max_bytes else None), file.size
        except SourceRefused as error:
            raise ImageExcluded(ExclusionReason.STORAGE, str(error)) from error

    def text(path: str) -> str | None:
        try:
            with VerifiedFile(filesystem, path, budget) as file:
                return file.readall().decode("utf-8", "replace") if file.size <= MAX_SIDECAR else None
        except SourceRefused:
            return None

    return FolderReader(shard.keys, read, lambda key: _beside(f"{root}/{key}", text))


def read_beside(shard_url: str, key: str, storage_block: str | None = None) -> tuple[str | None, str | None]:
    """Caption and json beside one image of a folder's slice, each None without such a file.

    Raises:
        SourceError: the store does not say.
    """

    def text(url: str) -> str | None:
        try:
            return read_bytes(url, storage_block).decode("utf-8", "replace")
        except SourceRefused:
            return None

    return _beside(f"{slice_of(shard_url)[0]}/{key}", text)


def _beside(path: str, text: Callable[[str], str | None]) -> tuple[str | None, str | None]:
    stem = os.path.splitext(path)[0]
    return text(f"{stem}.txt"), text(f"{stem}.json") or None


def read_member(shard_url: str, kind: str, key: str, locator: int | None, size: int, storage_block: str | None = None) -> bytes:
    """The bytes of one member by its locator, without reading the shard through.

    Raises:
        SourceError: the shard is gone or cannot be read.
    """
    read = FORMATS[kind].read_member
    if read is None:
        return read_bytes(f"{slice_of(shard_url)[0]}/{key}", storage_block)
    with storage_errors(shard_url), open_unbuffered(shard_url, storage_block) as file:
        return read(file, locator or 0, size)
