"""WebDataset tar shards: one pass, raw bytes, bounded memory, nothing unpickled."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO

from mdmf_core.collections.stream import HashingStream
from mdmf_core.collections.tar_headers import Entry, EntryStream
from mdmf_core.collections.text import original_url, readable
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member

_CAPTIONS = ("txt", "caption")
# What WebDataset writers put beside an image; everything else is a member and gets a row of its own.
SIDECARS = (*_CAPTIONS, "json", "cls", "url", "npy", "id", "index", "meta")
_MAX_SIDECAR = 1 << 20


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
            if entry.is_file and extension in SIDECARS:
                text = data.decode("utf-8", errors="backslashreplace")
                if extension in _CAPTIONS:
                    sample.caption = text
                elif extension == "json" and text:
                    sample.sidecar = text
                continue
            # Only the first member of a key can be scored; the data of the others would pile up until the key ends.
            sample.members.append(self._member(entry, key, b"" if sample.members else data))
        if sample is not None:
            yield sample

    def _member(self, entry: Entry, key: str, data: bytes) -> Member:
        plain = Member(key, data, entry.size, locator=entry.offset)
        if not entry.is_file:
            detail = "sparse file" if entry.sparse else f"tar entry type {entry.kind!r}"
            return replace(plain, excluded=ExclusionReason.NOT_A_FILE, detail=detail)
        if entry.size > self._max_bytes:
            detail = f"{entry.size} bytes, limit {self._max_bytes}"
            return replace(plain, excluded=ExclusionReason.TOO_LARGE, detail=detail)
        return plain

    def _entries(self) -> Iterator[tuple[Entry, bytes]]:
        archive = EntryStream(self._stream, self._size)
        try:
            for entry in archive:
                if entry.is_directory:
                    continue
                wanted = _MAX_SIDECAR if split_key(entry.name)[1] in SIDECARS else self._max_bytes
                yield entry, archive.read(entry) if entry.is_file and entry.size <= wanted else b""
        except ShardCorrupt:
            self._stream.drain()
            self._require_whole_stream()
            raise
        self._require_whole_stream()

    def _require_whole_stream(self) -> None:
        if self._stream.position != self._size:
            raise ShardUnfinished(f"read {self._stream.position} of {self._size} bytes listed: still being written?")


def split_key(name: str) -> tuple[str, str]:
    """(key, extension) of a tar entry: WebDataset splits the base name at its first dot.

    >>> split_key("a.b/000012.seg.png")
    ('a.b/000012', 'seg.png')
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()
