"""Files that are what they are: every coding of an image, foreign files, and small ones that state or unpack to a lot."""

import base64
import json
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from corpus_parts import (
    ANY,
    CUT,
    DECODED,
    FOREIGN,
    TOO_LARGE,
    TOO_SMALL,
    TRUNCATED,
    UNDECODABLE,
    WHOLE,
    Entry,
    chunk,
    exif_block,
    photographs,
    png,
    rows_of,
    saved,
    scene,
)
from PIL import Image

# 48 x 40 px with arithmetic instead of Huffman coding, which Pillow reads but does not write.
_ARITHMETIC = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgy
PC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/yQARCAAoADAD
ASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDSF3pRArJiRJtq79jC0y/aHRKgASA3YilWKpBFLRbDX08+9e3Krk7C1O1qwZKgQiHx
coLBQsslCMIVgHRhxoTMMQUQ4LuRYHDKERoTs6lmNby6pCsjBzVWr8AWyfkOtdQGy6AloKF83+Vux5Sdb3kRX5o1J+19CHvmRFxHWJ2Ruk6N/aS+
fmBF4fUzVf09a+XBTT3EXuYV03zGX87jIW1NKHbohFKl03LTMQu1UEfuHGImc81EWPpNkDDKA1sZmoqFSb0P2ze0DKNRF3zYBdMVcP4SacQnSSxJ
hnudG3YNIPx6sZwX5UuY8g2bA9++XIsMGI3A9OhbkcbmaezQQNvL+OLx3hO/3ZhyodvWdmQRKQewQhqwiNScpBuPQtaHjU5Hvwm28kY+fqY4COYn
mGZfc8TEBI03/X90E5R/C3oQLFfZiArp1xWhpjdgM67Tiuq8bqJ5QHdterMqJ7i5NA2tEbr4fFKynSUazLk4I6SGinzrxubz4hYwTKGiGswdwbxE
QKyjwY8qj8kR1wT2xr84q4QXB0sj2GYgZIstuNfFintKPmzUUAWLgI68JMZfCgFbaP7RL2uZQx1CP2HlRCFMeei+jtOf/9k=
"""


def variants() -> Iterator[Entry]:
    """Gives whole files of every mode and coding, under right and wrong names."""
    for data in photographs():
        yield Entry("whole", "photo.jpg", data, WHOLE, data)
        yield Entry("wrong extension", "photo.png", data, WHOLE, data)
    for number in range(4):
        picture = scene(number)
        alpha = picture.convert("RGBA")
        alpha.putalpha(scene(number + 1).convert("L"))
        grey16 = Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16) << 8) + 7)
        colour16 = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in np.asarray(picture))
        palette = picture.convert("P", palette=Image.Palette.ADAPTIVE)
        cmyk = saved(picture.convert("CMYK"), "JPEG")
        adobe = cmyk.index(b"\xff\xee")
        plain = cmyk[:adobe] + cmyk[adobe + 2 + int.from_bytes(cmyk[adobe + 2 : adobe + 4], "big") :]
        reference = saved(picture, "PNG")
        files = {
            "grey.jpg": saved(picture.convert("L"), "JPEG"), "cmyk.jpg": cmyk, "cmyk-without-adobe.jpg": plain,
            "progressive.jpg": saved(picture, "JPEG", progressive=True), "q100.jpg": saved(picture, "JPEG", quality=100),
            "restart.jpg": saved(picture, "JPEG", restart_marker_blocks=4),
            "grey.png": saved(picture.convert("L"), "PNG"), "grey-alpha.png": saved(alpha.convert("LA"), "PNG"),
            "bits.png": saved(picture.convert("1"), "PNG"), "alpha.png": saved(alpha, "PNG"),
            "grey16.png": saved(grey16, "PNG"), "palette.png": saved(palette, "PNG"),
            "palette-index.png": saved(palette, "PNG", transparency=3),
            "palette-alpha.png": saved(palette, "PNG", transparency=bytes(range(200))),
            "key.png": saved(picture, "PNG", transparency=(9, 9, 9)), "alpha.webp": saved(alpha, "WEBP"),
        }  # fmt: skip
        for name, data in files.items():
            yield Entry("modes", name, data, WHOLE)
        yield Entry("modes", "rgb16.png", png(240, 232, rows=colour16, depth=16), WHOLE, reference)
        yield Entry("modes", "lossless.webp", saved(picture, "WEBP", lossless=True), WHOLE, reference)
        yield Entry("modes", "wrong.jpg", reference, WHOLE, reference)
    yield Entry("modes", "arithmetic.jpg", base64.b64decode(_ARITHMETIC), frozenset({TOO_SMALL}))


def orientations() -> Iterator[Entry]:
    """Gives images with every EXIF orientation, with numbers that mean none, and with blocks that are no EXIF."""
    plain = {"JPEG": saved(scene(0), "JPEG"), "PNG": saved(scene(0), "PNG"), "WEBP": saved(scene(0), "WEBP")}
    blocks = {str(value): exif_block(value) for value in (0, *range(1, 10), 255, 65535)} | {
        "ascii": exif_block(6, 2), "unknown-type": exif_block(6, 99), "empty": b"Exif\0\0", "cut": exif_block(6)[:20], 
        "noise": b"Exif\0\0" + bytes(range(200)),
        "far": b"Exif\0\0MM\0*\xff\xff\xff\xff", "loop": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08",
        "many": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + struct.pack(">HHII", 0x0112, 5, 2**31, 8) * 4000,
        "twice": b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) * 2 + bytes(4),
    }  # fmt: skip
    for format, extension in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        for name, block in blocks.items():
            upright = not name.isdigit() or not 2 <= int(name) <= 8
            same_as = plain[format] if upright and name != "twice" else None
            yield Entry("exif", f"{name}.{extension}", saved(scene(0), format, exif=block), WHOLE, same_as)
    segment = exif_block(6)
    bomb = b"".join(b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment for _ in range(5000))
    yield Entry("exif", "segments.jpg", plain["JPEG"][:2] + bomb + plain["JPEG"][2:], WHOLE)


def profiles() -> Iterator[Entry]:
    """Gives images with whole and with broken ICC profiles; none is applied, so their pixels stay as they are."""
    for number, profile in enumerate((b"\0\0\1\0ADBE" + bytes(248), b"nonsense", bytes(200_000), b"\xff" * 70_000)):
        for format, extension in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
            data = saved(scene(1), format, icc_profile=profile)
            yield Entry("icc", f"{number}.{extension}", data, WHOLE, saved(scene(1), format))
    rows = rows_of(scene(1))
    broken = png(240, 232, chunk(b"iCCP", b"x\0\0nonsense"), rows)
    yield Entry("icc", "broken.png", broken, WHOLE, png(240, 232, rows=rows))
    yield Entry("icc", "method.png", png(240, 232, chunk(b"iCCP", b"x\0\5nonsense"), rows), frozenset({UNDECODABLE}))


def animations() -> Iterator[Entry]:
    """Gives animations, of which only the first frame counts; GIF is not among the formats that are scored."""
    for number in range(4):
        more = {"save_all": True, "append_images": [scene(number + 1), scene(number + 2)]}
        webp, apng = (saved(scene(number), "WEBP", lossless=True, **more), saved(scene(number), "PNG", **more))
        still = saved(scene(number), "PNG")
        mpo = saved(scene(number), "MPO", **more)
        yield Entry("animated", "frames.webp", webp, WHOLE, still)
        yield Entry("animated", "frames.png", apng, WHOLE, still)
        yield Entry("animated", "frames.jpg", saved(scene(number), "GIF", **more), frozenset({"unsupported_format"}))
        yield Entry("animated", "mpo.jpg", mpo, WHOLE, saved(scene(number), "JPEG"))
        for share in (0.2, 0.5, 0.9):
            yield Entry("animated, cut", "frames.webp", webp[: int(len(webp) * share)], CUT)
            yield Entry("animated, cut", "frames.png", apng[: int(len(apng) * share)], frozenset({TRUNCATED, DECODED}), still)
            yield Entry("animated, cut", "mpo.jpg", mpo[: int(len(mpo) * share)], frozenset({TRUNCATED, DECODED}), mpo)


def foreign() -> Iterator[Entry]:
    """Gives what a failed download leaves under an image's name: pages, texts, archives."""
    unsupported = frozenset({"unsupported_format"})
    yield Entry("foreign", "empty.jpg", b"", frozenset({"empty"}))
    yield Entry("foreign", "page.jpg", b"<!doctype html><html><body>403 Forbidden</body></html>", frozenset({FOREIGN}))
    yield Entry("foreign", "answer.jpg", json.dumps({"error": "not found"}).encode(), frozenset({FOREIGN}))
    yield Entry("foreign", "text.png", "Zugriff verweigert \u2026".encode(), frozenset({FOREIGN}))
    yield Entry("foreign", "paper.jpg", b"%PDF-1.7\n", frozenset({FOREIGN}))
    yield Entry("foreign", "drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", frozenset({FOREIGN}))
    yield Entry("foreign", "zeros.jpg", bytes(50_000), frozenset({FOREIGN}))
    for format in ("GIF", "BMP", "TIFF", "ICO", "JPEG2000"):
        yield Entry("foreign", f"{format.lower()}.jpg", saved(scene(0), format), unsupported)
    yield Entry("foreign", "photo.avif", b"\0\0\0\x20ftypavif" + bytes(100), unsupported)
    for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"RIFF\xff\xff\xff\xffWEBPVP8X"):
        yield Entry("foreign", "start.jpg", start, CUT)
        yield Entry(
            "foreign", "rubbish.jpg", start + random.Random(4).randbytes(3000), frozenset({TRUNCATED, UNDECODABLE, TOO_LARGE})
        )


