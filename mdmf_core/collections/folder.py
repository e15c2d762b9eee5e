"""A folder of images, cut into slices that stay put when images are added."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from mdmf_core.collections.samples import IMAGE_EXTENSIONS, SIDECARS, is_litter
from mdmf_core.collections.text import original_url, readable
from mdmf_core.digests import sha256_hex
from mdmf_core.records import ExclusionReason, ImageExcluded, Member

_SLICE = re.compile(r"(.*)#slice=(\d+of\d+)", re.DOTALL)
IMAGE_SUFFIXES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
# Extensions of files that are no images and are left unread; a file of any other name, or none, is judged by its first bytes.
_OTHERS = re.compile(
    "md|rst|html?|xml|csv|tsv|ya?ml|toml|ini|log|lock|lst|jsonl|pdf|docx?|py|ipynb|sh|tmp|part|crdownload"
    "|zip|t?gz|bz2|xz|zst|7z|rar|tar|parquet|arrow|lance|db|sqlite|duckdb|mp4|mov|avi|mkv|webm|mp3|wav|flac|svg"
    "|npz|pth?|bin|safetensors|onnx|h5|hdf5|pkl|pickle|mat"
)


def slice_of(url: str) -> tuple[str, str]:
    """Splits a slice's URL into its folder and which of how many slices it is; any other URL into (url, "").

    >>> slice_of("/pictures#slice=2of4"), slice_of("/odd#slice=2of4.tar")
    (('/pictures', '2of4'), ('/odd#slice=2of4.tar', ''))
    """
    match = _SLICE.fullmatch(url)
    return (match[1], match[2]) if match else (url, "")


def file_role(path: str) -> Literal["image", "sidecar", "other"]:
    """What a file in a folder of images is by its name; what may be an image counts as one.

    >>> [file_role(name) for name in ("a.JPG", "b.jpg?w=300", "0f3a9c", "a.txt", "notes.md", ".git/HEAD", "._a.jpg")]
    ['image', 'image', 'image', 'sidecar', 'other', 'other', 'other']
    """
    *folders, base = path.split("/")
    extension = base.partition("?")[0].lower().rpartition(".")[2] if "." in base else ""
    if is_litter(path):
        return "other"
    if extension in IMAGE_EXTENSIONS:
        return "image"
    if extension in SIDECARS:
        return "sidecar"
    hidden = any(part.startswith(".") for part in (*folders, base))
    return "other" if hidden or _OTHERS.fullmatch(extension) else "image"


def slices(keys: Iterable[str], per_slice: int) -> list[tuple[str, ...]]:
    """Deals keys into a power of two of slices by hash, each sorted, about ``per_slice`` keys or fewer.

    A new image touches one slice, so that a rerun reads only that one; empty slices are left out.

    >>> slices(["b", "a"], 10)
    [('a', 'b')]
    """
    ordered = sorted(keys)
    count = 1
    while count * per_slice < len(ordered):
        count *= 2
    dealt: list[list[str]] = [[] for _ in range(count)]
    for key in ordered:
        dealt[int(sha256_hex(key.encode("utf-8", "surrogateescape"))[:8], 16) % count].append(key)
    return [tuple(part) for part in dealt if part]


class FolderDigest:
    """The digest of a slice: over key and sha256 of every file in order, so that one file can be read again alone."""

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
        beside: gives caption and json beside a key (same stem, ``.txt`` and ``.json``), each None without such a file.
    """

    def __init__(
        self,
        keys: Sequence[str],
        read: Callable[[str], tuple[bytes | None, int]],
        beside: Callable[[str], tuple[str | None, str | None]],
    ) -> None:
        self._keys, self._read, self._beside = keys, read, beside
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
                caption, sidecar = self._beside(key)
                yield Member(name, data, size, caption=caption, url=original_url(sidecar), sidecar=sidecar)
