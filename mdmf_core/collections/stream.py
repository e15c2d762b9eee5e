"""A byte stream that is hashed and counted while it is read."""

import hashlib
from typing import IO

_ZEROS = bytes(1 << 16)


class HashingStream:
    """Wraps a binary file; ``digest`` and ``position`` cover exactly what was read, in order, once.

    ``trailing_zeros`` is the length of the run of zero bytes that the data read so far ends with.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self.position = 0
        self.trailing_zeros = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._sha256.update(data)
        self.position += len(data)
        tail = len(data) - len(data.rstrip(b"\0"))
        self.trailing_zeros = tail if tail < len(data) else self.trailing_zeros + tail
        return data

    def drain(self) -> None:
        """Reads to the end in bounded memory."""
        while self.read(len(_ZEROS)):
            pass

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()
