"""Writes files on the local disk whole or not at all, hashes them, and says what a full disk means."""

import errno
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mdmf_core.errors import WarehouseError


class HashedFile(io.BufferedWriter):
    """A new local file that is hashed while it is written from start to end."""

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Writes and hashes the bytes; how many there were."""
        self._sha256.update(data)
        return super().write(data)

    @property
    def sha256(self) -> str:
        """The digest, in hex, of everything that was written so far."""
        return self._sha256.hexdigest()


def file_sha256(path: str) -> str:
    """Computes the sha256 of a local file, in hex, in bounded memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: str) -> None:
    """Waits until the disk holds a local file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Gives a temporary name beside a local ``path``; what lies there is synced and renamed when the block ends well.

    When the block ends badly, the temporary file is removed.

    Raises:
        WarehouseError: the disk is full or read-only.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with disk_errors(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(os.path.dirname(path))  # the rename itself must survive a power cut
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)


@contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turns the errors of a full or read-only disk into one that says so; they are no fault of what was being read.

    Raises:
        WarehouseError: the disk of ``path`` is full or read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:
            raise WarehouseError(f"{path}: its disk is read-only; make it writable, or choose another place") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise disk_full(path, str(error)) from error


def disk_full(path: str, said: str) -> WarehouseError:
    """Words the error of a full disk, with the space that is left and what to do."""
    folder = os.path.dirname(path)
    return WarehouseError(
        f"no space for {path}: {shutil.disk_usage(folder).free / 2**20:.1f} MiB are left on its disk. Free some and run again; "
        f"nothing that is finished is lost ({' '.join(said.split())})"
    )
