"""Content digests identify everything that changes a number."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch  # seconds to load: only where there are tensors


def sha256_hex(data: bytes) -> str:
    """Returns the lower-case hexadecimal sha256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def digest_of(record: Mapping[str, Any]) -> str:
    """Returns the sha256 (hex) of a JSON-like record, independent of key order.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256_hex(text.encode())


def short_id(digest: str) -> uuid.UUID:
    """Returns the first 128 bits of a sha256 as the UUID under which the warehouse stores it."""
    return uuid.UUID(hex=digest[:32])


def tensors_digest(tensors: Mapping[str, "torch.Tensor"]) -> str:
    """Returns the sha256 (hex) over names, dtypes, shapes and little-endian bytes, independent of order and device."""
    import torch

    total = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}\0{array.dtype}\0{tuple(array.shape)}\0".encode())
        total.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
