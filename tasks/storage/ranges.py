"""Requests one range of a file at a time: from S3 with its ETag compared, from other stores through fsspec's files."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

import fsspec
from fsspec.asyn import sync

from mdmf_core.errors import ShardUnfinished, SourceError

_CHUNK = 2**20
_MD5 = re.compile("[0-9a-f]{32}")


@dataclass
class Block:
    """A range that is being read; the bytes that came before a broken answer are kept."""

    start: int
    data: memoryview
    done: int = 0

    @property
    def missing(self) -> memoryview:
        return self.data[self.done :]


class Ranges(Protocol):
    """A source of the ranges of one file."""

    checks_every_answer: bool  # whether a file that changes between two requests is noticed by the second

    def fill(self, block: Block) -> None:
        """Asks once for the bytes that are missing; fewer may come, with or without an error."""

    def close(self) -> None:
        """Releases what is held between requests."""


class FileRanges:
    """The ranges of a file that fsspec opens."""

    checks_every_answer = False

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._file: Any = None

    def fill(self, block: Block) -> None:
        try:
            if self._file is None:
                self._file = self._filesystem.open(self._path, "rb", cache_type="none")
            self._file.seek(block.start + block.done)
            block.done += self._file.readinto(block.missing)
        except Exception:
            self.close()  # the next try needs a new handle
            raise

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class S3Ranges:
    """The ranges of an S3 object, one GET each.

    Some stores ignore If-Match, but every one names the ETag of what it sends, so that the answer is compared instead.
    """

    checks_every_answer = True

    def __init__(self, filesystem: Any, path: str, etag: str) -> None:
        self._filesystem, self._etag = filesystem, etag
        self._bucket, self._key, _ = filesystem.split_path(path)

    def fill(self, block: Block) -> None:
        sync(self._filesystem.loop, self._receive, block)

    async def _receive(self, block: Block) -> None:
        """Asks and reads without a pause in between, because aiohttp drops its buffer when the connection breaks."""
        first, last = block.start + block.done, block.start + len(block.data) - 1
        wanted = {"Bucket": self._bucket, "Key": self._key, "Range": f"bytes={first}-{last}"}
        answer = await self._filesystem._call_s3("get_object", **wanted)
        async with answer["Body"] as body:
            if answer["ETag"].strip('"') != self._etag:
                raise ShardUnfinished(f"changed while it was read: ETag {self._etag} then, {answer['ETag']} at byte {first}")
            if first > 0 and not answer.get("ContentRange", "").startswith(f"bytes {first}-"):
                raise SourceError(f"asked for bytes from {first} on, the store sent {answer.get('ContentRange', 'all')}")
            while len(block.missing):
                chunk = await body.read(min(_CHUNK, len(block.missing)))
                if not chunk:
                    return
                block.data[block.done : block.done + len(chunk)] = chunk
                block.done += len(chunk)

    def close(self) -> None:
        """Nothing is held between requests."""

    @property
    def etag_may_be_md5(self) -> bool:
        """Whether the ETag looks like an MD5; after a multipart upload it does not."""
        return _MD5.fullmatch(self._etag) is not None

    def etag_is_md5(self) -> bool:
        """Asks the store whether the ETag is an MD5; with a key management service it is something else."""
        head = self._filesystem.call_s3("head_object", Bucket=self._bucket, Key=self._key)
        return "SSECustomerAlgorithm" not in head and head.get("ServerSideEncryption", "AES256") == "AES256"
