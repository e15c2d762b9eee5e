"""Which new shards the kept samples of a corpus go to."""

import posixpath
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from mdmf_core.collections.folder import slice_of
from mdmf_core.collections.formats import FORMATS
from mdmf_core.keeplists.keeplist import ListedShard


@dataclass(frozen=True, slots=True)
class NewShard:
    """One shard to write: the kept samples of whole source shards, in their order."""

    name: str  # path below the output
    sources: tuple[ListedShard, ...]

    @property
    def kind(self) -> str:
        """``tar`` or ``parquet``, by the format of its sources; the files of folders go to tars."""
        return FORMATS[self.sources[0].kind].copied_to

    @property
    def samples(self) -> int:
        return sum(shard.kept for shard in self.sources)


def under_same_names(shards: Iterable[ListedShard]) -> list[NewShard]:
    """A new shard for every one that keeps something, under its path below the folder that all have in common.

    Raises:
        ValueError: two shards would have one name, or a name would lead out of the output.
    """
    kept = [shard for shard in shards if shard.kept]
    paths = [_path(shard) for shard in kept]
    common = _common_folder(paths)
    names = [path.removeprefix(common) for path in paths]
    taken: set[str] = set()
    for name in names:
        if name in taken or ".." in name.split("/"):
            raise ValueError(f"{name} cannot be the name of a new shard; number the new shards instead (--shards-of)")
        taken.add(name)
    return [NewShard(name, (shard,)) for name, shard in zip(names, kept, strict=True)]


def renumbered(shards: Iterable[ListedShard], samples: int, keys: Callable[[ListedShard], Collection[str]]) -> list[NewShard]:
    """New shards ``00000.tar``, ``00001.tar``, ... of whole source shards, as many as hold at most ``samples`` together.

    Whole, so that every new shard can be made alone. A shard that keeps more than ``samples`` is not split. Shards that share a
    key do not come together, since two samples of one key in a tar are one to its readers.
    """
    groups: list[list[ListedShard]] = []
    room, held, kind = 0, set[str](), None
    for shard in shards:
        if not shard.kept:
            continue
        fits = kind == shard.kind and shard.kept <= room
        keeps_keys = not FORMATS[shard.kind].separate_files  # files get new keys where theirs clash
        if fits and keeps_keys:
            fits = held.isdisjoint(keys(shard))
        if not fits:
            groups.append([])
            room, held, kind = samples, set(), shard.kind
        groups[-1].append(shard)
        room -= shard.kept
        held.update(keys(shard) if keeps_keys else ())
    return [NewShard(f"{number:05d}.{FORMATS[group[0].kind].copied_to}", tuple(group)) for number, group in enumerate(groups)]


def tar_name(key: str, taken: Collection[str], sha256: str) -> str:
    """The name in a tar of a folder's file: only the extension has a dot, since WebDataset cuts a base name at its first.

    >>> tar_name("a.b/v1.0.jpg", {"c"}, "0123456789abcdef")
    'a.b/v1_0.jpg'
    >>> tar_name("a.png", {"a"}, "0123456789abcdef")
    'a_01234567.png'
    """
    stem, extension = posixpath.splitext(key)
    folder, base = posixpath.split(stem)
    stem = posixpath.join(folder, base.replace(".", "_"))
    return f"{stem}_{sha256[:8]}{extension}" if stem in taken else stem + extension


def _path(shard: ListedShard) -> str:
    """The URL as a relative path; slices of a folder are numbered inside it."""
    folder, number = slice_of(shard.shard_url.replace("://", "/").lstrip("/"))
    return f"{folder.rstrip('/')}/{int(number.partition('of')[0]):05d}.tar" if number else folder


def _common_folder(paths: list[str]) -> str:
    """What all paths begin with, up to and with the last slash that they share."""
    if not paths:
        return ""
    low, high = min(paths), max(paths)
    shared = next((place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low.rfind("/", 0, shared) + 1]
