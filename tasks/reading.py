"""Files of a store that go on after a broken read, and are checked against what the store says of them."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any, cast

import fsspec

from mdmf_core.errors import ChecksumDiffers, ShardCorrupt, ShardUnfinished, SourceError, SourceRefused
from mdmf_core.records import Shard
from tasks.faults import Budget, ShortRead
from tasks.ranges import Block, FileRanges, Ranges, S3Ranges
from tasks.storage import fingerprint, full_url, open_storage

_BLOCK = 8 * 2**20


class SteadyFile(io.RawIOBase):
    """A file whose reads give all that was asked for, or raise. It spends the budget on faults.

    From the second block in a row on, a store is asked for the next block while the last one is in use.

    Args:
        listed: size and fingerprint that the file must have; None = those that it has now.

    Raises, on opening and reading:
        SourceError: the budget is spent, or the store says no.
        ShardUnfinished: the file is another one by now.
    """

    def __init__(
        self, filesystem: fsspec.AbstractFileSystem, path: str, budget: Budget, listed: tuple[int, str] | None = None
    ) -> None:
        self._filesystem, self._path, self._budget = filesystem, path, budget
        self._url = full_url(filesystem, path)
        self._ranges: Ranges | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[Block, Future[None]] | None = None
        self._position = self._read_to = self._hashed = 0
        found = self._state()
        self._listed = listed or found
        self._require_unchanged(found)
        self.size, tag = self._listed
        self._ranges = S3Ranges(filesystem, path, tag) if "s3" in filesystem.protocol else FileRanges(filesystem, path)
        self._md5 = hashlib.md5(usedforsecurity=False) if isinstance(self._ranges, S3Ranges) else None

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
        """One block, with the next one asked for ahead."""
        start, end = self._position, self._position + len(view)
        block, ahead = self._taken_ahead(Block(start, view))
        ranges = cast(Ranges, self._ranges)

        def go_on() -> None:
            nonlocal ahead
            while block.missing:
                answer, ahead = ahead, None
                before = block.done
                answer.result() if answer else ranges.fill(block)
                if block.missing:
                    raise ShortRead(f"{block.done - before} bytes too few came, without an error")

        try:
            self._budget.call(self._url, go_on)
        except SourceError as error:
            raise type(error)(f"{error}; reached byte {start + block.done} of {self.size}") from error
        if block.data is not view:
            view[:] = block.data
        in_a_row, self._position, self._read_to = start == self._read_to > 0, end, end
        if in_a_row and end < self.size and not ranges.prompt:
            self._ask_ahead(ranges, end)
        if self._md5 and start == self._hashed:
            self._md5.update(view)
            self._hashed = end

    def _ask_ahead(self, ranges: Ranges, start: int) -> None:
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        block = Block(start, memoryview(bytearray(min(_BLOCK, self.size - start))))
        self._ahead = block, self._pool.submit(ranges.fill, block)

    def _taken_ahead(self, wanted: Block) -> tuple[Block, Future[None] | None]:
        """The block that was asked for ahead, if it is the wanted one."""
        if self._ahead is None:
            return wanted, None
        block, future = self._ahead
        self._ahead = None
        if (block.start, len(block.data)) == (wanted.start, len(wanted.data)):
            return block, future
        future.exception()  # waits: ranges are for one request at a time
        return wanted, None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if self._ranges is not None:
            self._ranges.close()
        super().close()

    def verify(self) -> None:
        """To be called at the end.

        Raises:
            ShardUnfinished: the file is another one by now.
            ChecksumDiffers: it was read from start to end, and the store holds another MD5.
        """
        ranges = cast(Ranges, self._ranges)
        if not ranges.checks_every_answer:
            self._filesystem.invalidate_cache(self._path)
            self._require_unchanged(self._state())
        if self._md5 and isinstance(ranges, S3Ranges) and self._hashed == self.size != 0:
            found, told = self._md5.hexdigest(), self._listed[1]
            if found != told and self._budget.call(self._url, ranges.checksum) is not None:
                raise ChecksumDiffers(f"{self._url}: checksum differs: MD5 {found} of all bytes read, {told} in the store")

    def _state(self) -> tuple[int, str]:
        entry = self._budget.call(self._url, self._filesystem.info, self._path)
        if entry["type"] != "file" or entry["size"] is None:
            raise SourceRefused(f"{self._url}: not a file of known length")
        return int(entry["size"]), fingerprint(entry)

    def _require_unchanged(self, found: tuple[int, str]) -> None:
        if found != self._listed:
            raise ShardUnfinished(
                "changed while it was read, or since it was listed: {} bytes ({}) then, {} bytes ({}) now".format(
                    *self._listed, *found
                )
            )


@contextmanager
def open_shard_file(shard: Shard, storage_block: str | None) -> Iterator[IO[bytes]]:
    """A shard's bytes, verified when the block ends well; or when it finds them damaged, which the way here may have done."""
    budget, listed = Budget.of_shard(), (shard.size_bytes, shard.fingerprint)
    with SteadyFile(*open_storage(shard.url, storage_block), budget, listed) as raw, io.BufferedReader(raw, _BLOCK) as file:
        try:
            yield cast(IO[bytes], file)
        except (ShardCorrupt, ShardUnfinished):
            raw.verify()
            raise
        raw.verify()


def read_range(url: str, start: int, size: int | None, storage_block: str | None = None) -> bytes:
    """Some bytes of a file; ``size`` None = to its end.

    Raises:
        SourceError: the store does not give them.
    """
    with SteadyFile(*open_storage(url, storage_block), Budget.of_small_request()) as file:
        file.seek(start)
        return file.readall() if size is None else file.read(size) or b""


def read_bytes(url: str, storage_block: str | None = None) -> bytes:
    """One small file, whole."""
    return read_range(url, 0, None, storage_block)
