"""Stores parts, plans and leases: on disk beside the warehouse, or in an object store that several machines share.

Both stores promise that a file is whole or not there, and that of two processes which create one name, one wins. The disk
keeps these promises by a flush and a rename, or a hard link; an object store by one request, or by one that completes an
upload (`object_store.py`).
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, Protocol

from tasks.parts.object_store import Entry, Objects
from tasks.storage.filesystems import is_remote
from tasks.storage.local_files import HashedFile, atomic_path, file_sha256


class PartStore(Protocol):
    """Files by path or URL. A disk that refuses raises an OSError, an object store a WarehouseError."""

    def exists(self, path: str) -> bool:
        """Tells whether there is such a file."""

    def read(self, path: str) -> bytes | None:
        """Reads a small file; None if there is none."""

    def create(self, path: str, data: bytes) -> None:
        """Writes a small file whole; raises FileExistsError if there is one already."""

    def heeds_create(self, path: str) -> bool:
        """Tells whether ``create`` refuses ``path``, a file that exists."""

    def freshen(self, path: str, data: bytes) -> None:
        """Changes the ``sign`` of a file, in one try. The file may hold ``data`` from now on, which differs each time."""

    def sign(self, path: str) -> str | None:
        """Reads the text that every ``freshen`` changes; None if there is no file."""

    def silent(self, path: str) -> float | None:
        """Tells how many seconds ago a file was freshened; None if this machine's clock cannot tell, or there is no file."""

    def remove(self, path: str) -> None:
        """Removes a file, if there is one."""

    def rename(self, path: str, to: str) -> None:
        """Gives a file another name."""

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        """Lists the files of a folder whose names begin with ``prefix``, sorted; there are none if there is no folder."""

    def writing(self, path: str) -> AbstractContextManager[HashedFile]:
        """Opens a file that appears whole when the block ends well, as the function ``writing`` below."""

    def near(self, path: str) -> AbstractContextManager[str]:
        """Gives a local file with all the bytes, as the function ``near`` below."""

    def opened(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Opens a file for reading ranges, as the function ``opened`` below."""

    def digest(self, path: str) -> str | None:
        """Tells the sha256 with which a file was written; an object store need not send the file. None if there is no file."""


def store_of(path: str) -> PartStore:
    """Chooses the store of a path or URL. Object stores take the AWS variables: a storage block belongs to the corpus alone."""
    return _OBJECTS if is_remote(path) else _DISK


def exists(path: str) -> bool:
    """Tells whether there is such a file."""
    return store_of(path).exists(path)


def remove(path: str) -> None:
    """Removes a file, if there is one."""
    store_of(path).remove(path)


def writing(path: str) -> AbstractContextManager[HashedFile]:
    """Opens a file that appears whole under ``path`` (or URL) when the block ends well, and nowhere otherwise.

    It is hashed while it is written, from start to end.

    Raises:
        WarehouseError: the disk is full or read-only, or the store does not take it.
    """
    return store_of(path).writing(path)


def near(path: str) -> AbstractContextManager[str]:
    """Gives a local file with all the bytes, for the length of the block: the file itself, or a copy from the store.

    Raises:
        WarehouseError: the store does not give the file.
    """
    return store_of(path).near(path)


def opened(path: str) -> AbstractContextManager[IO[bytes]]:
    """Opens a file of which only some ranges are read.

    Raises:
        WarehouseError: the store does not give the file.
    """
    return store_of(path).opened(path)


class _Disk:
    """The parts store on a local disk."""

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def read(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def create(self, path: str, data: bytes) -> None:
        """Writes the file under a temporary name and links it: of two processes that try, one gets the hard link."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        finally:
            os.remove(temporary)

    def heeds_create(self, path: str) -> bool:
        return True

    def freshen(self, path: str, data: bytes) -> None:
        now = time.time()
        os.utime(path, (now, now))  # by this machine's clock, since a file server's may differ

    def sign(self, path: str) -> str | None:
        try:
            return str(os.stat(path).st_mtime_ns)
        except FileNotFoundError:
            return None

    def silent(self, path: str) -> float | None:
        try:
            return time.time() - os.path.getmtime(path)
        except FileNotFoundError:
            return None

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.remove(path)

    def rename(self, path: str, to: str) -> None:
        os.replace(path, to)

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        files = []
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # removed since it was listed
                    if name.startswith(prefix):
                        files.append(Entry(path, os.path.getmtime(path)))
        return files

    @contextmanager
    def writing(self, path: str) -> Iterator[HashedFile]:
        with atomic_path(path) as temporary, HashedFile(temporary) as sink:
            yield sink

    @contextmanager
    def near(self, path: str) -> Iterator[str]:
        yield path

    def opened(self, path: str) -> AbstractContextManager[IO[bytes]]:
        return open(path, "rb")

    def digest(self, path: str) -> str | None:
        return file_sha256(path) if os.path.exists(path) else None


_DISK, _OBJECTS = _Disk(), Objects()
