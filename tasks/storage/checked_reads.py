"""Reads files of a store: a broken read goes on where it broke, and the bytes are checked against what the store says."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any, cast

import fsspec

from mdmf_core.collections.formats import FORMATS
from mdmf_core.errors import ChecksumDiffers, ShardCorrupt, ShardUnfinished, SourceError, SourceRefused
from mdmf_core.records import Shard
from tasks.storage.filesystems import fingerprint, full_url, is_s3, open_storage
from tasks.storage.ranges import Block, FileRanges, Ranges, S3Ranges
from tasks.storage.retries import FaultBudget, ShortRead

_BLOCK = 8 * 2**20


class VerifiedFile(io.RawIOBase):
    """A file whose reads give everything that was asked for, or raise; faults are charged to a budget.

    Args:
        listed: size and fingerprint that the file must have; None = those that it has now.
        checksummed: whether ``verify`` compares the MD5 of a file that was read from start to end.

    Raises, on opening and reading:
        SourceError: the budget is spent, or the store says no.
        ShardUnfinished: the file was replaced by another one meanwhile.
    """

    def __init__(
        self,
        filesystem: fsspec.AbstractFileSystem,
        path: str,
        budget: FaultBudget,
        listed: tuple[int, str] | None = None,
        checksummed: bool = False,
    ) -> None:
        self._filesystem, self._path, self._budget = filesystem, path, budget
        self._url = full_url(filesystem, path)
        self._ranges: Ranges | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._hashing: Future[None] | None = None
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._position = self._hashed = 0  # hashed: how far the file was read from its start on, without a gap
        current = self._state()
        self._listed = listed or current
        self._require_unchanged(current)
        self.size, tag = self._listed
        self._ranges = S3Ranges(filesystem, path, tag) if is_s3(filesystem) else FileRanges(filesystem, path)
        self._checksummed = checksummed and isinstance(self._ranges, S3Ranges) and self._ranges.etag_may_be_md5

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence])
        return self._position

    def readall(self) -> bytes:
        return self.read(max(0, self.size - self._position)) or b""

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.size - self._position)]
        for start in range(0, len(view), _BLOCK):
            self._read_block(view[start : start + _BLOCK])
        return len(view)

    def _read_block(self, view: memoryview) -> None:
        start, end = self._position, self._position + len(view)
        block, ranges = Block(start, view), cast(Ranges, self._ranges)

        def go_on() -> None:
            ranges.fill(block)
            if block.missing:
                raise ShortRead(f"{len(block.missing)} bytes too few came, without an error")

        try:
            self._budget.call(self._url, go_on)
        except SourceError as error:
            raise type(error)(f"{error}; reached byte {start + block.done} of {self.size}") from error
        self._position = end
        if start == self._hashed and self._checksummed:
            self._hash(bytes(view), end)

    def _hash(self, data: bytes, end: int) -> None:
        """Hashes in a thread, one block behind the reading, because MD5 is slower than a fast network."""
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="checksum")
        if self._hashing is not None:
            self._hashing.result()
        self._hashing, self._hashed = self._pool.submit(self._md5.update, data), end

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if self._ranges is not None:
            self._ranges.close()
        super().close()

    def verify(self) -> None:
        """Checks what was read; it is called when reading has ended.

        Raises:
            ShardUnfinished: the file was replaced by another one meanwhile.
            ChecksumDiffers: the file was read from start to end, and the store holds another MD5.
        """
        ranges = cast(Ranges, self._ranges)
        if not ranges.checks_every_answer:
            self._filesystem.invalidate_cache(self._path)
            self._require_unchanged(self._state())
        if self._hashing is not None and isinstance(ranges, S3Ranges) and self._hashed == self.size:
            self._hashing.result()
            read, told = self._md5.hexdigest(), self._listed[1]
            if read != told and self._budget.call(self._url, ranges.etag_is_md5):
                raise ChecksumDiffers(f"{self._url}: checksum differs: MD5 {read} of all bytes read, {told} in the store")

    def _state(self) -> tuple[int, str]:
        entry = self._budget.call(self._url, self._filesystem.info, self._path)
        if entry["type"] != "file" or entry["size"] is None:
            raise SourceRefused(f"{self._url}: not a file of known length")
        return int(entry["size"]), fingerprint(entry)

    def _require_unchanged(self, current: tuple[int, str]) -> None:
        if current != self._listed:
            raise ShardUnfinished(
                "changed while it was read, or since it was listed: {} bytes ({}) then, {} bytes ({}) now".format(
                    *self._listed, *current
                )
            )


@contextmanager
def open_shard_file(shard: Shard, storage_block: str | None) -> Iterator[IO[bytes]]:
    """Opens a shard's file, and verifies it when the block ends well, or finds it damaged: the network may have done that."""
    budget, listed = FaultBudget.of_shard(), (shard.size_bytes, shard.fingerprint)
    raw = VerifiedFile(*open_storage(shard.url, storage_block), budget, listed, FORMATS[shard.kind].read_in_order)
    with raw, io.BufferedReader(raw, _BLOCK) as file:
        try:
            yield cast(IO[bytes], file)
        except (ShardCorrupt, ShardUnfinished):
            raw.verify()
            raise
        raw.verify()


@contextmanager
def open_file(url: str, storage_block: str | None = None) -> Iterator[IO[bytes]]:
    """Opens a large file as it is now, with a shard's budget of faults."""
    raw = VerifiedFile(*open_storage(url, storage_block), FaultBudget.of_shard())
    with raw, io.BufferedReader(raw, _BLOCK) as file:
        yield cast(IO[bytes], file)


@contextmanager
def open_unbuffered(url: str, storage_block: str | None = None) -> Iterator[IO[bytes]]:
    """A file as it is now, for a few reads by position, with a small request's budget of faults."""
    with VerifiedFile(*open_storage(url, storage_block), FaultBudget.of_small_request()) as file:
        yield cast(IO[bytes], file)


def read_range(url: str, start: int, size: int | None, storage_block: str | None = None) -> bytes:
    """Reads ``size`` bytes of a file from ``start`` on; None = to its end.

    Raises:
        SourceError: the store does not give the bytes.
    """
    with open_unbuffered(url, storage_block) as file:
        file.seek(start)
        return file.read(-1 if size is None else size)


def read_bytes(url: str, storage_block: str | None = None) -> bytes:
    """Reads one small file whole."""
    return read_range(url, 0, None, storage_block)
