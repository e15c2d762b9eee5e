"""Tar archives out of raw header blocks, so that tests can write what no library writes."""

END = bytes(1024)
FILE = b"0"


def header(name: bytes, size: int | bytes = 0, kind: bytes = FILE, magic: bytes = b"ustar\x0000", sparse: bytes = b"") -> bytes:
    """Writes a raw header block with a right checksum, whatever its fields say."""
    block = bytearray(512)
    block[: len(name)] = name
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    block[124 : 124 + len(field)] = field
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    block[386 : 386 + len(sparse)] = sparse
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def entry(name: bytes, data: bytes = b"x", kind: bytes = FILE, **fields: bytes) -> bytes:
    return header(name, len(data), kind, **fields) + padded(data)


def record(keyword: bytes, value: bytes) -> bytes:
    length = len(keyword) + len(value) + 3
    while len(b"%d" % length) + len(keyword) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(keyword) + len(value) + 3
    return b"%d %s=%s\n" % (length, keyword, value)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    return entry(b"pax", b"".join(record(*pair) for pair in records), kind)
