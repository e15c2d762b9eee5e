"""Lists folders of an S3 bucket a page at a time: a million objects are never held, and nothing below the folder is listed.

Each page is one LIST request for at most a thousand names, and is retried by itself. Other stores list a folder at once.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import fsspec

from tasks.storage.filesystems import full_url, is_s3, listing
from tasks.storage.retries import with_retries

Page = list[dict[str, Any]]


def name_of(entry: dict[str, Any]) -> str:
    """The name of a listing's entry within its folder."""
    return str(entry["name"]).rpartition("/")[2]


def files_of(filesystem: fsspec.AbstractFileSystem, folder: str, prefix: str = "") -> Iterator[dict[str, Any]]:
    """Lists the files of a folder whose names begin with ``prefix``, sorted by name.

    Raises:
        SourceError: the store does not say.
    """
    if is_s3(filesystem):
        for page in pages(filesystem, folder, prefix):
            yield from page
        return
    filesystem.invalidate_cache(folder)
    files = [entry for entry in listing(filesystem, folder) if entry["type"] == "file" and name_of(entry).startswith(prefix)]
    yield from sorted(files, key=name_of)


def pages(filesystem: fsspec.AbstractFileSystem, folder: str, prefix: str = "") -> Iterator[Page]:
    """Lists the files of an S3 folder whose names begin with ``prefix``, sorted by name, a page at a time."""
    token: str | None = ""
    while token is not None:
        page, _, token = _page(filesystem, folder, prefix, ContinuationToken=token)
        yield page


def folders(filesystem: fsspec.AbstractFileSystem, folder: str, prefix: str = "") -> Iterator[str]:
    """Lists the folders in an S3 folder whose names begin with ``prefix``, sorted by name."""
    token: str | None = ""
    while token is not None:
        _, below, token = _page(filesystem, folder, prefix, ContinuationToken=token)
        yield from below


def pages_with(filesystem: fsspec.AbstractFileSystem, folder: str, names: Sequence[str]) -> Iterator[Page]:
    """Lists the pages of an S3 folder that hold those of the sorted ``names`` that exist, and little else.

    Files before the first name, after the last one, or in a gap of more than a page between two of them are not listed.
    """
    prefix, position, jumps = _common_prefix(names[0], names[-1]), 0, True
    after, token = names[0][:-1], None
    while position < len(names):
        where = {"StartAfter": after} if token is None else {"ContinuationToken": token}
        page, below, token = _page(filesystem, folder, prefix, **where)
        yield page
        if token is None:
            return
        if after and page and name_of(page[0]) <= after:
            jumps = False  # the store ignores StartAfter and gave its first page
        last = max([name_of(entry) for entry in page[-1:]] + [f"{path.rpartition('/')[2]}/" for path in below[-1:]], default="")
        position = bisect_left(names, last, lo=position)
        if position < len(names) and names[position] == last:
            position += 1
        after = names[position][:-1] if position < len(names) else ""
        if jumps and after > last > "":
            token = None


def _common_prefix(one: str, other: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _page(filesystem: fsspec.AbstractFileSystem, folder: str, prefix: str, **where: str) -> tuple[Page, list[str], str | None]:
    """Requests one page: its files, its folders and the token of the next page."""
    bucket, key, _ = filesystem.split_path(folder)
    root = f"{key.rstrip('/')}/" if key else ""
    if where.get("StartAfter"):
        where = {"StartAfter": root + where["StartAfter"]}
    request = {"Bucket": bucket, "Prefix": root + prefix, "Delimiter": "/"} | {name: at for name, at in where.items() if at}
    answer = with_retries(full_url(filesystem, folder), filesystem.call_s3, "list_objects_v2", **request)
    files = [
        entry | {"name": f"{bucket}/{entry['Key']}", "size": entry["Size"], "type": "file"}
        for entry in answer.get("Contents", [])
        if entry["Key"] != root  # the marker of an empty folder
    ]
    below = [f"{bucket}/{common['Prefix'].rstrip('/')}" for common in answer.get("CommonPrefixes", [])]
    return files, below, answer["NextContinuationToken"] if answer.get("IsTruncated") else None
