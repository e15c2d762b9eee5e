"""A decoder runs in a process of its own: it reads an encoded image on stdin and writes its pixels, or why not, to stdout.

``tasks.scoring.decoder_pool`` runs it as ``python -m tasks.scoring.decoder_process``. It starts often and holds hostile data,
so it imports only what decoding needs, has no secrets in its environment, and ends by itself: with its parent, or when an image
overruns its time.

A frame is a length of header and body, the header in JSON and the body as raw bytes. Nothing is unpickled on either side.
"""

import json
import os
import resource
import signal
import struct
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from mdmf_core.images.crops import CropPlan
from mdmf_core.images.decode import ImageLimits, decode
from mdmf_core.records import ExclusionReason, ImageExcluded

LENGTHS = struct.Struct(">IQ")  # of header and body
_STDERR_BYTES = 2**20
_GRACE_SECONDS = 10.0  # the parent, where it lives, ends an overrun before the alarm does


def frame(header: dict[str, Any], body_bytes: int) -> bytes:
    """Returns the beginning of a frame: lengths and header. The body follows it."""
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), body_bytes) + text


def answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], np.ndarray | None]:
    """Returns the reply to one image: its facts and its crops, or all its pixels where the header has no plan of crops.

    An image that is excluded gets its reason and detail, with the facts where it was decoded.
    """
    limits = ImageLimits(**header["limits"])
    facts: dict[str, Any] | None = None
    try:
        image = decode(data, limits)
        facts = asdict(image.facts)
        pixels = image.pixels if header["plan"] is None else CropPlan(**header["plan"]).cut(image.pixels)
    except ImageExcluded as excluded:
        return {"facts": facts, "reason": excluded.reason, "detail": excluded.detail}, None
    except MemoryError:
        detail = f"needs more memory than the {limits.max_memory} bytes that a decoder may use"
        return {"facts": facts, "reason": ExclusionReason.TOO_LARGE, "detail": detail}, None
    return {"facts": facts, "shape": pixels.shape}, pixels


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers images one at a time until the parent closes its end."""
    replies.write(frame({"ready": True}, 0))
    replies.flush()
    while len(lengths := requests.read(LENGTHS.size)) == LENGTHS.size:
        header_bytes, body_bytes = LENGTHS.unpack(lengths)
        header = json.loads(requests.read(header_bytes))
        data = requests.read(body_bytes)
        _limit(resource.RLIMIT_AS, header["limits"]["max_memory"])
        # The signal's default action ends the process even inside a C loop, and when no parent is left to do it.
        signal.setitimer(signal.ITIMER_REAL, header["limits"]["max_seconds"] + _GRACE_SECONDS)
        reply, pixels = answer(header, data)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(frame(reply, 0 if pixels is None else pixels.nbytes))
        if pixels is not None and pixels.size:
            replies.write(pixels.data)
        replies.flush()


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    with suppress(ValueError, OSError):  # a system that does not know this limit
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    warnings.simplefilter("ignore")
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _STDERR_BYTES)  # stderr is a file of the parent's; nothing else is written
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # whatever a library prints must not end in a frame
        with suppress(BrokenPipeError):
            serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
