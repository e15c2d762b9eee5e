"""Files that were whole once: cut, flipped, overwritten, rearranged."""

import random
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise

from corpus_parts import (
    ANY,
    CUT,
    DECODED,
    FOREIGN,
    TRUNCATED,
    WHOLE,
    Entry,
    chunk,
    exif_block,
    grey_png,
    photographs,
    saved,
    scene,
)


def truncations() -> Iterator[Entry]:
    """Cuts a file at every marker or chunk, within the next bytes, and anywhere in the pixels."""
    where = random.Random(1)
    jpegs = [*photographs()[:6], *(saved(scene(n), "JPEG", progressive=True) for n in range(3))]
    for data in jpegs:
        cuts = {at + more for at in segments(data) for more in (0, 1, 3)} | {len(data) - 1}
        for at in sorted(at for at in cuts | {where.randrange(700, len(data)) for _ in range(8)} if at < len(data)):
            yield Entry("truncated jpeg", f"{at}.jpg", data[:at], CUT if at >= 3 else frozenset({FOREIGN}))
    for data in [saved(scene(n), "PNG", exif=exif_block(1)) for n in range(4)] + [grey_png()]:
        chunks = _png_chunks(data)
        cuts = {at + more for at in chunks for more in (0, 2, 6, 9)} | {where.randrange(8, len(data)) for _ in range(12)}
        for at in sorted(cuts):
            # Without its last chunk and checksum a PNG still has every pixel; then it must give all of them.
            allowed = CUT if at < chunks[-1] - 8 else frozenset({TRUNCATED, DECODED})
            yield Entry("truncated png", f"{at}.png", data[:at], allowed, same_as=data)
    for data in _webps():
        cuts = {at + more for at in _webp_chunks(data) for more in (0, 4, 9, 15)} | {len(data) - 1}
        for at in sorted(at for at in cuts | {where.randrange(30, len(data)) for _ in range(12)} if at < len(data)):
            yield Entry("truncated webp", f"{at}.webp", data[:at], CUT)
            if at > 40:  # the outer length made to agree, as a careless tool would
                yield Entry("truncated webp", f"{at}a.webp", data[:4] + struct.pack("<I", at - 8) + data[8:at], ANY, data)


def flips() -> Iterator[Entry]:
    """Turns over some bits of the header, the tables or the pixels."""
    where = random.Random(2)
    files = {
        "jpg": [*photographs()[:8], *(saved(scene(n), "JPEG", progressive=True) for n in range(2))],
        "png": [saved(scene(n), "PNG") for n in range(3)] + [grey_png()],
        "webp": list(_webps()),
    }
    for extension, datas in files.items():
        for data in datas:
            for first, last in ((0, 30), (2, 700), (700, len(data))):
                for _ in range(6):
                    damaged = bytearray(data)
                    for _ in range(where.choice((1, 1, 3, 20))):
                        damaged[where.randrange(first, min(last, len(data)))] ^= 1 << where.randrange(8)
                    yield Entry(f"flipped {extension}", f"{first}.{extension}", bytes(damaged))


def spans() -> Iterator[Entry]:
    """Overwrites blocks with zeros or noise, joins one file's start to another's end, and puts rubbish behind the end."""
    where = random.Random(3)
    files = [*photographs()[8:16], *(saved(scene(n), "PNG") for n in range(3)), *list(_webps())[:3]]
    for number, data in enumerate(files):
        for size in (16, 512, 4096):
            at = where.randrange(20, max(21, len(data) - size))
            yield Entry("overwritten", f"zero-{size}.jpg", data[:at] + bytes(size) + data[at + size :])
            yield Entry("overwritten", f"noise-{size}.jpg", data[:at] + where.randbytes(size) + data[at + size :])
            yield Entry("overwritten", f"gap-{size}.jpg", data[:at] + data[at + size :])
        other = files[(number + 5) % len(files)]
        yield Entry("spliced", "two.jpg", data[: len(data) // 2] + other[len(other) // 2 :])
        yield Entry("trailing bytes", "more.jpg", data + where.randbytes(300), WHOLE, data)


def chunks() -> Iterator[Entry]:
    """Doubles, drops, swaps and empties PNG chunks and JPEG segments, and gives chunks a wrong checksum."""
    for number in range(3):
        data = saved(scene(number), "PNG", exif=exif_block(6), dpi=(72, 72), transparency=(1, 2, 3))
        starts = [*_png_chunks(data), len(data)]
        parts = [data[first:last] for first, last in pairwise(starts)]
        yield from _rearranged("png", data[:8], parts, lambda part: chunk(part[4:8], b""))
        for at, part in enumerate(parts):
            wrong = part[:-4] + bytes(4)
            yield Entry("chunks png", "checksum.png", data[:8] + b"".join([*parts[:at], wrong, *parts[at + 1 :]]))
    for number in range(3):
        data = saved(scene(number), "JPEG", progressive=number == 2, exif=exif_block(6), dpi=(72, 72))
        starts = [*segments(data), len(data)]
        parts = [data[first:last] for first, last in pairwise(starts)]
        yield from _rearranged("jpg", data[:2], parts, lambda part: part[:2] + b"\0\2")


def _rearranged(extension: str, start: bytes, parts: list[bytes], emptied: Callable[[bytes], bytes]) -> Iterator[Entry]:
    family = f"chunks {extension}"
    for at, part in enumerate(parts):
        before, after = parts[:at], parts[at + 1 :]
        made = {
            "doubled": [*before, part, part, *after],
            "dropped": [*before, *after],
            "emptied": [*before, emptied(part), *after],
        }
        if after:
            made["swapped"] = [*before, after[0], part, *after[1:]]
        for name, order in made.items():
            yield Entry(family, f"{name}.{extension}", start + b"".join(order))


def _webps() -> Iterator[bytes]:
    for number in range(2):
        yield saved(scene(number), "WEBP", quality=80)
        yield saved(scene(number), "WEBP", lossless=True)
        picture = scene(number).convert("RGBA")
        picture.putalpha(scene(2).convert("L"))
        yield saved(picture, "WEBP", quality=80, exif=exif_block(1))


def segments(data: bytes) -> list[int]:
    """Offsets of a JPEG's markers up to and including each start of scan."""
    found, at = [], 2
    while data[at] == 0xFF:
        found.append(at)
        kind, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        at += 2 + size
        if kind == 0xDA:
            while at < len(data) - 1 and not (data[at] == 0xFF and data[at + 1] not in (0, *range(0xD0, 0xD8))):
                at += 1
            if data[at + 1] == 0xD9:
                return [*found, at]
    return found


def _png_chunks(data: bytes) -> list[int]:
    found, at = [], 8
    while at < len(data):
        found.append(at)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


def _webp_chunks(data: bytes) -> list[int]:
    found, at = [], 12
    while at < len(data):
        found.append(at)
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return found
