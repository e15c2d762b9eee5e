"""Files behind a URL: local disk or any object store that fsspec knows."""

import re
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from mdmf_core.errors import SourceError
from tasks.storage import retries as faults
from tasks.storage.local_files import atomic_path
from tasks.storage.retries import storage_errors, with_retries

_USER = re.compile(r"://[^/?#]*@|://[^/?#:]+:(?!:|\d{1,5}(?:[/?#]|$))")  # a key's secret may itself hold a slash
_SIGNED = re.compile(r"://.*[?&;](x-amz-|x-goog-|awsaccesskeyid|signature|sig|token|key|secret|password)[^=&]*=", re.IGNORECASE)


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
    """The filesystem of ``url`` and the path on it. S3 clients try once: ``FaultBudget`` alone tries again.

    Args:
        url: a local path, ``s3://...``, or any fsspec URL. S3 takes the standard AWS variables, AWS_ENDPOINT_URL included.
        block: name of a Prefect ``Secret`` block with fsspec options, in place of the AWS variables.
        listing: for a listing, whose pages the S3 client tries again one by one: a thousand pages would never come at once.

    Raises:
        SourceError: no such protocol, or the URL carries credentials: logs and the warehouse record every URL.
    """
    refuse_credentials(url)
    options = _block_options(block) if block and "://" in url else {}
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
    """Raises SourceError, without repeating the secret, when a URL carries a password, a key or a signature."""
    if _USER.search(url) or _SIGNED.search(url):
        raise SourceError(
            f"{url.partition('://')[0]}://...: a URL must not carry credentials, since it is logged and recorded. Give them by "
            "the AWS variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or by a Prefect Secret block (storage_block)"
        )


def _s3_options(options: dict[str, Any], tries: int) -> dict[str, Any]:
    config = {"retries": {"total_max_attempts": tries, "mode": "standard"}, "read_timeout": faults.LIMITS.stall}
    return options | {"config_kwargs": config | options.get("config_kwargs", {})}


def full_url(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """The one spelling under which a path is recorded: absolute for local files, with its protocol otherwise."""
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return path if protocol == "file" else f"{protocol}://{path}"


def fingerprint(entry: dict[str, Any]) -> str:
    """Of a listing's entry: changes when the store says that the content may have changed."""
    tag = entry.get("ETag") or entry.get("etag")
    changed = entry.get("LastModified") or entry.get("mtime") or entry.get("last_modified") or ""
    return str(tag).strip('"') if tag else f"{entry['size']}-{changed}"


def entry_of(url: str, filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """What the store says about a file or a folder; None if it is not there.

    Raises:
        SourceError: the store does not say.
    """

    def info() -> dict[str, Any] | None:
        try:
            entry: dict[str, Any] = filesystem.info(path)
        except FileNotFoundError:
            return None
        return entry

    return with_retries(url, info)


def listing(filesystem: fsspec.AbstractFileSystem, folder: str) -> list[dict[str, Any]]:
    """What a folder holds; nothing when it is not there.

    Raises:
        SourceError: the store does not say.
    """

    def entries() -> list[dict[str, Any]]:
        try:
            return list(filesystem.ls(folder, detail=True))
        except FileNotFoundError:
            return []

    return with_retries(full_url(filesystem, folder), entries)


def write_bytes(url: str, data: bytes, block: str | None = None) -> None:
    """Writes one file so that readers see all of it or what was there before. Once more changes nothing."""
    filesystem, path = open_storage(url, block)
    if "://" in url:
        with_retries(url, filesystem.pipe_file, path, data)
        return
    with storage_errors(url), atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
