"""Tar entries from a stream: ustar, GNU and PAX headers, in bounded memory, without recursion, nothing followed.

Python's own reader recurses once per extended header, holds such a header whole whatever size it claims, and ends an archive
silently at a damaged block. Here every block is an entry, the end, or an error that says whether more bytes could cure it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mdmf_core.collections.stream import HashingStream
from mdmf_core.errors import ShardCorrupt, ShardUnfinished

BLOCK = 512
MAX_HEADER = 1 << 20  # bytes of one extended header; real ones hold a path and some numbers
_CHUNK = 1 << 16
_FILES = (b"0", b"\0", b"7")
_DIRECTORY = b"5"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, directories and FIFOs: size is a hint
_LONG_NAME, _LONG_LINK, _OLD_SPARSE = b"L", b"K", b"S"
_PAX, _PAX_GLOBAL = (b"x", b"X"), b"g"
_RECORD = re.compile(rb"(\d{1,10}) ([^=]+)=")
_SPARSE = b"GNU.sparse."
_SPARSE_NAME = _SPARSE + b"name"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as its headers describe it."""

    name: str  # undecodable bytes as lone surrogates
    kind: bytes  # type flag of the header
    size: int  # bytes in the archive
    offset: int  # of the first of them
    sparse: bool
    headers: bytes = b""  # all of the entry that lies before its data; empty unless the stream keeps headers

    @property
    def is_file(self) -> bool:
        return self.kind in _FILES and not self.sparse

    @property
    def is_directory(self) -> bool:
        return self.kind == _DIRECTORY


class EntryStream:
    """Iterates the entries of an archive once; the data of the latest one may be read before the next is asked for.

    Args:
        stream: the archive, positioned at its start.
        size: bytes that the archive should have.
        keep_headers: gives every entry the bytes of its headers too, so that it can be copied as it is.
    """

    def __init__(self, stream: HashingStream, size: int, keep_headers: bool = False) -> None:
        self._stream = stream
        self._size = size
        self._next = 0  # where the next header starts
        self._headers: bytearray | None = bytearray() if keep_headers else None  # of the entry that comes next
        self.has_global_header = False  # so far

    def __iter__(self) -> Iterator[Entry]:
        """Raises ShardUnfinished (more bytes could make it whole) or ShardCorrupt (they could not)."""
        extended: dict[bytes, bytes] = {}
        pending = False  # an extended header waits for its entry
        while True:
            self._skip_to(self._next)
            start = self._next
            block = self._header_bytes(BLOCK)
            if not block.strip(b"\0"):
                if pending:
                    raise ShardCorrupt(f"the archive ends at byte {start} between an extended header and its entry")
                self._require_end_of_archive()
                return
            kind, size, name = _parsed(block, start)
            if kind in (_LONG_NAME, _LONG_LINK, _PAX_GLOBAL, *_PAX):
                extended |= _extended(kind, self._header(size, start), start)
                pending = pending or kind != _PAX_GLOBAL
                self.has_global_header = self.has_global_header or kind == _PAX_GLOBAL
                continue
            if kind == _OLD_SPARSE:
                self._sparse_blocks(block)
            yield self._entry(kind, size, name, extended)
            extended, pending = {}, False
            if self._headers is not None:
                self._headers.clear()

    def read(self, entry: Entry, most: int | None = None) -> bytes:
        """The data of the latest entry, or the first bytes of it."""
        return self._exactly(entry.size if most is None else min(entry.size, most))

    def read_padded(self, entry: Entry) -> bytes:
        """The data of the latest entry with the padding behind it, up to the next header."""
        return self._exactly(_padded(entry.size))

    def _entry(self, kind: bytes, size: int, name: bytes, extended: dict[bytes, bytes]) -> Entry:
        offset = self._stream.position
        name = extended.get(_SPARSE_NAME) or extended.get(b"path") or name
        if kind == b"\0" and name.endswith(b"/"):
            kind = _DIRECTORY  # as tars wrote it before there was a type for it
        if kind in _WITHOUT_DATA:
            size = 0
        elif extended.get(b"size"):
            size = _number(extended[b"size"], 10, f"size in the extended header before byte {offset}")
        sparse = kind == _OLD_SPARSE or _SPARSE in extended
        self._next = self._padded_end(offset, size)
        headers = bytes(self._headers or b"")
        return Entry(name.decode("utf-8", "surrogateescape"), kind, size, offset, sparse, headers)

    def _header(self, size: int, start: int) -> bytes:
        self._next = self._padded_end(self._stream.position, size)
        if size > MAX_HEADER:
            raise ShardCorrupt(f"the extended header at byte {start} claims {size} bytes, limit {MAX_HEADER}")
        return self._header_bytes(_padded(size))[:size]

    def _padded_end(self, offset: int, size: int) -> int:
        end = offset + _padded(size)
        if end > self._size:
            raise ShardUnfinished(f"the entry at byte {offset} claims {size} bytes, the archive ends at {self._size}")
        return end

    def _sparse_blocks(self, block: bytes) -> None:
        more = block[482]
        while more:
            more = self._header_bytes(BLOCK)[504]

    def _header_bytes(self, size: int) -> bytes:
        data = self._exactly(size)
        if self._headers is not None:
            self._headers += data
            if len(self._headers) > 2 * MAX_HEADER:
                where = f"before byte {self._stream.position}"
                raise ShardCorrupt(f"the headers of one entry {where} are longer than {2 * MAX_HEADER} bytes")
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        while len(data) < size:
            piece = self._stream.read(size - len(data))
            if not piece:
                raise ShardUnfinished(f"the archive ends inside an entry or before its end marker, at {self._stream.position}")
            data += piece
        return data

    def _skip_to(self, position: int) -> None:
        while self._stream.position < position:
            self._exactly(min(_CHUNK, position - self._stream.position))

    def _require_end_of_archive(self) -> None:
        """Nothing but zeros may follow the first block of zeros: members behind it would be lost unseen."""
        zeros = BLOCK
        while piece := self._stream.read(_CHUNK):
            if piece.strip(b"\0"):
                raise ShardCorrupt(f"data after the end of the archive, near byte {self._stream.position}: joined or damaged")
            zeros += len(piece)
        if zeros < 2 * BLOCK:
            raise ShardUnfinished("no end-of-archive marker: still being written, or cut off")


