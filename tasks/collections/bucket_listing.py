"""Shards of an S3 bucket from pages of its listing: whatever it holds, some pages are held, and no shard costs a request."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fsspec
from fsspec.utils import glob_translate

from mdmf_core.collections.formats import FILE_FORMATS, FORMATS, ShardFormat, shard_kind
from mdmf_core.errors import SourceError
from mdmf_core.records import Shard
from tasks.collections.shard_entries import STATS, folder_slices, require_folder, shard_of
from tasks.storage.filesystems import refuse_credentials
from tasks.storage.retries import with_retries
from tasks.storage.s3_pages import Page, folders, name_of, pages, pages_with

_NAMES = 10_000  # of shards that are looked up in one go
_WILD = re.compile(r"[*?\[]")


def paged(filesystem: fsspec.AbstractFileSystem, urls: Iterable[str], images_per_slice: int) -> Iterator[Shard]:
    """The shards that URLs of one folder name, in their order; a shard that is not there has a size of -1.

    Whether img2dataset writes a folder, so that a tar without its stats file is unfinished, is told by the first page of the
    folder and by the pages that are listed up to the shard.

    Raises:
        SourceError: no access, or a kind of file that is not supported.
    """
    named: list[str] = []
    for url in urls:
        refuse_credentials(url)
        path = filesystem._strip_protocol(url)
        pattern = "*" in path or "?" in path
        if not pattern and shard_kind(path) is not None:
            named.append(path)
            if len(named) < _NAMES:
                continue
        yield from _named(filesystem, named)
        named = []
        if pattern:
            yield from _matching(filesystem, url, path)
        elif shard_kind(path) is None:
            yield from _of_folder(filesystem, url, path, images_per_slice)
    yield from _named(filesystem, named)


def _named(filesystem: fsspec.AbstractFileSystem, paths: list[str]) -> Iterator[Shard]:
    """Shards of one folder by their names."""
    if not paths:
        return
    folder = os.path.dirname(paths[0])
    asked = {os.path.basename(path) for path in paths} | {
        os.path.basename(_stats(path)) for path in paths if _waits_for_stats(path)
    }
    found: dict[str, dict[str, Any]] = {}
    by_img2dataset = False
    for page in pages_with(filesystem, folder, sorted(asked)):
        by_img2dataset = by_img2dataset or _has_stats(page)
        found |= {entry["name"]: entry for entry in page if name_of(entry) in asked}
    if not by_img2dataset and any(_waits_for_stats(path) and path in found for path in paths):
        by_img2dataset = _has_stats(next(pages(filesystem, folder)))
    for path in paths:
        yield shard_of(filesystem, path, found, by_img2dataset)


def _matching(filesystem: fsspec.AbstractFileSystem, url: str, path: str) -> Iterator[Shard]:
    if "**" in path:  # everything below has to be listed
        for found in sorted(with_retries(url, filesystem.glob, path)):
            yield from _named(filesystem, [found])
        return
    folder, _, name = path.rpartition("/")
    for place in _places(filesystem, folder):
        yield from _in_order(filesystem, place, _WILD.split(name)[0], re.compile(glob_translate(name)).match)


def _places(filesystem: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    """The folders that a pattern names."""
    if not _WILD.search(folder):
        yield folder
        return
    above, _, name = folder.rpartition("/")
    if not above:
        raise SourceError(f"s3://{folder}: the bucket must be named")
    matches = re.compile(glob_translate(name)).match
    for place in _places(filesystem, above):
        yield from (found for found in folders(filesystem, place, _WILD.split(name)[0]) if matches(found.rpartition("/")[2]))


def _of_folder(filesystem: fsspec.AbstractFileSystem, url: str, path: str, images_per_slice: int) -> Iterator[Shard]:
    """The shards of a folder, of the first format in the table that has any there; without shards its slices of images."""
    require_folder(filesystem, url)
    path = path.rstrip("/")
    present: set[ShardFormat] = set()

    def wanted(shard_format: ShardFormat) -> Callable[[str], bool]:
        def wants(name: str) -> bool:
            present.update(other for other in FILE_FORMATS if other.names(name))
            return shard_format.names(name)

        return wants

    for number, shard_format in enumerate(FILE_FORMATS):
        if number == 0 or shard_format in present:
            yield from _in_order(filesystem, path, "", wanted(shard_format))
        if shard_format in present:
            return
    yield from folder_slices(filesystem, path, images_per_slice)


def _in_order(
    filesystem: fsspec.AbstractFileSystem, folder: str, prefix: str, wants: Callable[[str], object]
) -> Iterator[Shard]:
    """The shards of a folder whose names are wanted, by name; each as soon as its stats file has passed, or cannot come."""
    waiting: deque[dict[str, Any]] = deque()
    stats: dict[str, bool] = {}  # of those that wait: whether it is there

    def ready(name: str | None) -> Iterator[Shard]:
        while waiting and (name is None or _stats(name_of(waiting[0])) <= name or not _waits_for_stats(name_of(waiting[0]))):
            entry = waiting.popleft()
            path = str(entry["name"])
            beside = {path: entry} | ({_stats(path): {}} if stats.pop(_stats(name_of(entry)), False) else {})
            yield shard_of(filesystem, path, beside, by_img2dataset)

    by_img2dataset = bool(prefix) and _has_stats(next(pages(filesystem, folder)))
    for page in pages(filesystem, folder, prefix):
        by_img2dataset = by_img2dataset or _has_stats(page)
        for entry in page:
            name = name_of(entry)
            if name in stats:
                stats[name] = True
            elif wants(name):
                waiting.append(entry)
                stats[_stats(name)] = False
            yield from ready(name)
    yield from ready(None)


def _has_stats(page: Page) -> bool:
    return any(name_of(entry).endswith(STATS) for entry in page)


def _stats(path: str) -> str:
    return path.rpartition(".")[0] + STATS


def _waits_for_stats(path: str) -> bool:
    return any(FORMATS[kind].stats_complete_it for kind in (shard_kind(path),) if kind)
