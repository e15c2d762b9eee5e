"""Samples of a tar as the bytes that they are: headers and data of all their files, copied without being read as anything."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO

from mdmf_core.collections.samples import HEAD, SampleFile, is_litter, samples, split_name
from mdmf_core.collections.stream import HashingStream
from mdmf_core.collections.tar import sample_file
from mdmf_core.collections.tar_headers import BLOCK, EntryStream
from mdmf_core.collections.text import readable
from mdmf_core.errors import ShardCorrupt

_RECORD = 20 * BLOCK  # bytes that tars are padded to


@dataclass(frozen=True, slots=True)
class CopiedImage:
    """One image among copied files."""

    key: str  # under which it was scored
    new_key: str  # in an archive that holds only what is copied
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class RawSample:
    """Files of one sample, as they are written to a new archive; without ``images``, sidecars that lie apart from theirs."""

    images: list[CopiedImage]
    parts: list[bytes]  # one a file, with its headers, padded to whole blocks


def raw_samples(source: IO[bytes], size: int, wanted: Collection[str]) -> Iterator[RawSample]:
    """What belongs to wanted keys, in the order of the archive; holds one sample at a time.

    A key that comes again with an image is another sample, which got no score and is not copied.

    Args:
        source: the archive, positioned at its start; only ``read`` is used.
        size: bytes that the archive has.
        wanted: keys as ``TarReader`` gives them.

    Raises:
        ShardUnfinished, ShardCorrupt: where ``TarReader`` raises them; ShardCorrupt also for files of a kind that cannot be
            copied, and for images that would share a key in the new archive.
    """
    taken: set[str] = set()
    for sample in samples(_chosen(source, size, wanted)):
        images = [CopiedImage(file.copied_for, key, file.data) for key, file in sample.members() if file.copied_for is not None]
        for image in images:
            if image.new_key in taken:
                raise ShardCorrupt(f"{image.key} and an image before it would share the key {image.new_key} in a copy")
            taken.add(image.new_key)
        yield RawSample(images, [_copyable(file) for file in sample.files])


def end_of_archive(position: int) -> bytes:
    """What closes an archive of so many bytes: two empty blocks, and zeros up to a whole record."""
    return bytes(2 * BLOCK + -(position + 2 * BLOCK) % _RECORD)


def _chosen(source: IO[bytes], size: int, wanted: Collection[str]) -> Iterator[SampleFile]:
    """The files to copy; an image that is wanted carries its key."""
    seen: set[str] = set()
    wanted_samples = {split_name(key)[0] for key in wanted}
    for sample in samples(_files(source, size, wanted_samples)):
        members = sample.members()
        images = {key: file for key, file in reversed(members) if key in wanted and key not in seen}
        seen.update(key for key, _ in members)
        for key, file in images.items():
            file.copied_for = key
        if images:
            yield from sample.copied(images)
        elif not members and sample.key in wanted:
            yield from sample.files


def _files(source: IO[bytes], size: int, wanted: Collection[str]) -> Iterator[SampleFile]:
    archive = EntryStream(HashingStream(source), size, keep_headers=True)
    for entry in archive:
        if archive.has_global_header:
            raise ShardCorrupt("the archive has global headers, which samples copied out of it would lose")
        name = readable(entry.name)
        if entry.is_directory or (entry.is_file and is_litter(name)):
            continue
        if split_name(name)[0] not in wanted:
            yield sample_file(name, entry, archive.read(entry, HEAD))
            continue
        raw = entry.headers + archive.read_padded(entry)
        start = len(entry.headers)
        yield sample_file(name, entry, memoryview(raw)[start : start + entry.size], raw)


def _copyable(file: SampleFile) -> bytes:
    if file.why_not == "sparse file":
        raise ShardCorrupt(f"{file.name} is a sparse file, which is not copied")
    return file.raw
