"""WebDataset tar shards: one pass, raw bytes, bounded memory, nothing unpickled."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO

from mdmf_core.collections.stream import HashingStream
from mdmf_core.collections.text import original_url, readable
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member

_BLOCK = 512
_END_OF_ARCHIVE = 2 * _BLOCK
_CAPTIONS = ("txt", "caption")
# What WebDataset writers put beside an image; everything else is a member and gets a row of its own.
SIDECARS = (*_CAPTIONS, "json", "cls", "url", "npy", "id", "index", "meta")
_MAX_SIDECAR = 1 << 20
# How tarfile words a stream that ends inside a member or between an extended header and the header that it belongs to.
_CUT_OFF = ("end of data", "empty header", "truncated header")


@dataclass
class _Sample:
    """The files of one key, in the order of the archive."""

    key: str
    members: list[Member] = field(default_factory=list)
    caption: str | None = None
    sidecar: str | None = None


class TarReader:
    """Iterates a tar's members once. After the last one, ``digest`` and ``members`` are final.

    Args:
        source: the archive, positioned at its start; only ``read`` is used.
        size: bytes that the store announced; a shorter stream is an unfinished shard.
        max_bytes: members above it are excluded as ``too_large`` without being held in memory.
    """

    def __init__(self, source: IO[bytes], size: int, max_bytes: int) -> None:
        self._stream = HashingStream(source)
        self._size = size
        self._max_bytes = max_bytes

    @property
    def digest(self) -> str:
        return self._stream.digest

    def __iter__(self) -> Iterator[Member]:
        """Raises ShardUnfinished (no end of archive, short stream) or ShardCorrupt (damaged header)."""
        seen: set[str] = set()
        for sample in self._samples():
            if not sample.members:
                yield Member(sample.key, b"", 0, excluded=ExclusionReason.NO_IMAGE, detail="only a caption or json")
            for member in sample.members:
                if member.key in seen:
                    yield replace(
                        member, data=b"", excluded=ExclusionReason.DUPLICATE_KEY, detail="key seen before in this shard"
                    )
                    continue
                seen.add(member.key)
                url = original_url(sample.sidecar)
                yield replace(member, caption=sample.caption, sidecar=sample.sidecar, url=url)

    def _samples(self) -> Iterator[_Sample]:
        """Groups consecutive entries of one key, as WebDataset does."""
        sample: _Sample | None = None
        for entry, data in self._entries():
            key, extension = split_key(readable(entry.name))
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            if entry.isfile() and extension in SIDECARS:
                text = data.decode("utf-8", errors="backslashreplace")
                if extension in _CAPTIONS:
                    sample.caption = text
                elif extension == "json" and text:
                    sample.sidecar = text
                continue
            sample.members.append(self._member(entry, key, data))
        if sample is not None:
            yield sample

    def _member(self, entry: tarfile.TarInfo, key: str, data: bytes) -> Member:
        plain = Member(key, data, entry.size, locator=entry.offset_data)
        if not entry.isfile() or entry.issparse():
            return replace(plain, data=b"", excluded=ExclusionReason.NOT_A_FILE, detail=f"tar entry type {entry.type!r}")
        if entry.size > self._max_bytes:
            detail = f"{entry.size} bytes, limit {self._max_bytes}"
            return replace(plain, excluded=ExclusionReason.TOO_LARGE, detail=detail)
        return plain

    def _entries(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        end = 0
        try:
            with tarfile.open(fileobj=self._stream, mode="r|", errorlevel=2) as archive:  # type: ignore[call-overload]
                for entry in archive:
                    archive.members = []  # a streamed tar keeps every header otherwise
                    if entry.isdir():
                        end = entry.offset_data
                        continue
                    data = b""
                    wanted = _MAX_SIDECAR if split_key(entry.name)[1] in SIDECARS else self._max_bytes
                    if entry.isfile() and entry.size <= wanted:
                        handle = archive.extractfile(entry)
                        data = handle.read() if handle else b""
                    yield entry, data
                    end = entry.offset_data + (-(-entry.size // _BLOCK) * _BLOCK if entry.isfile() else 0)
        except tarfile.TarError as error:
            self._stream.drain()
            self._require_whole_stream()
            if self._stream.position < end + _END_OF_ARCHIVE or any(sign in str(error) for sign in _CUT_OFF):
                raise ShardUnfinished(f"the archive ends inside a member ({error})") from error
            raise ShardCorrupt(f"invalid tar after byte {end}: {error}") from error
        self._stream.drain()
        self._require_whole_stream()
        self._require_end_of_archive(end)

    def _require_whole_stream(self) -> None:
        if self._stream.position != self._size:
            raise ShardUnfinished(f"read {self._stream.position} of {self._size} bytes listed: still being written?")

    def _require_end_of_archive(self, end: int) -> None:
        """tarfile stops silently at a damaged header or a missing trailer; rows after it would be lost unseen."""
        rest = self._stream.position - end
        if rest < _END_OF_ARCHIVE:
            raise ShardUnfinished("no end-of-archive marker: still being written, or cut off")
        if self._stream.trailing_zeros < rest:
            raise ShardCorrupt(f"damaged tar header near byte {end}; {rest} bytes after it were not read as members")


def split_key(name: str) -> tuple[str, str]:
    """(key, extension) of a tar entry: WebDataset splits the base name at its first dot.

    >>> split_key("a.b/000012.seg.png")
    ('a.b/000012', 'seg.png')
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()