def _parsed(block: bytes, start: int) -> tuple[bytes, int, bytes]:
    """(type flag, size, name) of one header block."""
    where = f"tar header at byte {start}"
    stated = _number(block[148:156], 8, f"checksum of the {where}")
    summed = block[:148] + b" " * 8 + block[156:]
    total = sum(summed)
    if stated != total and stated != total - 256 * sum(byte > 127 for byte in summed):  # some old tars summed signed bytes
        raise ShardCorrupt(f"damaged {where}: its checksum is wrong")
    name, prefix = _until_nul(block[:100]), _until_nul(block[345:500])
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return block[156:157], _number(block[124:136], 8, f"size in the {where}"), name


def _number(field: bytes, base: int, where: str) -> int:
    """A number as tars write it: digits, or binary when its first bit is set."""
    if base == 8 and field[0] in (0x80, 0xFF):
        number = int.from_bytes(field[1:]) if field[0] == 0x80 else -1
    else:
        digits = _until_nul(field).strip() or b"0"
        try:
            number = int(digits, base) if digits.isdigit() else -1
        except ValueError:
            number = -1
    if number < 0:
        raise ShardCorrupt(f"invalid {where}: {field[:24]!r}")
    return number


def _extended(kind: bytes, data: bytes, start: int) -> dict[bytes, bytes]:
    """What an extended header says of the entry after it, as far as it is used: path, size, sparse or not."""
    if kind == _LONG_LINK:
        return {}
    if kind == _LONG_NAME:
        return {b"path": _until_nul(data)}
    records = _pax_records(data, start)
    used = {keyword: records[keyword] for keyword in (b"path", b"size", _SPARSE_NAME) if keyword in records}
    if any(keyword.startswith(_SPARSE) for keyword in records):
        used[_SPARSE] = b""
    if used and kind == _PAX_GLOBAL:
        raise ShardCorrupt(f"the global header at byte {start} sets a path or size for every entry after it")
    return used


def _pax_records(data: bytes, start: int) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        found = _RECORD.match(data, position)
        end = position + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ShardCorrupt(f"invalid record in the extended header at byte {start}: {data[position : position + 24]!r}")
        records[found[2]] = data[found.end() : end - 1]
        position = end
    return records


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
