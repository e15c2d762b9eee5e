"""Foreign text made fit to store: whatever the bytes were, it is valid Unicode and nothing is lost."""

import json


def readable(text: str) -> str:
    r"""Replaces what is not valid Unicode by a visible escape: undecodable bytes by ``\xNN``, lone surrogates by ``\uNNNN``.

    >>> readable("a\udcff.jpg")
    'a\\xff.jpg'
    >>> readable("plain é")
    'plain é'
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def original_url(sidecar: str | None) -> str | None:
    """The ``url`` of img2dataset's json, or None when there is no such json or no such field."""
    try:
        url = json.loads(sidecar).get("url") if sidecar else None
    except (ValueError, AttributeError, RecursionError):
        return None
    return readable(url) if isinstance(url, str) else None


def was_resized(sidecar: str | None) -> bool | None:
    """Whether img2dataset's json says that the image's size is not its original size; None when it does not say.

    >>> was_resized('{"width": 256, "height": 256, "original_width": 800, "original_height": 600}')
    True
    """
    try:
        record = json.loads(sidecar) if sidecar else None
        return (record["width"], record["height"]) != (record["original_width"], record["original_height"])  # type: ignore[index]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
