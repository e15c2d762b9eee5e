"""What the corpus is made of: the bundled photographs, and files put together byte by byte."""

import io
import struct
import tarfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mdmf_core.records import ExclusionReason

SAMPLES = Path(__file__).parents[2] / "samples"
DECODED = "decoded"
TRUNCATED, UNDECODABLE = str(ExclusionReason.TRUNCATED), str(ExclusionReason.UNDECODABLE)
TOO_LARGE, TOO_SMALL = str(ExclusionReason.TOO_LARGE), str(ExclusionReason.TOO_SMALL)
FOREIGN = str(ExclusionReason.NOT_AN_IMAGE)
# Damage whose effect no one can foretell: whatever it is, it must be one of these.
ANY = frozenset({DECODED, TRUNCATED, UNDECODABLE, TOO_LARGE, TOO_SMALL, FOREIGN, "unsupported_format"})
CUT = frozenset({TRUNCATED})
WHOLE = frozenset({DECODED})


@dataclass(frozen=True)
class Entry:
    """One file; ``same_as`` names the bytes whose crops it must have if it is decoded at all."""

    family: str
    name: str  # with an extension
    data: bytes
    allowed: frozenset[str] = ANY
    same_as: bytes | None = None


@cache
def photographs() -> tuple[bytes, ...]:
    """Gives twenty of the bundled JPEG photographs as bytes, the smallest first."""
    files = [path.read_bytes() for path in sorted((SAMPLES / "folder").glob("*.jpg"))]
    with tarfile.open(SAMPLES / "laion-mini" / "00000.tar") as archive:
        entries = [entry for entry in archive if entry.name.endswith(".jpg") and entry.size > 10_000][:8]
        files += [archive.extractfile(entry).read() for entry in entries]
    return tuple(sorted(files, key=len))


@cache
def scene(number: int) -> Image.Image:
    """Gives the upper left 240 x 232 px of a photograph."""
    with Image.open(io.BytesIO(photographs()[number])) as image:
        return image.convert("RGB").crop((0, 0, 240, 232))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, before: bytes = b"", rows: bytes | None = None, depth: int = 8, colour: int = 2) -> bytes:
    """Writes a PNG by hand; ``rows`` are its bytes before compression."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + body + chunk(b"IEND", b"")


def rows_of(image: Image.Image) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(image))


def grey_png() -> bytes:
    return saved(Image.merge("LA", (scene(0).convert("L"), scene(1).convert("L"))), "PNG")


def exif_block(orientation: int, kind: int = 3) -> bytes:
    """Writes an EXIF block with one tag, big-endian; kind 3 is a short."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, kind, 1, orientation, 0) + bytes(4)
