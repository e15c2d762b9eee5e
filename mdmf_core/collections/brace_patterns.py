"""Brace patterns in source URLs."""

import re

import bracex

from mdmf_core.errors import SourceError

_RANGE = re.compile(r"\{((\d+)\.\.(\d+))\}")
_LITERAL = re.compile(r"\{[^{}]*\}")
_MAX_EXPANSION = 1_000_000


def expand_braces(pattern: str) -> list[str]:
    """Expands ``{00000..00099}``, ``{a,b}`` and their nestings as bash would; widths are kept.

    Stricter than bash where a slip would name shards that are not there: a falling range and braces that expand to nothing
    are refused.

    Raises:
        SourceError: such braces, or more than a million names.

    >>> expand_braces("s3://b/{val,train-{08..10}}.tar")
    ['s3://b/val.tar', 's3://b/train-08.tar', 's3://b/train-09.tar', 's3://b/train-10.tar']
    """
    if "{" not in pattern:
        return [pattern]
    for body, low, high in _RANGE.findall(pattern):
        if int(high) < int(low) or int(high) - int(low) >= _MAX_EXPANSION:
            raise SourceError(f"range {{{body}}} in {pattern!r} must rise and hold at most {_MAX_EXPANSION} names")
    try:
        names = bracex.expand(pattern, limit=_MAX_EXPANSION)
    except bracex.ExpansionLimitException as error:
        raise SourceError(f"{pattern!r} names more than {_MAX_EXPANSION} shards; split it over several sources") from error
    literal = next((found[0] for found in map(_LITERAL.search, names) if found), None)
    if literal:
        raise SourceError(f"{literal} in {pattern!r} is neither a range like {{00000..00099}} nor a list like {{a,b}}")
    return names
