"""Whether a sample of a shard is the image that a keep-list means."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from mdmf_core.collections.formats import SHARD_SUFFIXES
from mdmf_core.collections.samples import HEAD, SIDECARS, looks_like_image, main_image
from mdmf_core.errors import KeepListError

Sample = Mapping[str, Any]
_SHARD_NAME = re.compile(rf"[^\s'\"]+(?:{'|'.join(map(re.escape, SHARD_SUFFIXES))})\b")


def _components(url: str) -> list[str]:
    """Parts of a path, the last one first; of `pipe:` commands the word that names a shard."""
    if url.startswith("pipe:"):
        named = _SHARD_NAME.search(url.removeprefix("pipe:"))
        url = named[0] if named else url
    if "://" in url:
        url = url.partition("?")[0]
    return url.split("/")[::-1]


def _common(one: list[str], other: list[str]) -> int:
    """How many parts agree from the end."""
    agreeing = [a == b for a, b in zip(one, other, strict=False)]
    return agreeing.index(False) if False in agreeing else len(agreeing)


def images_of(sample: Sample, key: str) -> dict[str, Any]:
    """The images of a WebDataset sample by the keys under which they are scored: of several the main one, if it has one."""
    fields = {name: value for name, value in sample.items() if not name.startswith("__")}
    parts = {name: name.lower().rpartition(".") for name in fields}
    images = [name for name in fields if looks_like_image(parts[name][2], _head(fields[name]))]
    if not images:
        images = [name for name in fields if parts[name][2] not in SIDECARS][:1]
    main = main_image([(parts[name][0], name) for name in images])
    if main is not None:
        return {key: fields[main]}
    return {f"{key}.{parts[name][0]}": fields[name] for name in images}


def main_of(sample: Sample, key: str) -> dict[str, Any]:
    """The image of a sample whose own key is kept: the main one, or else the first."""
    images = images_of(sample, key)
    return {key: images.get(key, next(iter(images.values()), None))}


def _head(value: object) -> bytes:
    return value[:HEAD] if isinstance(value, bytes) else b""


def _require_same_image(data: object, sha256: str, url: str, key: str) -> None:
    if not isinstance(data, bytes):
        raise ValueError(
            f"{url}, {key}: its image is no longer bytes, so it cannot be compared with the one that was scored; filter before "
            'decoding, or open the keep-list with verify="none"'
        )
    _require_digest(data, sha256, url, key)


def _require_digest(data: bytes, sha256: str, url: str, key: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise KeepListError(
            f"{url}, {key}: sha256 {found[:12]} here, {sha256[:12]} when it was scored: another corpus, or it changed since"
        )
