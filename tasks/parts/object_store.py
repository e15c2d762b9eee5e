"""Stores parts, plans and leases in an object store that several machines share.

A small file is created by a PUT with ``If-None-Match: *``, which some stores ignore; ``heeds_create`` finds out. A large file
is written to a local file first and uploaded whole: an upload in several pieces appears when it completes. Its sha256 is
uploaded as metadata, so that a part need not be read again to learn its digest.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, ParamSpec, TypeVar

from mdmf_core.errors import ShardUnfinished, SourceError, WarehouseError
from tasks.storage.checked_reads import VerifiedFile, open_file
from tasks.storage.filesystems import fingerprint, is_s3, open_storage, upload
from tasks.storage.local_files import HashedFile, disk_errors, file_sha256
from tasks.storage.retries import FaultBudget, answered, if_there, reading_again, with_retries
from tasks.storage.s3_pages import files_of

P = ParamSpec("P")
T = TypeVar("T")
_BLOCK = 8 * 2**20
_SHA256 = "sha256"  # name of the metadata


@dataclass(frozen=True)
class Entry:
    """A file in a listing."""

    path: str  # or URL
    changed: float  # seconds since 1970 by the clock of disk or store


class Objects:
    """The parts store in an object store; every path is a URL."""

    def exists(self, path: str) -> bool:
        return _info(path) is not None

    def read(self, path: str) -> bytes | None:
        filesystem, key = open_storage(path)
        # With a range, s3fs does not ask for the file's length first.
        data: bytes | None = _if_there(path, filesystem.cat_file, key, start=0)
        return data

    def create(self, path: str, data: bytes) -> None:
        """Creates a file. If the answer to a PUT was lost, the next try finds its own data, and that counts as created."""
        try:
            self._create(path, data)
        except FileExistsError:
            if self.read(path) != data:
                raise

    def _create(self, path: str, data: bytes) -> None:
        filesystem, key = open_storage(path)

        def put() -> bool:
            try:
                filesystem.pipe_file(key, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if answered(error) != "PreconditionFailed":
                    raise
                return False
            return True

        if not _asked(path, put):
            raise FileExistsError(path)

    def heeds_create(self, path: str) -> bool:
        data = self.read(path)
        try:
            self._create(path, data or b"")
        except FileExistsError:
            return True
        return False

    def freshen(self, path: str, data: bytes) -> None:
        filesystem, key = open_storage(path)
        filesystem.pipe_file(key, data)

    def sign(self, path: str) -> str | None:
        entry = _info(path)
        return None if entry is None else f"{fingerprint(entry)} {entry.get('LastModified')}"

    def silent(self, path: str) -> float | None:
        """Gives None: this machine's clock and the store's may differ."""
        return None

    def remove(self, path: str) -> None:
        filesystem, key = open_storage(path)
        _if_there(path, filesystem.rm_file, key)

    def rename(self, path: str, to: str) -> None:
        filesystem, key = open_storage(path)
        _asked(path, filesystem.cp_file, key, open_storage(to)[1])
        self.remove(path)

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        filesystem, key = open_storage(folder)
        scheme = folder.partition("://")[0]
        try:
            return [Entry(f"{scheme}://{entry['name']}", _seconds(entry)) for entry in files_of(filesystem, key, prefix)]
        except SourceError as error:
            raise _refused(error) from error

    @contextmanager
    def writing(self, path: str) -> Iterator[HashedFile]:
        with tempfile.TemporaryDirectory(prefix="mdmf-") as folder:
            temporary = os.path.join(folder, os.path.basename(path))
            with disk_errors(temporary), HashedFile(temporary) as sink:
                yield sink
            with _warehouse_errors():
                upload(temporary, path, metadata={_SHA256: sink.sha256})

    @contextmanager
    def near(self, path: str) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="mdmf-") as folder:
            copy = os.path.join(folder, os.path.basename(path))
            with _warehouse_errors(), disk_errors(copy):
                _download(path, copy)
            yield copy

    @contextmanager
    def opened(self, path: str) -> Iterator[IO[bytes]]:
        with _warehouse_errors(), open_file(path) as file:
            yield file

    def digest(self, path: str) -> str | None:
        filesystem, key = open_storage(path)
        told = _if_there(path, filesystem.metadata, key) if is_s3(filesystem) else {}
        if told is None or not (told or self.exists(path)):
            return None
        if _SHA256 in told:
            digest: str = told[_SHA256]
            return digest
        with self.near(path) as copy:  # the file has no such metadata: another program wrote it, or the store keeps none
            return file_sha256(copy)


def _info(path: str) -> dict[str, Any] | None:
    filesystem, key = open_storage(path)
    entry: dict[str, Any] | None = _if_there(path, filesystem.info, key)
    return entry if entry and entry["type"] == "file" else None


@reading_again
def _download(path: str, copy: str) -> None:
    """Downloads a file. A broken read goes on where it broke; if the store has an MD5, it is compared at the end."""
    raw = VerifiedFile(*open_storage(path), FaultBudget.of_shard(), checksummed=True)
    with raw, open(copy, "wb") as file:
        shutil.copyfileobj(raw, file, _BLOCK)
        raw.verify()


def _seconds(entry: dict[str, Any]) -> float:
    changed = entry.get("LastModified") or entry.get("mtime") or entry.get("created")
    return changed.timestamp() if isinstance(changed, datetime) else float(changed or 0)


def _asked(path: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    with _warehouse_errors():
        return with_retries(path, function, *args, **kwargs)


def _if_there(path: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    with _warehouse_errors():
        return if_there(path, function, *args, **kwargs)


@contextmanager
def _warehouse_errors() -> Iterator[None]:
    """Turns what the store of the parts refuses into a WarehouseError: it is no fault of the shard that is being read."""
    try:
        yield
    except (SourceError, ShardUnfinished) as error:
        raise _refused(error) from error


def _refused(error: Exception) -> WarehouseError:
    return WarehouseError(f"the store of the warehouse's parts: {error}")
