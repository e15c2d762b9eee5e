"""Files behind a URL: local disk or any object store that fsspec knows."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from prefect.blocks.system import Secret

from mdmf_core.errors import SourceError


@lru_cache(maxsize=32)
def _block_options(block: str) -> dict[str, Any]:
    value = Secret.load(block, _sync=True).get()  # type: ignore[call-arg, union-attr]
    if not isinstance(value, dict):
        raise SourceError(
            f"Prefect block secret/{block} must hold a JSON object of fsspec options such as "
            '{"key": ..., "secret": ..., "client_kwargs": {"endpoint_url": ...}}'
        )
    return value


def open_storage(url: str, block: str | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of ``url`` and the path on it.

    Args:
        url: a local path, ``s3://...``, or any fsspec URL. S3 takes the standard AWS variables, AWS_ENDPOINT_URL included.
        block: name of a Prefect ``Secret`` block with fsspec options, in place of the AWS variables.
    """
    options = _block_options(block) if block and "://" in url else {}
    try:
        filesystem, path = url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{url}: {error}") from error
    return filesystem, path


def full_url(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """The one spelling under which a path is recorded: absolute for local files, with its protocol otherwise."""
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return path if protocol == "file" else f"{protocol}://{path}"


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns what stores raise into one clear SourceError that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(f"{url}: not found. Check the path, the bucket name and AWS_ENDPOINT_URL") from error
    except PermissionError as error:
        raise SourceError(f"{url}: access denied. Check the credentials and the bucket's policy") from error
    except OSError as error:
        raise SourceError(f"{url}: {type(error).__name__}: {error}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiobotocore", "aiohttp"):
            raise
        raise SourceError(f"{url}: {type(error).__name__}: {error}") from error


def read_bytes(url: str, block: str | None = None) -> bytes:
    """One small file, whole."""
    filesystem, path = open_storage(url, block)
    with storage_errors(url):
        data: bytes = filesystem.cat_file(path)
    return data


def file_sha256(path: str) -> str:
    """Of a local file, in hex, in bounded memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: str) -> None:
    """Waits until a local file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """A temporary name beside a local ``path``, fsynced and renamed to it when the block ends well, removed otherwise."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(os.path.dirname(path))  # the rename itself must survive a power cut
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
