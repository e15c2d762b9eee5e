"""The decoding policy, one test a sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from fabricate import encoded, photo
from PIL import Image

from mdmf_core.images.decode import ImageLimits, decode
from mdmf_core.images.provenance import content_box, jpeg_quality
from mdmf_core.records import ExclusionReason, ImageExcluded

LIMITS = ImageLimits()


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def reason_of(data: bytes, limits: ImageLimits = LIMITS) -> ExclusionReason:
    with pytest.raises(ImageExcluded) as excluded:
        decode(data, limits)
    return excluded.value.reason


@pytest.mark.parametrize(("format", "name"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WEBP")])
def test_supported_formats_decode_to_upright_rgb(format, name):
    image = decode(encoded(1, format), LIMITS)
    assert (image.format, image.width, image.height) == (name, 256, 240)
    assert image.pixels.shape == (240, 256, 3)
    assert np.abs(image.pixels.astype(int) - np.asarray(photo(1)).astype(int)).mean() < 8


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to see it upright
    image = decode(saved(photo(1), "JPEG", quality=95, exif=exif), LIMITS)
    assert (image.width, image.height) == (240, 256)
    expected = np.asarray(photo(1).transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(image.pixels.astype(int) - expected).mean() < 6


def test_transparency_is_laid_over_white():
    picture = photo(1).convert("RGBA")
    picture.putalpha(Image.new("L", picture.size, 0))
    picture.paste(photo(1).crop((0, 0, 256, 100)), (0, 0))
    image = decode(saved(picture, "PNG"), LIMITS)
    assert image.border_px == 140  # the transparent rest became a white edge
    palette = photo(2).convert("P")
    palette.info["transparency"] = 0
    assert decode(saved(palette, "PNG", transparency=0), LIMITS).pixels.shape[2] == 3


def test_sixteen_bit_grey_keeps_its_upper_byte():
    noise = np.random.default_rng(0).integers(0, 65536, (64, 256), dtype=np.uint16)
    image = decode(saved(Image.fromarray(noise), "PNG"), LIMITS)
    assert np.array_equal(image.pixels[:, :, 0], (noise >> 8).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_other_modes_become_rgb(mode):
    data = saved(photo(3).convert(mode), "PNG" if mode == "1" else "JPEG")
    assert decode(data, LIMITS).pixels.shape == (240, 256, 3)


def test_first_frame_of_an_animation():
    data = saved(photo(1), "WEBP", save_all=True, append_images=[photo(2)], duration=100, lossless=True)
    assert np.array_equal(decode(data, LIMITS).pixels, np.asarray(photo(1)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_named_so_and_never_completed(format, share):
    data = encoded(1, format)
    assert reason_of(data[: int(len(data) * share)]) is ExclusionReason.TRUNCATED


def test_damage_and_foreign_files_have_their_reasons():
    assert reason_of(b"") is ExclusionReason.EMPTY
    assert reason_of(b"<!doctype html><html>") is ExclusionReason.NOT_AN_IMAGE
    assert reason_of(saved(photo(1), "GIF")) is ExclusionReason.UNSUPPORTED_FORMAT
    assert reason_of(saved(photo(1), "TIFF")) is ExclusionReason.UNSUPPORTED_FORMAT
    data = bytearray(encoded(1, "PNG"))
    data[60:200] = bytes(140)  # inside the compressed pixels; the file still has its end
    assert reason_of(bytes(data)) is ExclusionReason.UNDECODABLE
    assert reason_of(encoded(1), ImageLimits(max_bytes=100)) is ExclusionReason.TOO_LARGE


def test_pixel_limit_is_checked_before_decoding():
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert reason_of(bomb) is ExclusionReason.TOO_LARGE


def test_uniform_border_is_cut_off_and_its_width_kept():
    padded = Image.new("RGB", (336, 320), "white")
    padded.paste(photo(1), (40, 40))
    image = decode(saved(padded, "PNG"), LIMITS)
    assert (image.border_px, image.pixels.shape[:2], image.width) == (40, (240, 256), 336)
    assert decode(encoded(1), LIMITS).border_px == 0
    assert content_box(np.zeros((50, 50, 3), np.uint8)) == (0, 0, 0, 0)


@pytest.mark.parametrize("quality", [95, 90, 75, 60])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("upright", [True, False])
def test_the_border_of_a_jpeg_is_cut_completely(quality, subsampling, upright):
    # Ringing pollutes the border in the 8 or 16 px block that the photo begins in, so every offset in a block is tried.
    for before in (1, 5, *range(32, 48)):
        padded = Image.new("RGB", (256, 256), "white")
        padded.paste(photo(before, 256, 192), (0, before))
        turned = padded if upright else padded.transpose(Image.Transpose.TRANSPOSE)
        with Image.open(io.BytesIO(saved(turned, "JPEG", quality=quality, subsampling=subsampling))) as image:
            top, left, bottom, right = content_box(np.asarray(image))
        start, end, across = (top, bottom, (left, right)) if upright else (left, right, (top, bottom))
        assert (start, end, across) == (before, before + 192, (0, 256))


@pytest.mark.parametrize("quality", [95, 60])
def test_an_object_on_white_is_not_nibbled_and_a_bright_sky_is_no_border(quality):
    y, x = np.mgrid[:256, :256]
    inside = ((x - 128) / 90) ** 2 + ((y - 120) / 70) ** 2 < 1
    product = np.where(inside[:, :, None], np.asarray(photo(1, 256, 256)), 255).astype(np.uint8)
    sky = np.asarray(photo(2, 256, 256)).copy()
    sky[:60] = (240 - np.arange(60)[:, None, None] / 4 + np.random.default_rng(0).normal(0, 5, (60, 256, 3))).clip(0, 255)
    boxes = []
    for pixels in (product, sky):
        with Image.open(io.BytesIO(saved(Image.fromarray(pixels), "JPEG", quality=quality, subsampling=0))) as image:
            boxes.append(content_box(np.asarray(image)))
    top, left, bottom, right = boxes[0]
    assert 50 - 8 <= top <= 51
    assert 38 - 8 <= left <= 39
    assert 190 <= bottom <= 191 + 8
    assert 218 <= right <= 219 + 8
    assert boxes[1] == (0, 0, 256, 256)


def test_an_image_of_two_flat_halves_has_no_content():
    pixels = np.full((40, 40, 3), 255, np.uint8)
    pixels[20:] = (255, 0, 0)
    assert content_box(pixels) == (0, 0, 0, 0)
    assert content_box(pixels.transpose(1, 0, 2)) == (0, 0, 0, 0)


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95, 100])
def test_jpeg_quality_is_recovered(quality):
    with Image.open(io.BytesIO(saved(photo(1), "JPEG", quality=quality))) as image:
        assert abs(jpeg_quality(image.quantization) - quality) <= 1
    assert jpeg_quality({}) is None
