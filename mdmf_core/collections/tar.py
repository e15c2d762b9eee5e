"""WebDataset tar shards: one pass, raw bytes, bounded memory, nothing unpickled. Which file is the image: ``samples``."""

from collections.abc import Iterator
from typing import IO

from mdmf_core.collections.samples import MAX_SIDECAR, SIDECARS, Sample, SampleFile, is_litter, samples, split_name
from mdmf_core.collections.stream import HashingStream
from mdmf_core.collections.tar_headers import Entry, EntryStream
from mdmf_core.collections.text import original_url, readable
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member

_ALONE = "no image beside it: the files of a sample must follow one another"


class TarReader:
    """Iterates a tar's members once. After the last one, ``digest`` is final.

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
        litter: list[SampleFile] = []
        for sample in samples(self._files(litter)):
            yield from self._members(sample, seen)
            yield from _rows_of(litter)
        yield from _rows_of(litter)

    def _members(self, sample: Sample, seen: set[str]) -> Iterator[Member]:
        members = sample.members()
        if not members:
            detail = f"its image came earlier in the archive; {_ALONE}" if sample.key in seen else _ALONE
            yield Member(sample.key, b"", 0, excluded=ExclusionReason.NO_IMAGE, detail=detail)
        for key, file in members:
            excluded, detail = self._exclusion(file)
            if key in seen:
                excluded, detail = ExclusionReason.DUPLICATE_KEY, "key seen before in this shard"
            seen.add(key)
            sidecar = sample.json(file)
            yield Member(
                key,
                b"" if excluded else bytes(file.data),
                file.size,
                locator=file.locator,
                caption=sample.caption(file),
                url=original_url(sidecar),
                sidecar=sidecar,
                excluded=excluded,
                detail=detail,
            )

    def _exclusion(self, file: SampleFile) -> tuple[ExclusionReason | None, str]:
        if not file.regular:
            return ExclusionReason.NOT_A_FILE, file.why_not
        if file.size > self._max_bytes:
            return ExclusionReason.TOO_LARGE, f"{file.size} bytes, limit {self._max_bytes}"
        return None, ""

    def _files(self, litter: list[SampleFile]) -> Iterator[SampleFile]:
        """The files of the archive; what an operating system left there goes to ``litter``, as it ends no sample."""
        archive = EntryStream(self._stream, self._size)
        try:
            for entry in archive:
                if entry.is_directory:
                    continue
                name = readable(entry.name)
                if entry.is_file and is_litter(name):
                    litter.append(sample_file(name, entry, b""))
                    continue
                wanted = MAX_SIDECAR if split_name(name)[2] in SIDECARS else self._max_bytes
                yield sample_file(name, entry, archive.read(entry) if entry.is_file and entry.size <= wanted else b"")
        except ShardCorrupt:
            self._stream.drain()
            self._require_whole_stream()
            raise
        self._require_whole_stream()

    def _require_whole_stream(self) -> None:
        if self._stream.position != self._size:
            raise ShardUnfinished(f"read {self._stream.position} of {self._size} bytes listed: still being written?")


def sample_file(name: str, entry: Entry, data: bytes | memoryview, raw: bytes = b"") -> SampleFile:
    """A tar entry as a file of a sample."""
    why_not = "" if entry.is_file else "sparse file" if entry.sparse else f"tar entry type {entry.kind!r}"
    return SampleFile(name, entry.size, entry.is_file, data, raw, entry.offset, why_not)


def _rows_of(litter: list[SampleFile]) -> Iterator[Member]:
    for file in litter:
        detail = "left there by an operating system"
        yield Member(file.name, b"", file.size, file.locator, excluded=ExclusionReason.NOT_AN_IMAGE, detail=detail)
    litter.clear()
