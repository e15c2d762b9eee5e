"""Opening shards: their members one after the other, and one member by itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from mdmf_core.collections.folder import FolderReader, slice_of
from mdmf_core.collections.formats import FORMATS, Reader
from mdmf_core.errors import ShardUnfinished, SourceRefused
from mdmf_core.records import ExclusionReason, ImageExcluded, Shard
from tasks.collections.shard_entries import STATS
from tasks.storage.checked_reads import VerifiedFile, open_shard_file, open_unbuffered, read_bytes
from tasks.storage.filesystems import open_storage
from tasks.storage.retries import FaultBudget, storage_errors


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

    def caption(key: str) -> str | None:
        try:
            with VerifiedFile(filesystem, caption_path(root, key), budget) as file:
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
    read = FORMATS[kind].read_member
    if read is None:
        return read_bytes(f"{slice_of(shard_url)[0]}/{key}", storage_block)
    with storage_errors(shard_url), open_unbuffered(shard_url, storage_block) as file:
        return read(file, locator or 0, size)
