"""Whether a sample of a shard is the image that a keep-list means."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from mdmf_core.collections.formats import SHARD_SUFFIXES
from mdmf_core.collections.tar import SIDECARS
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


def _require_same_image(sample: Sample, sha256: str, url: str, key: str) -> None:
    fields = (name for name in sample if not name.startswith("__") and name.lower() not in SIDECARS)
    data = sample.get(next(fields, ""))
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
