"""A byte stream that is hashed and counted while it is read."""

import hashlib
from typing import IO

_CHUNK = 1 << 16


class HashingStream:
    """Wraps a binary file; ``digest`` and ``position`` cover exactly what was read, in order, once."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._sha256.update(data)
        self.position += len(data)
        return data

    def drain(self) -> None:
        """Reads to the end in bounded memory."""
        while self.read(_CHUNK):
            pass

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()
