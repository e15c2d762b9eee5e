"""Tars that lie, and tars that are cut: every one ends as rows, as a reason, or as "not finished yet"."""

import io
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tar_bytes import END, entry, header, padded, pax

from mdmf_core.collections.raw_tar import raw_samples
from mdmf_core.collections.stream import HashingStream
from mdmf_core.collections.tar import TarReader
from mdmf_core.collections.tar_headers import EntryStream
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member


def read(data: bytes, max_bytes: int = 1 << 20) -> list[Member]:
    return list(TarReader(io.BytesIO(data), len(data), max_bytes))


LONG = "d/" * 80 + "long.jpg"


def archives() -> Iterator[tuple[str, bytes]]:
    """Whole archives of every dialect, two members and more each."""
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        headers = {"comment": "global"} if dialect == tarfile.PAX_FORMAT else None
        with tarfile.open(fileobj=buffer, mode="w", format=dialect, pax_headers=headers) as archive:
            for name in ("a.jpg", "d/" * 45 + "b.jpg" if dialect == tarfile.USTAR_FORMAT else LONG, "é.jpg"):
                member = tarfile.TarInfo(name)
                member.size = 700
                archive.addfile(member, io.BytesIO(b"x" * 700))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "t" * (90 if dialect == tarfile.USTAR_FORMAT else 300)
            archive.addfile(link)
        yield f"dialect {dialect}", buffer.getvalue()
    more = b"%011o\0%011o\0" % (0, 512)
    old = bytearray(entry(b"s.jpg", b"y" * 512, b"S", magic=b"ustar  \0", sparse=more * 4 + b"\x01" + b"%011o\0" % 2048))
    old[512:512] = more * 21 + b"\x00" * 8  # one block more of the map
    yield "old sparse", entry(b"a.jpg") + bytes(old) + entry(b"b.jpg") + END
    keywords = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s.jpg")]
    data = padded(b"1\n0\n3\n") + b"abc"
    yield "sparse 1.0", pax(*keywords, (b"GNU.sparse.realsize", b"3")) + entry(b"x", data) + entry(b"b.jpg") + END
    yield "size in pax", pax((b"size", b"3")) + header(b"a.jpg") + padded(b"abc") + entry(b"b.jpg") + END


ARCHIVES = dict(archives())


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_cut_at_any_byte_is_unfinished_and_nothing_else(name):
    data = ARCHIVES[name]
    whole = read(data)
    assert len(whole) >= 2
    end = len(data) - len(data) % 512
    while end >= 1024 and not data[end - 1024 : end].strip(b"\0"):
        end -= 512
    end += 512  # the shortest that still has both blocks of the end marker
    assert read(data[:end]) == whole
    for cut in range(end):
        with pytest.raises(ShardUnfinished):
            read(data[:cut])


