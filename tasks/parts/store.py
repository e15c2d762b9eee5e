"""Where parts, plans and leases lie: on disk beside the warehouse, or under a prefix of an object store that machines share.

Both keep the same promises: a file is whole or not there, and of two who create the same name one wins. On disk that is a
flush and a rename, or a hard link; in an object store (`objects.py`) one request, or one that completes an upload.
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
    """Files by path or URL. What a disk refuses is an OSError, what an object store refuses a WarehouseError."""

    def exists(self, path: str) -> bool: ...

    def read(self, path: str) -> bytes | None:
        """A small file; None without one."""

    def create(self, path: str, data: bytes) -> None:
        """A small file, whole, and never over another's; raises FileExistsError."""

    def heeds_create(self, path: str) -> bool:
        """Whether ``create`` refuses a file that is there, as this one is."""

    def freshen(self, path: str, data: bytes) -> None:
        """Changes the ``sign`` of one's own file, in one try. ``data`` is what it may hold from now on, each time another."""

    def sign(self, path: str) -> str | None:
        """What every ``freshen`` changes; None without a file."""

    def silent(self, path: str) -> float | None:
        """Seconds since the last sign, where that can be told by this machine's clock; None elsewhere, or without a file."""

    def remove(self, path: str) -> None:
        """Nothing happens without a file."""

    def rename(self, path: str, to: str) -> None: ...

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        """The files of a folder whose names begin so, by name; none without a folder."""

    def writing(self, path: str) -> AbstractContextManager[HashedFile]: ...

    def near(self, path: str) -> AbstractContextManager[str]: ...

    def opened(self, path: str) -> AbstractContextManager[IO[bytes]]: ...

    def digest(self, path: str) -> str | None:
        """The sha256 with which the file was written, for which an object store need not send it; None without a file."""


def store_of(path: str) -> PartStore:
    """The store of a path or a URL. Object stores take the AWS variables: where leases are, no storage block is known."""
    return _OBJECTS if is_remote(path) else _DISK


def exists(path: str) -> bool:
    """Whether there is such a file."""
    return store_of(path).exists(path)


def remove(path: str) -> None:
    """Removes a file, if there is one."""
    store_of(path).remove(path)


def writing(path: str) -> AbstractContextManager[HashedFile]:
    """An open file that appears under ``path`` (or URL) when the block ends well, whole, and nowhere otherwise.

    Raises:
        WarehouseError: the disk is full or read-only, or the store does not take it.
    """
    return store_of(path).writing(path)


def near(path: str) -> AbstractContextManager[str]:
    """A local file with all the bytes for the length of the block: the file itself, or a copy from the store.

    Raises:
        WarehouseError: the store does not give it.
    """
    return store_of(path).near(path)


def opened(path: str) -> AbstractContextManager[IO[bytes]]:
    """A file of which some ranges are read, as they are asked for.

    Raises:
        WarehouseError: the store does not give it.
    """
    return store_of(path).opened(path)


class _Disk:
    """Paths."""

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def read(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def create(self, path: str, data: bytes) -> None:
        """By a hard link, which one of two who try gets."""
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
        os.utime(path, (now, now))  # of this clock, whatever a file server's says

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
        found = []
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # gone since
                    if name.startswith(prefix):
                        found.append(Entry(path, os.path.getmtime(path)))
        return found

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
