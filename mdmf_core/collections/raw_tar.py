"""Samples of a tar as the bytes that they are: headers and data of all their files, copied without being read as anything."""

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from mdmf_core.collections.tar import SIDECARS, split_key
from mdmf_core.collections.text import readable
from mdmf_core.errors import ShardCorrupt

_BLOCK = 512
_BUFFER = 1 << 20


@dataclass(slots=True)
class RawSample:
    """The files of one key."""

    key: str
    parts: list[bytes] = field(default_factory=list)  # each with its headers, padded to whole blocks
    image: memoryview | None = None  # of its first file that is no sidecar: the one that was scored


class _Window:
    """A stream that remembers what was read between two positions."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._held = bytearray()
        self._start = 0  # position of the first byte held
        self._position = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._position += len(data)
        self._held += data
        self.forget(self._start)
        return data

    def forget(self, stop: int) -> None:
        """Drops what lies before ``stop``, also what is still to come."""
        held = min(max(stop - (self._position - len(self._held)), 0), len(self._held))
        del self._held[:held]
        self._start = stop

    def take(self, start: int, stop: int) -> bytes:
        first = self._position - len(self._held)
        data = bytes(self._held[start - first : stop - first])
        if len(data) != stop - start:
            raise ShardCorrupt(f"the archive ends inside the file at byte {start}")
        return data


def raw_samples(source: IO[bytes], wanted: Mapping[str, object]) -> Iterator[RawSample]:
    """The first sample of every wanted key, in the order of the archive; holds one sample at a time.

    Files of a key belong together while they are consecutive, as WebDataset has it; a key that comes again is another
    sample, which got no score.

    Args:
        source: the archive, positioned at its start; only ``read`` is used.

    Raises:
        ShardCorrupt: no readable tar, or wanted files of a kind that cannot be copied.
    """
    window = _Window(source)
    sample, key, seen = None, None, set()
    with _opened(window) as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # a streamed tar keeps every header otherwise
            if archive.pax_headers:
                raise ShardCorrupt("the archive has global headers, which samples copied out of it would lose")
            if entry.isdir():
                continue
            found, extension = split_key(readable(entry.name))
            if found != key:
                if sample is not None:
                    yield sample
                key, sample = found, RawSample(found) if found in wanted and found not in seen else None
                seen.add(found)
            stop = _end(entry)
            if sample is None:
                window.forget(stop)
                continue
            window.forget(entry.offset)
            archive.fileobj.seek(stop)  # its data passes through the window
            sample.parts.append(window.take(entry.offset, stop))
            if sample.image is None and entry.isfile() and extension not in SIDECARS:
                start = entry.offset_data - entry.offset
                sample.image = memoryview(sample.parts[-1])[start : start + entry.size]
        if sample is not None:
            yield sample


def end_of_archive(position: int) -> bytes:
    """What closes an archive of so many bytes: two empty blocks, and zeros up to a whole record."""
    return bytes(2 * _BLOCK + -(position + 2 * _BLOCK) % tarfile.RECORDSIZE)


@contextmanager
def _opened(window: _Window) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=window, mode="r|", bufsize=_BUFFER, errorlevel=2) as archive:  # type: ignore[call-overload]
            yield archive
    except tarfile.TarError as error:
        raise ShardCorrupt(f"invalid tar: {error}") from error


def _end(entry: tarfile.TarInfo) -> int:
    if entry.issparse():
        raise ShardCorrupt(f"{readable(entry.name)} is a sparse file, which is not copied")
    return entry.offset_data + (-(-entry.size // _BLOCK) * _BLOCK if entry.isfile() else 0)
