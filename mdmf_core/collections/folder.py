"""A folder of images, cut into slices that stay put when images are added."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from mdmf_core.collections.text import readable
from mdmf_core.digests import sha256_hex
from mdmf_core.records import ExclusionReason, ImageExcluded, Member

_SLICE = re.compile(r"(.*)#slice=(\d+of\d+)", re.DOTALL)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


def slice_of(url: str) -> tuple[str, str]:
    """(folder, which of how many) of a slice's URL; the URL and nothing of any other shard's.

    >>> slice_of("/pictures#slice=2of4"), slice_of("/odd#slice=2of4.tar")
    (('/pictures', '2of4'), ('/odd#slice=2of4.tar', ''))
    """
    found = _SLICE.fullmatch(url)
    return (found[1], found[2]) if found else (url, "")


def slices(keys: Iterable[str], per_slice: int) -> list[tuple[str, ...]]:
    """Deals keys into a power of two of slices by hash, each sorted, about ``per_slice`` keys or fewer.

    A new image touches one slice, so that a rerun reads only that one; empty slices are left out.

    >>> slices(["b", "a"], 10)
    [('a', 'b')]
    """
    found = sorted(keys)
    count = 1
    while count * per_slice < len(found):
        count *= 2
    dealt: list[list[str]] = [[] for _ in range(count)]
    for key in found:
        dealt[int(sha256_hex(key.encode("utf-8", "surrogateescape"))[:8], 16) % count].append(key)
    return [tuple(part) for part in dealt if part]


class FolderDigest:
    """Of a slice: over the key and the bytes' sha256 of every file, in order, so that one file can be read again alone."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, key: str, sha256: str) -> None:
        self._sha256.update(f"{len(key)}:{key}:{sha256}:".encode())

    @property
    def hex(self) -> str:
        return self._sha256.hexdigest()


class FolderReader:
    """Iterates the files of one slice. After the last one, ``digest`` covers every key and every byte.

    Args:
        keys: paths relative to the folder.
        read: gives the bytes of a key, or None when the file is above the byte limit, and its size. Raises ImageExcluded
            for a file that cannot be had.
        caption: gives the text beside a key (same stem, ``.txt``), or None.
    """

    def __init__(
        self,
        keys: Sequence[str],
        read: Callable[[str], tuple[bytes | None, int]],
        caption: Callable[[str], str | None],
    ) -> None:
        self._keys, self._read, self._caption = keys, read, caption
        self._digest = FolderDigest()

    @property
    def digest(self) -> str:
        return self._digest.hex

    def __iter__(self) -> Iterator[Member]:
        for key in self._keys:
            name = readable(key)
            try:
                data, size = self._read(key)
            except ImageExcluded as excluded:
                self._digest.add(name, sha256_hex(b""))
                yield Member(name, b"", 0, excluded=excluded.reason, detail=excluded.detail)
                continue
            self._digest.add(name, sha256_hex(data or b""))
            if data is None:
                yield Member(name, b"", size, excluded=ExclusionReason.TOO_LARGE, detail=f"{size} bytes")
            else:
                yield Member(name, data, size, caption=self._caption(key))
