"""The table of shard formats: all that listing, scoring, retrying, the report and resharding know of each kind of shard.

A new format (zip, Lance) is a reader in this room, one row of ``FORMATS``, and its tests. The reader must provide:

* ``open(file, size, max_bytes)``: an iterable of ``Member``, read once and in bounded memory. Every file that may be an image
  is one member, scored or excluded with a reason. A shard that is still being written raises ShardUnfinished, one that no
  more bytes could cure raises ShardCorrupt; nothing ends early in silence. After the last member ``digest`` names the content.
* ``read_member(file, locator, size)``: the bytes of one member, found by the ``locator`` that the reader gave it.
* What becomes of kept samples: ``copied_to`` names the kind of the new shards; a format that is copied to tars gives its
  samples by ``samples(file, size, keys)``, as ready tar entries.
"""

import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import IO, Literal, Protocol

from mdmf_core.collections.parquet import ParquetReader, parquet_row
from mdmf_core.collections.raw_tar import RawSample, raw_samples
from mdmf_core.collections.tar import TarReader
from mdmf_core.errors import SourceError
from mdmf_core.records import Member

SampleCopier = Callable[[IO[bytes], int, Collection[str]], Iterator[RawSample]]
_BUFFER = 8 << 20
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


class Reader(Protocol):
    """The members of a shard, iterated once; ``digest`` is final after the last one."""

    @property
    def digest(self) -> str: ...
    def __iter__(self) -> Iterator[Member]: ...


@dataclass(frozen=True, slots=True)
class ShardFormat:
    """One row of the table. A format without ``open`` is a list of files, each of which the store opens by itself."""

    kind: str  # as the warehouse records it
    suffixes: tuple[str, ...] = ()  # of its files' names, in lower case
    open: Callable[[IO[bytes], int, int], Reader] | None = None
    read_member: Callable[[IO[bytes], int, int], bytes] | None = None  # the file need not be buffered
    stats_complete_it: bool = False  # img2dataset's _stats.json comes last and states how many members there are
    read_in_order: bool = False  # from the first byte to the last, so that an MD5 of the store can be compared
    copied_to: Literal["tar", "parquet"] = "tar"
    samples: SampleCopier | None = None

    @property
    def separate_files(self) -> bool:
        """Whether every member is a file of its own, with its caption in another file beside it."""
        return self.open is None

    def names(self, path: str) -> bool:
        """Whether a file of this name is a shard of this format."""
        return bool(self.suffixes) and path.lower().endswith(self.suffixes)


def _tar_member(file: IO[bytes], locator: int, size: int) -> bytes:
    file.seek(locator)
    return file.read(size)


def _parquet_reader(file: IO[bytes], size: int, max_bytes: int) -> Reader:
    return ParquetReader(file, max_bytes)


def _parquet_member(file: IO[bytes], locator: int, size: int) -> bytes:
    with io.BufferedReader(file, _BUFFER) as buffered:  # type: ignore[type-var]
        return parquet_row(buffered, locator)


# In this order a folder is searched: beside tars, parquet files are img2dataset's own metadata.
_ROWS = (
    ShardFormat("tar", (".tar",), TarReader, _tar_member, stats_complete_it=True, read_in_order=True, samples=raw_samples),
    ShardFormat("parquet", (".parquet",), _parquet_reader, _parquet_member, copied_to="parquet"),
    ShardFormat("folder"),
)
FORMATS = {row.kind: row for row in _ROWS}
FILE_FORMATS = tuple(row for row in _ROWS if row.suffixes)
SHARD_SUFFIXES = tuple(suffix for row in FILE_FORMATS for suffix in row.suffixes)


def is_shard(path: str) -> bool:
    """Whether a file is a shard by its name."""
    return any(row.names(path) for row in FILE_FORMATS)


def shard_kind(path: str) -> str | None:
    """The kind of shard that a file's name announces; None for anything else.

    Raises:
        SourceError: a compressed tar, which cannot be read by range or checked for its end.
    """
    if path.lower().endswith(_COMPRESSED):
        raise SourceError(f"{path}: compressed tars are not supported; images do not compress, write plain .tar shards")
    return next((row.kind for row in FILE_FORMATS if row.names(path)), None)
