"""Source URLs: brace ranges, and which kind of collection a listing is."""

import re
from collections.abc import Iterable

from mdmf_core.errors import SourceError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_EXPANSION = 1_000_000


def expand_braces(pattern: str) -> list[str]:
    """Expands ``{00000..00099}`` and ``{a,b}`` as a shell would; widths are kept.

    Raises:
        SourceError: an empty or falling range, or more than a million names.

    >>> expand_braces("s3://b/{08..10}.tar")
    ['s3://b/08.tar', 's3://b/09.tar', 's3://b/10.tar']
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    body = match[1]
    span = _RANGE.fullmatch(body)
    if span:
        low, high, width = int(span[1]), int(span[2]), len(span[1])
        if high < low or high - low >= _MAX_EXPANSION:
            raise SourceError(f"range {{{body}}} in {pattern!r} must rise and hold at most {_MAX_EXPANSION} names")
        options: Iterable[str] = (f"{number:0{width}d}" for number in range(low, high + 1))
    elif "," in body:
        options = body.split(",")
    else:
        raise SourceError(f"{{{body}}} in {pattern!r} is neither a range like {{00000..00099}} nor a list like {{a,b}}")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    tails = expand_braces(tail)
    return [head + option + rest for option in options for rest in tails]


def shard_kind(path: str) -> str | None:
    """``tar`` or ``parquet`` by the name; None for anything else.

    Raises:
        SourceError: a compressed tar, which cannot be read by range or checked for its end.
    """
    name = path.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        raise SourceError(f"{path}: compressed tars are not supported; images do not compress, write plain .tar shards")
    return "tar" if name.endswith(".tar") else "parquet" if name.endswith(".parquet") else None
