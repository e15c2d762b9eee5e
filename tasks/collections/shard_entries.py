"""What a listing says of shards: size, fingerprint, and whether they are still being written."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import fsspec

from mdmf_core.collections.folder import IMAGE_SUFFIXES, slices
from mdmf_core.collections.formats import FORMATS, SHARD_SUFFIXES, shard_kind
from mdmf_core.collections.text import readable
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import SourceError
from mdmf_core.records import Shard
from tasks.storage.filesystems import entry_of, fingerprint, full_url
from tasks.storage.retries import with_retries

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
    """The slices of a folder of images, which is listed as a whole with all that lies below."""
    root = path.rstrip("/") + "/"
    url = full_url(filesystem, path.rstrip("/"))
    found = {
        name.removeprefix(root): entry
        for name, entry in with_retries(url, filesystem.find, path, detail=True).items()
        if name.lower().endswith(IMAGE_SUFFIXES) and _is_file(entry)
    }
    parts = slices(found, per_slice)
    shards = []
    for number, keys in enumerate(parts):
        entries = [found[key] for key in keys]
        state = json.dumps([[key, fingerprint(entry)] for key, entry in zip(keys, entries, strict=True)])
        size = sum(int(entry["size"]) for entry in entries)
        name = f"{url}#slice={number}of{len(parts)}"
        shards.append(Shard(name, "folder", size, sha256_hex(state.encode()), keys=keys))
    return shards
