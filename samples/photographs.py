"""The photographs of photographs.csv, read out of the unpacked packages."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Photograph:
    package: str
    path: str
    title: str
    author: str
    licence: str


def resource_files(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a Qt resource (.rcc) file: a tree of nodes, names in UTF-16, contents that may be compressed."""
    _, version, tree, data, names = struct.unpack(">5I", blob[:20])

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        node = tree + index * (22 if version >= 2 else 14)
        name_at, flags = struct.unpack(">IH", blob[node : node + 6])
        start = names + name_at
        length = int.from_bytes(blob[start : start + 2])
        path = f"{folder}/{blob[start + 6 : start + 6 + 2 * length].decode('utf-16-be')}" if index else ""
        if flags & 2:
            count, first = struct.unpack(">2I", blob[node + 6 : node + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
        else:
            at = data + int.from_bytes(blob[node + 10 : node + 14])
            content = blob[at + 4 : at + 4 + int.from_bytes(blob[at : at + 4])]
            yield path, zlib.decompress(content[4:]) if flags & 1 else content

    return walk(0, "")


@cache
def resources(path: Path) -> dict[str, bytes]:
    return dict(resource_files(path.read_bytes()))


def open_photograph(photo: Photograph, work: Path) -> Image.Image:
    archive, _, member = photo.path.partition("!")
    path = work / "photos" / archive
    return Image.open(io.BytesIO(resources(path)[member]) if member else path).convert("RGB")


def scaled(image: Image.Image, longer: int) -> Image.Image:
    ratio = longer / max(image.size)
    return image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.LANCZOS)
