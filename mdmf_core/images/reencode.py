"""Pixels are encoded and decoded again in memory, for the traces that a file format leaves in them."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def reencoded(pixels: UInt8[np.ndarray, "height width 3"], codec: str, **options: Any) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels after one round trip through JPEG, WebP or PNG.

    The file that is decoded here was made a line before, so unlike a foreign one it needs no process of its own.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, codec, **options)
    return np.asarray(Image.open(file, formats=[codec]).convert("RGB"))
