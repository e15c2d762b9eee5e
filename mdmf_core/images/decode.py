"""Image files are decoded to upright RGB pixels, or excluded for a documented reason.

* JPEG, PNG and WebP, known by their first bytes; a file's name says nothing.
* Pixels are counted from the header, before any is decoded and before room is made for them.
* Truncated data is never completed. What follows the last pixel may be missing, and bytes behind the end do not matter.
* EXIF orientation is applied. Metadata that is no EXIF, or an orientation that is none, changes nothing.
* Animations, and JPEGs that hold several pictures (MPO), give their first.
* Transparency is laid over white. 16-bit samples keep their upper byte. CMYK is taken as Adobe writes it, inverted.
* Colour profiles are not applied: the numbers in the file are what a generator or a camera left.
* PNG metadata that unpacks to more than Pillow's limits (1 MiB a chunk, 64 MiB a file) makes the file ``too_large``.

A limit of the formats: a JPEG whose scan ends early but that has its end marker is decoded, with flat blocks for the rest.
"""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, JpegImagePlugin

from mdmf_core.images.provenance import content_box, jpeg_quality
from mdmf_core.records import DecodedImage, ExclusionReason, ImageExcluded

# Ours is checked below, before decoding, and is a row in the warehouse; Pillow's would be a warning for the whole process.
Image.MAX_IMAGE_PIXELS = None

_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FORMATS = ("JPEG", "PNG", "WEBP")
# How Pillow words metadata that unpacks to more than its own limits, and a decoder that got no memory.
_TOO_MUCH = ("decompressed data too large", "too much memory used", "out of memory")
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\x01\0": "ICO",
    b"8BPS": "PSD",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The limits say what is decoded at all, and what one image may cost.

    ``max_seconds`` and ``max_memory`` hold where an image is decoded in a process of its own; ``decode`` cannot keep them.
    """

    max_bytes: int = 64 * 2**20  # of the encoded file
    max_pixels: int = 120_000_000
    max_seconds: float = 30.0
    max_memory: int = 7 * 2**29  # address space of the process, bytes


def sniff(data: bytes) -> str | None:
    """Names the image format that the first bytes announce, or None if they announce none.

    >>> sniff(b"\\xff\\xd8\\xff\\xe0"), sniff(b"<html>")
    ('JPEG', None)
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return "HEIF/AVIF"
    return next((name for signature, name in _SIGNATURES.items() if data.startswith(signature)), None)


def decode(data: bytes, limits: ImageLimits) -> DecodedImage:
    """Decodes one image file, upright and without its uniform border.

    Raises:
        ImageExcluded: with the reason that belongs in ``exclusions``.
        MemoryError: the process may not have as much as this image takes.
    """
    if not data:
        raise ImageExcluded(ExclusionReason.EMPTY, "0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageExcluded(ExclusionReason.TOO_LARGE, f"{len(data)} bytes, limit {limits.max_bytes}")
    announced = sniff(data)
    if announced is None:
        raise ImageExcluded(ExclusionReason.NOT_AN_IMAGE, f"starts with {data[:16]!r}")
    if announced not in _FORMATS:
        raise ImageExcluded(ExclusionReason.UNSUPPORTED_FORMAT, announced)
    if announced == "WEBP":  # Pillow makes room for the whole canvas when it opens one
        _check_pixels(*_webp_canvas(data), limits)
    try:
        with Image.open(io.BytesIO(data), formats=[announced]) as image:
            _check_pixels(*image.size, limits)
            tables = image.quantization if isinstance(image, JpegImagePlugin.JpegImageFile) else {}
            pixels = _upright_rgb(image)
    except (ImageExcluded, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise many types for damaged files; each one is an exclusion
        raise ImageExcluded(_damage(error, data, announced), f"{type(error).__name__}: {error}"[:200]) from error
    top, left, bottom, right = content_box(pixels)
    content = np.ascontiguousarray(pixels[top:bottom, left:right])
    border = max(top, left, pixels.shape[0] - bottom, pixels.shape[1] - right)
    return DecodedImage(announced, pixels.shape[1], pixels.shape[0], jpeg_quality(tables), border, content)


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageExcluded(ExclusionReason.TOO_LARGE, f"{width} x {height} pixels, limit {limits.max_pixels}")


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Returns the width and height that the first chunk of a WebP states; 0 x 0 where it states none."""
    kind, chunk = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return int.from_bytes(chunk[4:7], "little") + 1, int.from_bytes(chunk[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(chunk[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(chunk[6:8], "little") & 0x3FFF, int.from_bytes(chunk[8:10], "little") & 0x3FFF
    return 0, 0


def _upright_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip instead of scale
        grey = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> object:
    """Returns the file's EXIF orientation. Metadata that cannot be read says nothing; the pixels are whole all the same."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as many types as there are ways to damage it
        return None


def _damage(error: Exception, data: bytes, announced: str) -> ExclusionReason:
    text = str(error).lower()
    if any(sign in text for sign in _TOO_MUCH):
        return ExclusionReason.TOO_LARGE
    if "file is truncated" in text or _is_cut(data, announced):
        return ExclusionReason.TRUNCATED
    return ExclusionReason.UNDECODABLE


def _is_cut(data: bytes, announced: str) -> bool:
    """Says whether a file that failed has no end: no end marker, or a chunk longer than what is there."""
    if announced == "JPEG":
        return b"\xff\xd9" not in data[-4096:]
    if announced == "PNG":
        return b"IEND" not in data[-64:]
    end = 12
    while end + 8 <= len(data):
        end += 8 + int.from_bytes(data[end + 4 : end + 8], "little")
        end += end % 2
    return max(end - 1, 8 + int.from_bytes(data[4:8], "little")) > len(data)
