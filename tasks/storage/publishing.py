"""Writes files and directories that appear whole or not at all, on the local disk and in stores."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mdmf_core.errors import ArtifactError
from tasks.storage.filesystems import absolute, entry_of, is_remote, open_storage, upload
from tasks.storage.local_files import atomic_path, disk_errors, sync
from tasks.storage.retries import storage_errors


@contextmanager
def whole_file(url: str, storage_block: str | None = None) -> Iterator[str]:
    """Gives the name of a local file to write, which appears whole under ``url`` when the block ends well.

    It is renamed on the local disk, uploaded to a store, and replaces what was there before.

    Raises:
        WarehouseError: the local disk is full or read-only.
        SourceError: the store does not take the file.
    """
    _, path = open_storage(url, storage_block)
    if not is_remote(url):
        with atomic_path(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="mdmf-") as folder:
        temporary = os.path.join(folder, os.path.basename(path))
        with disk_errors(temporary):
            yield temporary
        upload(temporary, url, storage_block)


def write_bytes(url: str, data: bytes, storage_block: str | None = None) -> None:
    """Writes a small file so that readers see all of it or what was there before.

    Raises:
        WarehouseError: the local disk is full or read-only.
        SourceError: the file cannot be written.
    """
    with storage_errors(url), whole_file(url, storage_block) as temporary, open(temporary, "wb") as file:
        file.write(data)


def require_new(directory: str, storage_block: str | None) -> None:
    """Refuses a directory that is there already; raises ArtifactError."""
    filesystem, path = open_storage(directory, storage_block)
    if entry_of(directory, filesystem, path) is not None:
        raise ArtifactError(f"{directory} exists; what is published does not change: choose another name")


@contextmanager
def new_directory(directory: str, last: str, storage_block: str | None, named_by_content: bool = False) -> Iterator[str]:
    """Gives a local folder to fill; ``directory`` appears with all of it when the block ends well.

    A local folder is renamed. To a store the file ``last`` is uploaded last: without it nothing is complete.

    Args:
        named_by_content: the name holds a digest of the contents. What a killed writer left in a store is then written over.

    Raises:
        ArtifactError: the directory is there already; nothing is overwritten.
        SourceError: the directory cannot be written.
        WarehouseError: the local disk is full or read-only.
    """
    remote = is_remote(directory)
    if not named_by_content:
        require_new(directory, storage_block)
    path = absolute(directory).rstrip("/")
    temporary = tempfile.mkdtemp(prefix="mdmf-") if remote else f"{path}.{uuid.uuid4().hex}.tmp"
    filled = temporary if remote else path  # whose disk may be full
    try:
        with disk_errors(filled):
            with storage_errors(directory):
                os.makedirs(temporary, exist_ok=True)
            yield temporary
            files = [os.path.join(folder, name) for folder, _, names in os.walk(temporary) for name in names]
            with storage_errors(directory):
                for file in sorted(files, key=lambda file: (file == os.path.join(temporary, last), file)):
                    sync(file)
                    if remote:
                        upload(file, f"{path}/{os.path.relpath(file, temporary)}", storage_block)
                if not remote:
                    sync(temporary)
                    os.rename(temporary, path)  # fails where another process was faster
                    sync(os.path.dirname(path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(directory: str, contents: dict[str, bytes], storage_block: str | None, named_by_content: bool = False) -> None:
    """Writes a ``new_directory`` of files by name; the last of them is its card, without which nothing is complete.

    Raises:
        ArtifactError: the directory is there already.
        SourceError: the directory cannot be written, or a local one under a ``named_by_content`` name is there already.
    """
    with new_directory(directory, list(contents)[-1], storage_block, named_by_content) as folder:
        for name, data in contents.items():
            file = os.path.join(folder, name)
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "wb") as target:
                target.write(data)
