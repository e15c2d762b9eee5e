"""One request for a range of a file: from S3 with its ETag compared, from other stores through fsspec's files."""

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
    """A range that is being read; what came before a break is kept."""

    start: int
    data: memoryview
    done: int = 0

    @property
    def missing(self) -> memoryview:
        return self.data[self.done :]


class Ranges(Protocol):
    """Where the ranges of one file come from."""

    checks_every_answer: bool  # so that a file which changes in between cannot go unseen

    def fill(self, block: Block) -> None:
        """Asks once for what is missing; fewer bytes than that may come, with or without an error."""

    def close(self) -> None: ...


class FileRanges:
    """Of a file that fsspec opens."""

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
            self.close()  # a stale handle stays stale
            raise

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class S3Ranges:
    """Of an S3 object, one GET each. Not every store heeds If-Match, but every one names the ETag of what it sends."""

    checks_every_answer = True

    def __init__(self, filesystem: Any, path: str, etag: str) -> None:
        self._filesystem, self._etag = filesystem, etag
        self._bucket, self._key, _ = filesystem.split_path(path)

    def fill(self, block: Block) -> None:
        sync(self._filesystem.loop, self._receive, block)

    async def _receive(self, block: Block) -> None:
        """Asks and reads without a pause in between: aiohttp throws away what it holds when the connection breaks."""
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
        """After a multipart upload it has a dash."""
        return _MD5.fullmatch(self._etag) is not None

    def etag_is_md5(self) -> bool:
        """Asks whether a key management service made it something else."""
        head = self._filesystem.call_s3("head_object", Bucket=self._bucket, Key=self._key)
        return "SSECustomerAlgorithm" not in head and head.get("ServerSideEncryption", "AES256") == "AES256"
