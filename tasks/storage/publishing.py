"""Publishing directories that never change once they are there."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mdmf_core.errors import ArtifactError
from tasks.storage.filesystems import entry_of, open_storage, write_bytes
from tasks.storage.local_files import atomic_path, disk_errors, sync
from tasks.storage.retries import storage_errors, with_retries


def require_new(directory: str, storage_block: str | None) -> None:
    """Raises ArtifactError when the directory is there already."""
    filesystem, path = open_storage(directory, storage_block)
    if entry_of(directory, filesystem, path) is not None:
        raise ArtifactError(f"{directory} exists; what is published does not change: choose another name")


def publish(directory: str, contents: dict[str, bytes], storage_block: str | None) -> None:
    """Writes a directory so that readers see all of it or none: renamed locally, its card last on an object store.

    Raises:
        ArtifactError: it is there already.
    """
    require_new(directory, storage_block)
    write_directory(directory, contents, storage_block)


def write_directory(directory: str, contents: dict[str, bytes], storage_block: str | None) -> None:
    """The same for a name that holds a digest of the contents: what a killed writer left on an object store is written over.

    Raises:
        OSError: a local directory is there already.
    """
    if "://" in directory:
        for name, data in contents.items():  # the card comes last; without it this is no bank
            write_bytes(f"{directory}/{name}", data, storage_block)
        return
    _, path = open_storage(directory, storage_block)
    with storage_errors(directory), disk_errors(path):
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        os.makedirs(temporary)
        try:
            for name, data in contents.items():
                os.makedirs(os.path.dirname(os.path.join(temporary, name)), exist_ok=True)
                with open(os.path.join(temporary, name), "wb") as file:
                    file.write(data)
                    os.fsync(file.fileno())
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_directory(directory: str, last: str, storage_block: str | None) -> Iterator[str]:
    """A local folder to fill; ``directory`` appears with all of it when the block ends well.

    Local folders are renamed; on an object store the file ``last`` is uploaded last, so that without it nothing is complete.

    Raises:
        ArtifactError: it is there already; nothing is overwritten.
    """
    require_new(directory, storage_block)
    filesystem, path = open_storage(directory, storage_block)
    remote = "://" in directory
    path = path.rstrip("/") if remote else os.path.abspath(path)
    temporary = tempfile.mkdtemp(prefix="mdmf-") if remote else f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        os.makedirs(temporary, exist_ok=True)
        yield temporary
        names = sorted(os.listdir(temporary), key=lambda name: (name == last, name))
        with storage_errors(directory):
            for name in names:
                sync(os.path.join(temporary, name))
                if remote:
                    with_retries(directory, filesystem.put_file, os.path.join(temporary, name), f"{path}/{name}")
        if not remote:
            sync(temporary)
            require_new(directory, storage_block)
            os.rename(temporary, path)
            sync(os.path.dirname(path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(url: str, storage_block: str | None) -> Iterator[str]:
    """A local file to write, which appears under ``url`` whole when the block ends well: renamed, or uploaded."""
    filesystem, path = open_storage(url, storage_block)
    if "://" not in url:
        with atomic_path(os.path.abspath(path)) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="mdmf-") as folder:
        temporary = os.path.join(folder, os.path.basename(path))
        yield temporary
        with storage_errors(url):
            with_retries(url, filesystem.put_file, temporary, path)