# What becomes of each archive: the keys of its rows with their reasons, or the error that names the shard's state.
OK, LINK, LARGE = None, ExclusionReason.NOT_A_FILE, ExclusionReason.TOO_LARGE
DUPLICATE = ExclusionReason.DUPLICATE_KEY
ROWS: list[tuple[str, bytes, list[tuple[str, ExclusionReason | None]]]] = [
    ("path out of the archive: only ever a key", entry(b"../../etc/x.jpg") + entry(b"/abs/y.jpg"),
     [("../../etc/x", OK), ("/abs/y", OK)]),
    ("links, also in a circle, devices and FIFOs",
     b"".join(header(kind + b".jpg", 0, kind) for kind in (b"1", b"2", b"3", b"4", b"6")),
     [(key, LINK) for key in "12346"]),
    ("a link that claims data", header(b"a.jpg", 1 << 30, b"2") + entry(b"b.jpg"), [("a", LINK), ("b", OK)]),
    ("unknown types", entry(b"a.jpg", kind=b"Q") + entry(b"b.jpg", kind=b"\xff") + entry(b"c.jpg"),
     [("a", LINK), ("b", LINK), ("c", OK)]),
    ("directories", entry(b"d.jpg/", b"", b"5") + entry(b"e.jpg/", b"", b"\0") + entry(b"a.jpg"), [("a", OK)]),
    ("size in a PAX header", pax((b"size", b"3")) + header(b"a.jpg", 1 << 20) + padded(b"abc"), [("a", OK)]),
    ("NUL, newline and quotes in a PAX path", pax((b"path", b"a\0\n'\".jpg")) + entry(b"x"), [("a\0\n'\"", OK)]),
    ("a path that is not UTF-8", pax((b"hdrcharset", b"BINARY"), (b"path", b"\xff\xfe.jpg")) + entry(b"x"),
     [("\\xff\\xfe", OK)]),
    ("a lone surrogate in UTF-8", entry("\ud800.jpg".encode("utf-8", "surrogatepass")), [("\\xed\\xa0\\x80", OK)]),
    ("global headers with comments", pax((b"comment", b"x"), kind=b"g") + entry(b"a.jpg"), [("a", OK)]),
    ("sparse 0.0", pax((b"GNU.sparse.size", b"9" * 15), (b"GNU.sparse.offset", b"0")) + entry(b"a.jpg"), [("a", LINK)]),
    ("sparse 0.1", pax((b"GNU.sparse.map", b"0,%d" % (1 << 60)), (b"GNU.sparse.name", b"s.jpg")) + entry(b"a.jpg"),
     [("s", LINK)]),
    ("sparse 1.0 that claims terabytes",
     pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"%d" % (1 << 60)))
     + entry(b"a.jpg", padded(b"%d\n" % (1 << 40))) + entry(b"b.jpg"), [("a", LINK), ("b", OK)]),
    ("old sparse that claims terabytes", entry(b"a.jpg", b"x" * 512, b"S", sparse=bytes(97) + b"\x80" + b"\xff" * 10),
     [("a", LINK)]),
    ("more bytes than the limit", entry(b"a.jpg", b"x" * 3000) + entry(b"b.jpg"), [("a", LARGE), ("b", OK)]),
    ("one key many times", b"".join(entry(b"a.jpg") for _ in range(5)), [("a", OK)] + [("a", DUPLICATE)] * 4),
    ("a tar inside a tar is a member", entry(b"a.tar", entry(b"inner.jpg") + END), [("a", OK)]),
    ("no name", entry(b""), [("", OK)]),
    ("zeros behind the end", entry(b"a.jpg") + bytes(1 << 20), [("a", OK)]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "rows"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_strange_members_are_rows(data, rows):
    assert [(member.key, member.excluded) for member in read(data + END, max_bytes=2048)] == rows


ERRORS: list[tuple[str, bytes, type[Exception], str]] = [
    ("a header of a gigabyte", header(b"x", 1 << 30, b"x"), ShardUnfinished, "claims 1073741824 bytes"),
    ("a header above the limit", entry(b"x", bytes(2 << 20), b"L"), ShardCorrupt, "limit 1048576"),
    ("a size of 2**63", header(b"a.jpg", b"\x80" + bytes(2) + b"\x80" + bytes(8)), ShardUnfinished, "claims"),
    ("a negative size", header(b"a.jpg", b"\xff" * 12), ShardCorrupt, "invalid size"),
    ("a size with a sign", header(b"a.jpg", b"-7\0"), ShardCorrupt, "invalid size"),
    ("a size that is no number", header(b"a.jpg", b"1_0\0"), ShardCorrupt, "invalid size"),
    ("a PAX size that is no number", pax((b"size", b"1e3")) + entry(b"a.jpg"), ShardCorrupt, "invalid size"),
    ("a PAX size of 5,000 digits", pax((b"size", b"9" * 5000)) + entry(b"a.jpg"), ShardCorrupt, "invalid size"),
    ("a size too small", header(b"a.jpg", 1) + b"x" * 2048, ShardCorrupt, "checksum"),
    ("a PAX record with a wrong length", entry(b"x", b"99 path=a\n", b"x") + entry(b"a.jpg"), ShardCorrupt, "invalid record"),
    ("a PAX record of length 0", entry(b"x", b"0 path=a\n", b"x") + entry(b"a.jpg"), ShardCorrupt, "invalid record"),
    ("a global path", pax((b"path", b"same.jpg"), kind=b"g") + entry(b"a.jpg"), ShardCorrupt, "every entry"),
    ("a header without an entry", entry(b"a.jpg") + pax((b"path", b"b.jpg")), ShardCorrupt, "between an extended header"),
    ("two archives joined", entry(b"a.jpg") + END + entry(b"b.jpg"), ShardCorrupt, "after the end"),
    ("members behind one block of zeros", entry(b"a.jpg") + bytes(512) + entry(b"b.jpg"), ShardCorrupt, "after the end"),
    ("garbage behind the end", entry(b"a.jpg") + END + b"garbage" * 100, ShardCorrupt, "after the end"),
    ("something else", zlib.compress(b"x" * 10_000) + bytes(1024), ShardCorrupt, "byte 0"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "error", "text"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_archives_that_lie_are_refused_with_the_place(data, error, text):
    with pytest.raises(error, match=text):
        read(data + END)
    with pytest.raises(error, match=text):  # what is copied for training is read as what is scored
        list(raw_samples(io.BytesIO(data + END), len(data + END), {"a"}))


class Repeated(io.RawIOBase):
    """A stream that makes its bytes on the way, so that only the reader's memory counts."""

    def __init__(self, piece: bytes, times: int, tail: bytes) -> None:
        self._pieces = iter([piece] * times + [tail])
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, None)) is not None:
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


@pytest.mark.parametrize(
    ("piece", "times", "rows"),
    [
        (entry(b"n", b"d/" * 100 + b"\0", b"L"), 100_000, 1),
        (pax(*((b"SCHILY.%d" % number, b"x" * 50) for number in range(100))), 3_000, 1),
        (entry(b"a.jpg", b"x" * 100_000), 1_000, 1_001),
        (header(b"big.jpg", 20 << 20) + bytes(20 << 20), 3, 4),
    ],
    ids=["100,000 long names for one entry", "300,000 PAX keywords", "1,000 files of one key", "members above the limit"],
)
def test_memory_does_not_grow_with_the_archive(piece, times, rows):
    tail = entry(b"z.jpg") + END
    source = Repeated(piece, times, tail)
    tracemalloc.start()
    try:
        members = sum(1 for _ in TarReader(source, len(piece) * times + len(tail), 1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert members == rows
    assert peak < 3 * len(piece) + (4 << 20)


def test_100_000_tiny_members_in_the_memory_of_their_keys():
    class Numbered(Repeated):
        def __init__(self, count: int) -> None:
            self._pieces = (entry(b"%07d.jpg" % number) if number < count else END for number in range(count + 1))
            self._rest = b""

    count = 100_000
    tracemalloc.start()
    try:
        keys = sum(member.excluded is None for member in TarReader(Numbered(count), count * 1024 + 1024, 1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert keys == count
    assert peak < 200 * count


names = st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"]), min_size=1, max_size=300).map(
    lambda text: text.strip("/") + ".jpg"
)
kinds = st.sampled_from(
    [tarfile.REGTYPE, tarfile.CONTTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
)


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.tuples(names, kinds, st.binary(max_size=1200)), max_size=6),
)
def test_python_reads_the_same_entries(dialect, files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for name, kind, data in files:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = name if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        expected = [(m.name, m.type, m.size, m.offset_data) for m in archive]
    entries = EntryStream(HashingStream(io.BytesIO(buffer.getvalue())), len(buffer.getvalue()))
    found = [(e.name.rstrip("/") if e.is_directory else e.name, e.kind, e.size, e.offset) for e in entries]
    assert found == expected


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from(sorted(ARCHIVES)), st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(1, 255)), min_size=1, max_size=4)
)
def test_flipped_bytes_end_in_rows_or_in_one_of_two_errors(name, flips):
    data = bytearray(ARCHIVES[name])
    for place, change in flips:
        data[place % len(data)] ^= change
    try:
        read(bytes(data))
    except (ShardCorrupt, ShardUnfinished):
        return