def bombs() -> Iterator[Entry]:
    """Gives small files that state a huge size or unpack to one."""
    large = frozenset({TOO_LARGE})
    rows = rows_of(scene(0))
    for width, height in ((60000, 60000), (12001, 10000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)):
        allowed = large if height > 1 else ANY
        yield Entry("bombs", f"{width}x{height}.png", png(width, height, rows=bytes(1000)), allowed)
    jpeg = saved(scene(0), "JPEG")
    frame_at = jpeg.index(b"\xff\xc0")
    for width, height in ((65535, 65535), (12001, 10000)):
        data = jpeg[: frame_at + 5] + struct.pack(">HH", height, width) + jpeg[frame_at + 9 :]
        yield Entry("bombs", f"{width}x{height}.jpg", data, large)
    for width, height in ((0, 0), (0, 100), (100, 0)):
        yield Entry("bombs", f"{width}x{height}.png", png(width, height, rows=bytes(1000)), frozenset({UNDECODABLE}))
        data = jpeg[: frame_at + 5] + struct.pack(">HH", height, width) + jpeg[frame_at + 9 :]
        yield Entry("bombs", f"{width}x{height}.jpg", data, frozenset({UNDECODABLE, TRUNCATED}))
    webp = saved(scene(0), "WEBP", save_all=True, append_images=[scene(1)])
    for side in (16384, 2**24):
        data = webp[:24] + (side - 1).to_bytes(3, "little") * 2 + webp[30:]
        yield Entry("bombs", f"canvas-{side}.webp", data, large)
    packed = zlib.compress(bytes(50_000_000))
    for kind, body in ((b"iCCP", b"x\0\0" + packed), (b"zTXt", b"x\0\0" + packed), (b"iTXt", b"x\0\1\0\0\0" + packed)):
        yield Entry("bombs", f"{kind.decode()}.png", png(240, 232, chunk(kind, body), rows), large)
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000)))
    yield Entry("bombs", "texts.png", png(240, 232, text * 80, rows), large)
    yield Entry("bombs", "pixels.png", png(240, 232, rows=rows + bytes(200_000_000)), WHOLE, saved(scene(0), "PNG"))
    for width, height in ((1, 60000), (60000, 1), (1, 1), (223, 4000), (4000, 223)):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        for format, extension in (("JPEG", "jpg"), ("PNG", "png")):
            yield Entry(
                "strips", f"{width}x{height}.{extension}", saved(Image.fromarray(noise), format), frozenset({TOO_SMALL})
            )
