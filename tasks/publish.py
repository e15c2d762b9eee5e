"""Publishing directories that never change once they are there."""

import os
import shutil
import uuid

from mdmf_core.errors import ArtifactError
from tasks.faults import storage_errors
from tasks.storage import disk_errors, entry_of, open_storage, write_bytes


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
