"""Opens, lists and uploads files by URL: on the local disk or in any store that fsspec knows."""

import base64
import hashlib
import os
import re
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from mdmf_core.errors import SourceError
from tasks.storage import retries as faults
from tasks.storage.retries import if_there, with_retries

_WEB = ("http://", "https://", "hf://", "ftp://")  # without listings, ETags or ranges to rely on
_USER = re.compile(r"://[^/?#]*@|://[^/?#:]+:(?!:|\d{1,5}(?:[/?#]|$))")  # a key's secret may itself hold a slash
_SIGNED = re.compile(r"://.*[?&;](x-amz-|x-goog-|awsaccesskeyid|signature|sig|token|key|secret|password)[^=&]*=", re.IGNORECASE)


def is_remote(url: str) -> bool:
    """Tells whether ``url`` names something in a store, rather than a path on the local disk."""
    return "://" in url


def absolute(url: str) -> str:
    """Makes a local path absolute; a URL stays as it is."""
    return url if is_remote(url) else os.path.abspath(url)


def is_s3(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Tells whether a filesystem speaks S3, so that it lists by page, names ETags and keeps metadata."""
    return "s3" in filesystem.protocol


@lru_cache(maxsize=32)
def _block_options(block: str) -> dict[str, Any]:
    from prefect.blocks.system import Secret  # seconds to load: only where there is a block

    value = Secret.load(block, _sync=True).get()  # type: ignore[call-arg, union-attr]
    if not isinstance(value, dict):
        raise SourceError(
            f"Prefect block secret/{block} must hold a JSON object of fsspec options such as "
            '{"key": ..., "secret": ..., "client_kwargs": {"endpoint_url": ...}}'
        )
    return value


def open_storage(url: str, block: str | None = None, listing: bool = False) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the filesystem of ``url`` and gives it with the path on it. S3 clients try once: ``FaultBudget`` alone retries.

    Args:
        url: a local path, ``s3://...``, or any fsspec URL of a store; the web is none. S3 takes the standard AWS
            variables, AWS_ENDPOINT_URL included.
        block: name of a Prefect ``Secret`` block with fsspec options, in place of the AWS variables.
        listing: whether the S3 client retries, which a listing needs: a thousand pages would never all come in one try.

    Raises:
        SourceError: no such protocol, or the URL carries credentials: logs and the warehouse record every URL.
    """
    refuse_credentials(url)
    if url.startswith(_WEB):
        raise SourceError(f"{url}: files are read from a local disk or s3://, not from the web; download them first")
    options = _block_options(block) if block and is_remote(url) else {}
    try:
        if not url.startswith(("s3://", "s3a://")):
            filesystem, path = url_to_fs(url, **options)
            return filesystem, path
        filesystem, path = url_to_fs(url, **_s3_options(options, 1))
        if listing:
            cache = filesystem.dircache  # so that what was listed need not be asked for again
            filesystem, path = url_to_fs(url, **_s3_options(options, faults.LIMITS.page_tries))
            filesystem.dircache = cache
    except (ImportError, ValueError) as error:
        raise SourceError(f"{url}: {error}") from error
    filesystem.retries = 1
    return filesystem, path


def refuse_credentials(url: str) -> None:
    """Refuses a URL that carries a password, a key or a signature.

    Raises:
        SourceError: it does; the message does not repeat the secret.
    """
    if _USER.search(url) or _SIGNED.search(url):
        raise SourceError(
            f"{url.partition('://')[0]}://...: a URL must not carry credentials, since it is logged and recorded. Give them by "
            "the AWS variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or by a Prefect Secret block (storage_block)"
        )


def _s3_options(options: dict[str, Any], tries: int) -> dict[str, Any]:
    config = {"retries": {"total_max_attempts": tries, "mode": "standard"}, "read_timeout": faults.LIMITS.stall}
    return options | {"config_kwargs": config | options.get("config_kwargs", {})}


def full_url(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """Gives the one spelling under which a path is recorded: absolute for local files, with its protocol otherwise."""
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return path if protocol == "file" else f"{protocol}://{path}"


def fingerprint(entry: dict[str, Any]) -> str:
    """Derives from a listing's entry a text that changes when the store says that the content may have changed."""
    tag = entry.get("ETag") or entry.get("etag")
    changed = entry.get("LastModified") or entry.get("mtime") or entry.get("last_modified") or ""
    return str(tag).strip('"') if tag else f"{entry['size']}-{changed}"


def entry_of(url: str, filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """Asks the store about a file or a folder; None if there is none.

    Raises:
        SourceError: the store does not say.
    """
    entry: dict[str, Any] | None = if_there(url, filesystem.info, path)
    return entry


def listing(filesystem: fsspec.AbstractFileSystem, folder: str) -> list[dict[str, Any]]:
    """Lists the entries of a folder; there are none if there is no folder.

    Raises:
        SourceError: the store does not say.
    """
    return list(if_there(full_url(filesystem, folder), filesystem.ls, folder, detail=True) or [])


def upload(file: str, url: str, block: str | None = None, metadata: dict[str, str] | None = None) -> None:
    """Sends a local file to a store, where it appears whole.

    Its MD5 goes along to S3, which refuses bytes that changed on the way: nobody has to read back what was sent. A file that
    is so large that it goes in pieces has no such header; then botocore adds a CRC32 to every piece.

    Args:
        metadata: what the object says of itself; stores other than S3 keep none.

    Raises:
        SourceError: the store does not take the file.
    """
    filesystem, path = open_storage(url, block)
    options: dict[str, Any] = {}
    if is_s3(filesystem):
        with open(file, "rb") as data:
            md5 = hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).digest()
        options = {"ContentMD5": base64.b64encode(md5).decode(), "Metadata": metadata or {}}
    with_retries(url, filesystem.put_file, file, path, **options)
