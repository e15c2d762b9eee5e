"""The shards of a source are listed here: local folders and patterns; buckets by ``bucket_listing``."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import fsspec

from mdmf_core.collections.brace_patterns import expand_braces
from mdmf_core.collections.formats import FILE_FORMATS, shard_kind
from mdmf_core.errors import SourceError
from mdmf_core.records import Shard
from tasks.collections.bucket_listing import paged
from tasks.collections.shard_entries import STATS, folder_slices, require_folder, shard_of
from tasks.storage.filesystems import is_s3, listing, open_storage, refuse_credentials
from tasks.storage.retries import with_retries


def iter_shards(source: str, images_per_slice: int, storage_block: str | None = None) -> Iterator[Shard]:
    """Every shard that ``source`` names, in order, as the listing goes; of a bucket no more than some pages are held.

    Args:
        source: tar or parquet shards by path, brace range or glob; a folder that holds shards; or a folder of images.

    Raises:
        SourceError: no access, or a kind of file that is not supported; at the end, when there was nothing.
    """
    if not source.strip():
        raise SourceError("the source is empty; name shards or a folder (is a variable of the shell not set?)")
    there, folders = False, dict[str, str]()
    urls = (_one_spelling(url, folders) for url in expand_braces(source))
    for shard in _listed(urls, images_per_slice, storage_block):
        there = there or shard.size_bytes >= 0
        yield shard
    if not there:
        raise SourceError(f"{source}: no shards or images there. Check the path, the pattern and the bucket")


def list_shards(source: str, images_per_slice: int, storage_block: str | None = None) -> list[Shard]:
    """Like ``iter_shards``, as a list: an error is raised before any shard is returned."""
    return list(iter_shards(source, images_per_slice, storage_block))


def listed(urls: Iterable[str], images_per_slice: int, storage_block: str | None = None) -> list[Shard]:
    """The shards of several sources without braces, as the URLs spell them; a shard that is not there has a size of -1.

    Raises:
        SourceError: no access, or a kind of file that is not supported.
    """
    return list(_listed(urls, images_per_slice, storage_block))


def _listed(urls: Iterable[str], images_per_slice: int, storage_block: str | None) -> Iterator[Shard]:
    held: dict[str, _Folder] = {}
    for number, (_, group) in enumerate(groupby(urls, key=os.path.dirname)):
        first = next(group)
        filesystem, _ = open_storage(first, storage_block, listing=True)
        if number == 0:
            filesystem.invalidate_cache()  # what an earlier run in this process saw
        if is_s3(filesystem):
            yield from paged(filesystem, chain([first], group), images_per_slice)
            continue
        for url in chain([first], group):
            yield from _from_whole_listings(filesystem, url, held, images_per_slice)


def _one_spelling(url: str, folders: dict[str, str]) -> str:
    """A local source by its real folder, so that ``..``, ``//``, links to folders and ``file://`` name no shard twice.

    What follows the first wildcard stays as it is, and so does the name of a shard: it may be a link to a file whose name
    tells no kind.

    Args:
        folders: real folder by spelling, so that a range of shards asks for its folder once. Grows here.
    """
    path = url.removeprefix("file://")
    if "://" in path:
        return url
    path = os.path.abspath(path) if ".." not in path.split("/") else os.path.join(os.getcwd(), path)
    wild = min((place for place in (path.find("*"), path.find("?")) if place >= 0), default=-1)
    folder = path if wild < 0 and os.path.isdir(path) else os.path.dirname(path if wild < 0 else path[:wild])
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    rest = path[len(folder) :].strip("/")
    return os.path.join(folders[folder], rest) if rest else folders[folder]


@dataclass(frozen=True)
class _Folder:
    """What a folder holds, listed once."""

    entries: dict[str, dict[str, Any]]
    by_img2dataset: bool


def _from_whole_listings(
    filesystem: fsspec.AbstractFileSystem, url: str, held: dict[str, _Folder], images_per_slice: int
) -> Iterator[Shard]:
    """What one URL names; a folder is listed once."""
    refuse_credentials(url)
    path = filesystem._strip_protocol(url)
    if "*" in path or "?" in path:
        found = sorted(with_retries(url, filesystem.glob, path))
    elif shard_kind(path) is None:
        require_folder(filesystem, url)
        found = _folder_shards(filesystem, path)
        if not found:
            yield from folder_slices(filesystem, path, images_per_slice)
    else:
        found = [path]
    for shard_path in found:
        folder = os.path.dirname(shard_path)
        if folder not in held:
            entries = {entry["name"]: entry for entry in listing(filesystem, folder)}
            held[folder] = _Folder(entries, any(name.endswith(STATS) for name in entries))
        yield shard_of(filesystem, shard_path, held[folder].entries, held[folder].by_img2dataset)


def _folder_shards(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """The shards of a folder, of the first format in the table that has any there."""
    names = [entry["name"] for entry in listing(filesystem, path)]
    shards = (sorted(filter(shard_format.names, names)) for shard_format in FILE_FORMATS)
    return next(filter(None, shards), [])
