"""Samples of a tar as the bytes that they are: headers and data of all their files, copied without being read as anything."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import IO

from mdmf_core.collections.stream import HashingStream
from mdmf_core.collections.tar import SIDECARS, split_key
from mdmf_core.collections.tar_headers import BLOCK, EntryStream
from mdmf_core.collections.text import readable
from mdmf_core.errors import ShardCorrupt

_RECORD = 20 * BLOCK  # bytes that tars are padded to


@dataclass(slots=True)
class RawSample:
    """The files of one key."""

    key: str
    parts: list[bytes] = field(default_factory=list)  # each with its headers, padded to whole blocks
    image: memoryview | None = None  # of its first file that is no sidecar: the one that was scored


def raw_samples(source: IO[bytes], size: int, wanted: Container[str]) -> Iterator[RawSample]:
    """The first sample of every wanted key, in the order of the archive; holds one sample at a time.

    Files of a key belong together while they are consecutive, as WebDataset has it; a key that comes again is another
    sample, which got no score.

    Args:
        source: the archive, positioned at its start; only ``read`` is used.
        size: bytes that the archive has.

    Raises:
        ShardUnfinished, ShardCorrupt: where the reader that scores would raise them; ShardCorrupt also for files of a kind that
            cannot be copied.
    """
    archive = EntryStream(HashingStream(source), size, keep_headers=True)
    sample, key, seen = None, None, set()
    for entry in archive:
        if archive.has_global_header:
            raise ShardCorrupt("the archive has global headers, which samples copied out of it would lose")
        if entry.is_directory:
            continue
        entry_key, extension = split_key(readable(entry.name))
        if entry_key != key:
            if sample is not None:
                yield sample
            key, sample = entry_key, RawSample(entry_key) if entry_key in wanted and entry_key not in seen else None
            seen.add(entry_key)
        if sample is None:
            continue
        if entry.sparse:
            raise ShardCorrupt(f"{readable(entry.name)} is a sparse file, which is not copied")
        sample.parts.append(entry.headers + archive.read_padded(entry))
        if sample.image is None and entry.is_file and extension not in SIDECARS:
            start = len(entry.headers)
            sample.image = memoryview(sample.parts[-1])[start : start + entry.size]
    if sample is not None:
        yield sample


def end_of_archive(position: int) -> bytes:
    """What closes an archive of so many bytes: two empty blocks, and zeros up to a whole record."""
    return bytes(2 * BLOCK + -(position + 2 * BLOCK) % _RECORD)
