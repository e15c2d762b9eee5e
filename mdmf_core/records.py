"""Readers, scorer and warehouse hand these records to each other."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8

_PASSES, _BY_READER, _NOT_AGAIN = "passes", "by_reader", "not_again"


class ExclusionReason(StrEnum):
    """The reasons why a member of a shard got no score. Every member without a score has exactly one of these.

    Attributes:
        meaning: what is the matter with the member.
        passes: another try may end otherwise with the same bytes; only such reasons are retried unless forced.
        by_reader: the shard's reader decided it by the other members; another look at this one alone cannot decide otherwise.
        decode_again: a decoder may be given the member once more where that serves no more than a picture of it.
    """

    UNDECODABLE = "undecodable", "looks like an image, but its data is damaged"
    TRUNCATED = "truncated", "its data ends before the image does"
    TOO_SMALL = "too_small", "without its border, smaller than one crop of the scorer"
    TOO_LARGE = "too_large", "more bytes or pixels than the limits allow"
    UNSUPPORTED_FORMAT = "unsupported_format", "an image, but not JPEG, PNG or WebP"
    NOT_AN_IMAGE = "not_an_image", "no image signature: an HTML page, a PDF, random bytes"
    EMPTY = "empty", "zero bytes, or a null in a parquet column"
    DUPLICATE_KEY = "duplicate_key", "another member of the shard came first under this key", _BY_READER
    NO_IMAGE = "no_image", "a caption or json whose key has no image beside it", _BY_READER
    NOT_A_FILE = "not_a_file", "a link, device or sparse entry in an archive", _BY_READER
    STORAGE = "storage", "the store did not give its bytes", _PASSES
    DECODER_CRASHED = "decoder_crashed", "its decoder ended without an answer, twice", _PASSES, _NOT_AGAIN
    DECODER_TIMEOUT = "decoder_timeout", "its decoder took longer than the limit", _PASSES, _NOT_AGAIN

    meaning: str
    passes: bool
    by_reader: bool
    decode_again: bool

    def __new__(cls, value: str, meaning: str = "", *traits: str) -> Self:
        reason = str.__new__(cls, value)
        reason._value_, reason.meaning = value, meaning
        reason.passes, reason.by_reader = _PASSES in traits, _BY_READER in traits
        reason.decode_again = _NOT_AGAIN not in traits
        return reason


class ImageExcluded(Exception):
    """Raised while one image is decoded or prepared; becomes a row in ``exclusions``."""

    def __init__(self, reason: ExclusionReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a shard as its reader saw it, before anything is decoded.

    ``locator`` finds the bytes again without a scan: byte offset in a tar, row number in a parquet file, None in a folder.
    ``excluded`` is set when the reader itself refuses the member; ``data`` is then empty.
    """

    key: str
    data: bytes
    size: int
    locator: int | None = None
    caption: str | None = None
    url: str | None = None
    sidecar: str | None = None  # the source's own json, as text
    excluded: ExclusionReason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ImageShape:
    """The shape of an image decides which real images it can be compared with."""

    width: int
    height: int
    jpeg_quality: int | None  # None = not a JPEG
    resized: bool | None  # as a sidecar says; None = not said


@dataclass(frozen=True, slots=True)
class DecodedFacts:
    """Decoding tells these facts of a file and its past, beside the pixels."""

    format: str
    width: int
    height: int
    jpeg_quality: int | None
    border_px: int  # widest uniform edge that was cut off, pixels


@dataclass(frozen=True, slots=True)
class DecodedImage(DecodedFacts):
    """A decoded image is its upright RGB pixels, without a uniform border, and the facts."""

    pixels: UInt8[np.ndarray, "height width 3"]

    @property
    def facts(self) -> DecodedFacts:
        return DecodedFacts(self.format, self.width, self.height, self.jpeg_quality, self.border_px)


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of reading and landing: a tar, a parquet file, or one slice of a folder."""

    url: str
    kind: str  # tar | parquet | folder
    size_bytes: int
    fingerprint: str  # changes when the store says that the content may have changed (ETag, or size and mtime)
    unfinished: str | None = None  # why the listing alone already defers it
    keys: tuple[str, ...] = ()  # a folder slice's files, relative to the folder

    def record(self) -> dict[str, Any]:
        """Returns the shard as a plain record for the plan's Parquet file."""
        return {name: getattr(self, name) for name in self.__slots__} | {"keys": list(self.keys)}
