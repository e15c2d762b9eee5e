"""What a listing says of shards: size, fingerprint, and whether they are still being written."""

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import fsspec

from mdmf_core.collections.folder import file_role, slices
from mdmf_core.collections.formats import FORMATS, SHARD_SUFFIXES, is_shard, shard_kind
from mdmf_core.collections.text import readable
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import SourceError
from mdmf_core.records import Shard
from tasks.storage.filesystems import entry_of, fingerprint, full_url
from tasks.storage.retries import with_retries

_KINDS_SAID = 8  # in the line on what is not read
_log = logging.getLogger(__name__)
STATS = "_stats.json"  # img2dataset writes NNNNN_stats.json last: without it NNNNN.tar is unfinished


def require_folder(filesystem: fsspec.AbstractFileSystem, url: str) -> None:
    """Raises SourceError when something that is named like no shard is no folder."""
    if (entry_of(url, filesystem, filesystem._strip_protocol(url)) or {}).get("type") != "directory":
        raise SourceError(f"{url}: neither a folder nor a {' or '.join(SHARD_SUFFIXES)} shard, or it does not exist")


def shard_of(
    filesystem: fsspec.AbstractFileSystem, path: str, beside: Mapping[str, dict[str, Any]], by_img2dataset: bool
) -> Shard:
    """A shard as a listing has it.

    Args:
        beside: by path, what was listed of its folder: itself and its stats file, if they are there.
        by_img2dataset: whether img2dataset writes the folder, so that a tar without its stats file is unfinished.

    Raises:
        SourceError: a name that no table can hold, or that of no shard.
    """
    url, kind = full_url(filesystem, path), shard_kind(path)
    if readable(url) != url:
        raise SourceError(f"{readable(url)}: the name is not valid UTF-8, so no table can hold it; rename the file")
    if kind is None:
        raise SourceError(f"{url}: the pattern names files that are neither {' nor '.join(SHARD_SUFFIXES)}")
    entry = beside.get(path)
    if entry is None:
        return Shard(url, kind, -1, "", unfinished="not there (yet)")
    if not _is_file(entry):
        return Shard(url, kind, 0, "", unfinished="a FIFO, device, socket, folder or broken link, not a file")
    shard = Shard(url, kind, int(entry["size"]), fingerprint(entry))
    stem = path.rpartition(".")[0]
    if FORMATS[kind].stats_complete_it and by_img2dataset and stem + STATS not in beside:
        return replace(shard, unfinished=f"no {os.path.basename(stem)}{STATS} yet: img2dataset is still writing it")
    return shard


def _is_file(entry: dict[str, Any]) -> bool:
    """Whether reading it comes to an end. Links count as what they lead to; a FIFO would block, a device never end."""
    return entry["type"] == "file" or (entry.get("islink", False) and os.path.isfile(entry["name"]))


def folder_slices(filesystem: fsspec.AbstractFileSystem, path: str, per_slice: int) -> list[Shard]:
    """The slices of a folder of images, which is listed as a whole with all that lies below.

    Raises:
        SourceError: shards lie deeper down, or nothing is there but compressed tars.
    """
    root = path.rstrip("/") + "/"
    url = full_url(filesystem, path.rstrip("/"))
    entries = {name.removeprefix(root): entry for name, entry in with_retries(url, filesystem.find, path, detail=True).items()}
    files = [name for name, entry in entries.items() if _is_file(entry)]
    images = [name for name in files if file_role(name) == "image"]
    _require_no_shards(url, files, images)
    _say_what_is_not_read(url, files)
    parts = slices(images, per_slice)
    shards = []
    for number, keys in enumerate(parts):
        state = json.dumps([[key, fingerprint(entries[key])] for key in keys])
        size = sum(int(entries[key]["size"]) for key in keys)
        name = f"{url}#slice={number}of{len(parts)}"
        shards.append(Shard(name, "folder", size, sha256_hex(state.encode()), keys=keys))
    return shards


def _require_no_shards(url: str, files: list[str], images: list[str]) -> None:
    """Raises SourceError when a folder of images is none: shards lie deeper down, or compressed tars are all there is."""
    with_images = {os.path.dirname(name) for name in images}
    deeper = sorted(name for name in files if is_shard(name) and os.path.dirname(name) not in with_images)
    if deeper:
        suffix = os.path.splitext(deeper[0])[1]
        raise SourceError(
            f"{url}: holds {len(deeper)} shards deeper down, such as {readable(deeper[0])}; name their folder, "
            f"{url}/{readable(os.path.dirname(deeper[0]))}, or all of them, {url}/**/*{suffix}"
        )
    for name in files if not images else ():
        shard_kind(f"{url}/{name}")


def _say_what_is_not_read(url: str, files: list[str]) -> None:
    names = [name for name in files if file_role(name) == "other"]
    others = Counter(os.path.splitext(name)[1].lower() or os.path.basename(name) for name in names)
    if others:
        counted = ", ".join(f"{count} {readable(kind)}" for kind, count in others.most_common(_KINDS_SAID))
        more = f" and {len(others) - _KINDS_SAID} kinds more" if len(others) > _KINDS_SAID else ""
        _log.warning("%s: not read, since their names are not those of images: %s%s", readable(url), counted, more)
