"""Copies out of tars: byte for byte in every dialect, and refused wherever scoring refuses."""

import io
import tarfile

import pytest
from tar_bytes import END, entry, header, padded, pax

from mdmf_core.collections.raw_tar import end_of_archive, raw_samples
from mdmf_core.collections.tar import TarReader
from mdmf_core.errors import ShardCorrupt, ShardUnfinished


def copied(data: bytes, *keys: str) -> list[bytes]:
    return [b"".join(sample.parts) for sample in raw_samples(io.BytesIO(data), len(data), keys)]


LONG = b"d/" * 80 + b"long.jpg"
PADDING = entry(b"p.jpg", b"abc")[:-100] + b"~" * 100  # what lies behind the data is copied too
KINDS = {
    "plain": entry(b"a.jpg", b"abc") + entry(b"a.txt", b"words"),
    "PAX path, time and attributes": pax((b"path", "é.jpg".encode()), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.x", b"1"))
    + entry(b"e.jpg", b"abc"),
    "two PAX headers": pax((b"path", b"a.jpg")) + pax((b"mtime", b"2")) + entry(b"x", b"abc"),
    "PAX size": pax((b"size", b"3")) + header(b"a.jpg") + padded(b"abc"),
    "GNU long name": entry(b"././@LongLink", LONG + b"\0", b"L") + entry(LONG[:100], b"abc"),
    "GNU long link": entry(b"a.jpg", b"abc") + entry(b"././@LongLink", b"t" * 300 + b"\0", b"K") + header(b"a.link", 0, b"2"),
    "latin-1 name": entry(b"caf\xe9.jpg", b"abc"),
    "padding that is not zero": PADDING,
    "an unknown type with data": entry(b"a.jpg", b"abc") + entry(b"a.odd", b"xyz", b"Q"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_copied_byte_for_byte(kind):
    sample = KINDS[kind]
    before, after = entry(b"before.jpg", b"1" * 700), entry(b"later.jpg", b"2")
    data = before + sample + after + END
    members = TarReader(io.BytesIO(data), len(data), 1 << 20)
    key = next(member.key for member in members if member.key not in ("before", "later"))
    assert copied(data, key) == [sample]
    archive = sample + end_of_archive(len(sample))
    assert len(archive) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getmembers()


def test_the_image_of_a_sample_is_what_was_scored():
    data = pax((b"path", b"k.json")) + entry(b"x", b"{}") + pax((b"path", b"k.jpg")) + entry(b"x", b"image" * 200) + END
    ((sample, scored),) = zip(
        raw_samples(io.BytesIO(data), len(data), {"k"}), TarReader(io.BytesIO(data), len(data), 1 << 20), strict=True
    )
    (image,) = sample.images
    assert bytes(image.data) == scored.data == b"image" * 200


def test_a_damaged_block_in_the_middle_is_no_silent_end():
    whole = entry(b"a.jpg", b"x" * 700) + entry(b"b.jpg", b"y" * 700) + entry(b"c.jpg", b"z") + END
    damaged = bytearray(whole)
    damaged[1536 + 150] ^= 0xFF
    assert len(copied(whole, "a", "c")) == 2
    with pytest.raises(ShardCorrupt, match="checksum"):
        copied(bytes(damaged), "a", "c")
    with pytest.raises(ShardUnfinished):
        copied(whole[:2000], "a", "c")


def test_what_a_copy_would_lose_or_cannot_hold_is_refused():
    with pytest.raises(ShardCorrupt, match="global headers"):
        copied(pax((b"comment", b"x"), kind=b"g") + entry(b"a.jpg") + END, "a")
    with pytest.raises(ShardCorrupt, match="sparse"):
        copied(entry(b"a.jpg") + entry(b"a.odd", b"x" * 512, b"S") + END, "a")
    with pytest.raises(ShardCorrupt, match="headers of one entry"):
        copied(entry(b"n", b"d/" * 100 + b"\0", b"L") * 5000 + entry(b"a.jpg") + END, "a")
