"""A folder of images, cut into slices that stay put when images are added."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from mdmf_core.collections.text import readable
from mdmf_core.digests import sha256_hex
from mdmf_core.records import ExclusionReason, Member

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


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


class FolderReader:
    """Iterates the files of one slice. After the last one, ``digest`` covers every key and every byte.

    Args:
        keys: paths relative to the folder.
        read: gives the bytes of a key, or None when the file is above the byte limit.
        size: gives the size of a key in bytes.
        caption: gives the text beside a key (same stem, ``.txt``), or None.
    """

    def __init__(
        self,
        keys: Sequence[str],
        read: Callable[[str], bytes | None],
        size: Callable[[str], int],
        caption: Callable[[str], str | None],
    ) -> None:
        self._keys, self._read, self._size, self._caption = keys, read, size, caption
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[Member]:
        for key in self._keys:
            data, size = self._read(key), self._size(key)
            self._sha256.update(f"{len(key)}:{key}:{size}:".encode("utf-8", "surrogateescape"))
            self._sha256.update(data or b"")
            name = readable(key)
            if data is None:
                yield Member(name, b"", size, excluded=ExclusionReason.TOO_LARGE, detail=f"{size} bytes")
            else:
                yield Member(name, data, size, caption=self._caption(key))
